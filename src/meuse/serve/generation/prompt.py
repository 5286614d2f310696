"""What is asked → the tokens of the prompt.

Users' words are text and nothing else: where they spell a control token (`<|im_end|>`), they are
cut there before they are encoded, so that only the template itself makes control tokens. A raw
`prompt` is its author's whole prompt, and may have them. Knows no engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError, invalid
from meuse.serve.generation.engine import Tokenizer
from meuse.serve.generation.messages import Ask

Render = Callable[[dict[str, Any]], str]
"""What the template is given → the prompt's text. Raises `MeuseError`."""

_PRIVATE = 0xE000  # the first character for private use, of 6,400


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` is what a caller who wants it echoed gets."""

    ids: NDArray[np.int64]
    max_tokens: int
    text: str = ""


class Reader:
    """Of one model."""

    def __init__(
        self, tokenizer: Tokenizer, context: int, vocabulary: int, render: Render | None
    ) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._most = 2 * context  # up to here tokens are counted: reading holds all others up
        self._vocabulary = vocabulary
        self._render = render
        self._special = sorted(tokenizer.special, key=len, reverse=True)

    def read(self, ask: Ask) -> Prompt:
        """Raises `invalid_field` for what is no prompt, and `context_length_exceeded` for one that
        is longer than the context window."""
        text = ask.prompt
        if ask.messages:
            field = "messages"
            ids = self._chat(ask)
        elif ask.prompt_ids:
            field = "prompt"
            self._check(len(ask.prompt_ids), field)
            if not all(0 <= number < self._vocabulary for number in ask.prompt_ids):
                raise invalid(
                    "prompt",
                    "a token is not in the vocabulary",
                    f"Tokens of this model are 0 to {self._vocabulary - 1}.",
                )
            ids = np.array(ask.prompt_ids, np.int64)
            text = self._tokenizer.decode(list(ask.prompt_ids)) if ask.echo else ""
        else:
            field = "prompt"
            ids = self._tokenizer.encode(ask.prompt, whole=True, most=self._most)
        count, wanted = len(ids), ask.sampling.max_tokens
        self._check(count, field)
        room = self._context - count
        return Prompt(ids, room if wanted is None else max(min(wanted, room), 1), text)

    def _check(self, count: int, field: str) -> None:
        if not count:
            raise invalid(field, "the prompt is empty", "Send at least one token.")
        if count >= self._context:
            told = count if count <= self._most else f"more than {self._most}"
            raise MeuseError(
                Code.CONTEXT_LENGTH_EXCEEDED,
                f"the prompt has {told} tokens, the model's context window {self._context}",
                field=field,
                hint=f"Send at most {self._context - 1} tokens, so that one can follow.",
            )

    def _chat(self, ask: Ask) -> NDArray[np.int64]:
        if self._render is None:
            raise invalid(
                "messages", "this model has no chat template", "Use /v1/completions with a prompt."
            )
        try:
            messages = msgspec.json.decode(ask.messages, type=list[dict[str, Any]])
            tools = msgspec.json.decode(ask.tools, type=list[dict[str, Any]]) if ask.tools else None
        except msgspec.MsgspecError as error:
            raise invalid("messages", f"the conversation is not understood: {error}") from None
        if not messages:
            raise invalid("messages", "the conversation is empty", "Send at least one message.")
        told, known, mark = words_alone(messages, tools or (), self._special)
        given: dict[str, Any] = {"messages": told}
        if known:
            given["tools"] = known
        text = self._render(given)
        return self._tokenizer.encode(*text.split(mark), most=self._most)


def words_alone(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], special: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """(messages, tools, mark) as a template is given them: the arguments of calls read, and then
    a mark, of which they have none, within every control token that a text spells. `special` has
    the longest first."""
    told = [_with_arguments(message) for message in messages]
    # As JSON without escapes: what a template writes, it has from these.
    spelled = json.dumps([told, list(tools)], ensure_ascii=False)
    mark = next(c for c in map(chr, range(_PRIVATE, _PRIVATE + 6400)) if c not in spelled)
    return _harmless(told, special, mark), _harmless(list(tools), special, mark), mark


def _harmless(value: Any, special: Sequence[str], mark: str) -> Any:
    if isinstance(value, str):
        for word in special:
            if word in value:
                value = value.replace(word, word[0] + mark + word[1:])
        return value
    if isinstance(value, list):
        return [_harmless(each, special, mark) for each in value]
    if isinstance(value, dict):
        return {
            _harmless(key, special, mark): _harmless(each, special, mark)
            for key, each in value.items()
        }
    return value


def _with_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """Calls of tools carry their arguments as JSON in a string; templates want what it says."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_read(call) for call in calls]}


def _read(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = msgspec.json.decode(function["arguments"])
    except msgspec.MsgspecError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
