"""From lines to tokens, with those marked that the loss is taken on: the answers, and nothing else.

A conversation is rendered turn by turn by the model's own template, so that what precedes an
answer is exactly what serving would have sent. The template comes with a file and is a program:
it is run by whoever gives `Chat`, within bounds. Knows a tokenizer by its calls; knows no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from meuse.core.errors import MeuseError, invalid
from meuse.train.llm.lines import Fault, Line

Turns = Callable[[int, bool], str]
"""(how many of the messages, whether an answer is to follow) → the text so far."""


class Chat(Protocol):
    """The model's chat template."""

    def turns(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]
    ) -> tuple[Turns, str]:
        """How this conversation reads, and the mark at which its text is cut before it is
        encoded, so that no word of a message becomes a control token."""
        ...


Encode = Callable[[str], list[int]]
"""Text → tokens, control tokens included, nothing added."""


@dataclass(frozen=True, slots=True)
class Words:
    """A tokenizer. `ends` are the tokens that end an answer, `begin` those before a raw text."""

    encode: Encode
    ends: frozenset[int]
    end: int
    begin: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One text: `tokens`, and as many flags, true where the loss is taken."""

    line: int
    tokens: tuple[int, ...]
    taught: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def answers(self) -> int:
        """Tokens that the loss is taken on."""
        return sum(self.taught)


@dataclass(frozen=True, slots=True)
class Made:
    """What became of the lines. `cut` are the lines that were cut at `max_tokens`."""

    examples: tuple[Example, ...]
    faults: tuple[Fault, ...]
    cut: tuple[int, ...]


def make(
    lines: Sequence[Line],
    words: Words,
    chat: Chat | None,
    max_tokens: int,
    refuse: bool = False,
    look: Callable[[int], None] = lambda done: None,
) -> Made:
    """Every line as an example of at most `max_tokens` tokens. One that is longer is cut at the
    end, or a fault with `refuse`; one of which no answer is left is a fault. `look` is called
    now and then with the number of lines done."""
    examples, faults, cut = [], [], []
    for done, line in enumerate(lines):
        look(done)
        try:
            example = encode(line, words, chat)
        except MeuseError as error:
            faults.append(Fault(line.number, error.message))
            continue
        if len(example) > max_tokens:
            count = f"it has {len(example):,} tokens; max_tokens is {max_tokens:,}"
            example = Example(line.number, example.tokens[:max_tokens], example.taught[:max_tokens])
            if refuse:
                faults.append(Fault(line.number, count))
                continue
            if not example.answers:
                faults.append(Fault(line.number, f"{count}, and no answer begins before that"))
                continue
            cut.append(line.number)
        examples.append(example)
    return Made(tuple(examples), tuple(faults), tuple(cut))


def encode(line: Line, words: Words, chat: Chat | None) -> Example:
    """One line. Raises `invalid_field` where the template refuses it or tells it in a way that
    cannot be followed turn by turn."""
    tokens: list[int] = []
    taught: list[bool] = []

    def add(ids: Sequence[int], learned: int = 0) -> None:
        tokens.extend(ids)
        taught.extend([True] * learned + [False] * (len(ids) - learned))

    if not line.messages:
        add([*words.begin, *words.encode(line.prompt)])
        answer = [*words.encode(line.completion), words.end]
        if not tokens:  # the first token has nothing to be told from
            add(answer[:1])
            answer = answer[1:]
        add(answer, len(answer))
        return Example(line.number, tuple(tokens), tuple(taught))
    if chat is None:
        raise _refused("the model has no chat template: use prompt and completion")
    turns, mark = chat.turns(line.messages, line.tools)

    def pieces(text: str) -> list[int]:
        return [token for part in text.split(mark) for token in words.encode(part)]

    so_far = ""
    for place in sorted(line.trained):
        asked, answered = turns(place, True), turns(place + 1, False)
        if not asked.startswith(so_far) or not answered.startswith(asked):
            raise _refused(
                f"messages[{place}]: the chat template tells earlier turns differently when "
                "later ones follow; use one answer per line"
            )
        add(pieces(asked[len(so_far) :]))
        answer = pieces(answered[len(asked) :])
        add(answer, _told(answer, words.ends))
        so_far = answered
    return Example(line.number, tuple(tokens), tuple(taught))


def _told(answer: Sequence[int], ends: frozenset[int]) -> int:
    """How many of an answer's tokens the model would give: to the one that ends it, where there
    is one. Templates write a newline behind, which nobody ever generates."""
    last = max((i for i, token in enumerate(answer) if token in ends), default=len(answer) - 1)
    return last + 1


def _refused(message: str) -> MeuseError:
    return invalid("messages", message)
