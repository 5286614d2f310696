"""The lines of a file that language models are judged on. Every fault is told by its line.

Knows JSON; what a conversation is, it is told (`Normal`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from meuse.core import jsonl
from meuse.core.errors import Code, MeuseError
from meuse.core.jsonl import LineError

MAX_LINES = 100_000
MAX_CHOICES = 100
HINT = (
    'A line is {"text": "…"}, {"prompt": "…", "completion": "…"}, {"messages": [… the answer '
    'last]} or {"prompt": "…", "choices": ["…", "…"], "answer": 0}.'
)

Normal = Callable[[Any], list[dict[str, Any]]]
"""(messages of a line) → messages as templates know them. Raises `invalid_field`."""

ALLOWED = {
    "text": ("perplexity",),
    "answer": ("perplexity", "exact_match"),
    "choice": ("choice",),
}
"""The metrics of each kind of line."""
_FIELDS = {
    "text": {"text"},
    "answer": {"prompt", "messages", "completion"},
    "choice": {"prompt", "messages", "choices", "answer"},
}


@dataclass(frozen=True, slots=True)
class Line:
    """`kind` is one of `ALLOWED`. What comes before is `messages` (JSON) or `prompt`; what is
    judged is the one text of `answers`, or those to choose from, of which `right` is right."""

    number: int
    kind: str
    answers: tuple[str, ...]
    prompt: str = ""
    messages: bytes = b""
    right: int = 0


def read(content: Iterable[bytes], normal: Normal) -> list[Line]:
    """Blank lines are passed over. Raises `invalid_data` at `data` that names the first line
    with a fault."""
    found: list[Line] = []
    for number, raw in jsonl.numbered(content):
        try:
            if len(found) == MAX_LINES:
                raise LineError(f"a file has at most {MAX_LINES:,} lines")
            found.append(_line(number, raw, normal))
        except LineError as error:
            raise at_line(number, str(error)) from None
    if not found:
        raise MeuseError(Code.INVALID_DATA, "the file has no lines", field="data", hint=HINT)
    return found


def metrics_of(lines: Sequence[Line], asked: Sequence[str]) -> tuple[str, ...]:
    """What is measured: as asked, or what every line allows. Raises `invalid_data` naming the
    first line that does not."""
    if asked:
        for line in lines:
            for metric in asked:
                if metric not in ALLOWED[line.kind]:
                    raise at_line(line.number, f"it has nothing for the metric {metric}")
        return tuple(asked)
    common = ALLOWED[lines[0].kind]
    for line in lines:
        both = tuple(metric for metric in common if metric in ALLOWED[line.kind])
        if not both:
            raise at_line(
                line.number, f"it is of another kind than line {lines[0].number}: no metric is "
                "for both",
            )  # fmt: skip
        common = both
    return common


def at_line(number: int, message: str, hint: str = HINT) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, f"line {number}: {message}", field="data", hint=hint)


def _line(number: int, raw: bytes, normal: Normal) -> Line:
    body = jsonl.parse(raw)
    kind = "choice" if "choices" in body else "text" if "text" in body else "answer"
    for name in body:
        if name not in _FIELDS[kind]:
            raise LineError(f"there is no field {name[:80]!r} beside {sorted(_FIELDS[kind])}")
    if kind == "text":
        return Line(number, kind, (_text(body, "text"),))
    if kind == "choice":
        return _choice(number, body, normal)
    return _answer(number, body, normal)


def _choice(number: int, body: dict[str, Any], normal: Normal) -> Line:
    choices, right = body["choices"], body.get("answer")
    if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise LineError("choices: a list of texts is wanted, none of them empty")
    if not 2 <= len(choices) <= MAX_CHOICES:
        raise LineError(
            f"choices: there {'is one' if len(choices) == 1 else f'are {len(choices)}'}; "
            f"2 to {MAX_CHOICES} are wanted"
        )
    if isinstance(right, bool) or not isinstance(right, int):
        raise LineError("answer: the number of the right choice is wanted, from 0")
    if not 0 <= right < len(choices):
        raise LineError(f"answer: {right} is out of range; the choices are 0 to {len(choices) - 1}")
    prompt, messages = _before(body, body.get("messages"), normal)
    return Line(number, "choice", tuple(choices), prompt, messages, right)


def _answer(number: int, body: dict[str, Any], normal: Normal) -> Line:
    if "messages" not in body:
        if not body.keys() & {"prompt", "completion"}:
            raise LineError("it has no text, no completion, no messages and no choices")
        prompt, _ = _before(body, None, normal)
        return Line(number, "answer", (_text(body, "completion"),), prompt)
    if "completion" in body:
        raise LineError("completion: the answer to messages is the last of them")
    given = body["messages"]
    last = given[-1] if isinstance(given, list) and given else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise LineError("messages: the last one is not the assistant's")
    if not isinstance(last.get("content"), str) or not last["content"].strip():
        raise LineError(f"messages[{len(given) - 1}].content: a text is wanted, not empty")
    prompt, messages = _before(body, given[:-1], normal)
    return Line(number, "answer", (last["content"],), prompt, messages)


def _before(body: dict[str, Any], messages: Any, normal: Normal) -> tuple[str, bytes]:
    """(prompt, messages): one of them."""
    if "messages" not in body:
        return _text(body, "prompt"), b""
    if "prompt" in body:
        raise LineError("it has both prompt and messages")
    try:
        told = normal(messages)
    except MeuseError as error:
        raise LineError(f"{error.field}: {error.message}") from None
    return "", json.dumps(told, ensure_ascii=False).encode()


def _text(body: dict[str, Any], name: str) -> str:
    if not isinstance(body.get(name), str):
        raise LineError(f"{name} is missing" if name not in body else f"{name} is no text")
    if not body[name].strip():
        raise LineError(f"{name} is empty")
    return str(body[name])
