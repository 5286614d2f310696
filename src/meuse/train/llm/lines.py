"""The lines of a file to fine-tune on: conversations, or prompts with their completions.

Every line is looked at before anything is spent, and every fault is told by its line. Knows
JSON; what a conversation is, it is told (`Normal`). Knows no tokenizer: control reads with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from meuse.core import jsonl
from meuse.core.errors import Code, MeuseError
from meuse.core.jsonl import LineError

MAX_LINES = 1_000_000
KEPT_FAULTS = 100
TOLD_FAULTS = 5
"""In an error's message; the job's log has the first `KEPT_FAULTS`."""

Normal = Callable[[Any], list[dict[str, Any]]]
"""(messages of a line) → messages as templates know them. Raises `invalid_field`."""

_CHAT = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
_COMPLETION = frozenset({"prompt", "completion"})


@dataclass(frozen=True, slots=True)
class Line:
    """One example. Either `messages` with at least one that is `trained` (by its position), or
    `prompt` and `completion`. `number` counts from 1."""

    number: int
    messages: tuple[dict[str, Any], ...] = ()
    trained: frozenset[int] = frozenset()
    tools: tuple[dict[str, Any], ...] = ()
    prompt: str = ""
    completion: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a line."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class Read:
    """What a file holds. `faults` are the first of `faulty` lines."""

    lines: tuple[Line, ...]
    faults: tuple[Fault, ...]
    faulty: int


def read(content: Iterable[bytes], normal: Normal) -> Read:
    """Lines of a file, each with or without its newline. Blank lines are passed over."""
    lines: list[Line] = []
    faults: list[Fault] = []
    faulty = 0
    for number, raw in jsonl.numbered(content):
        try:
            if len(lines) >= MAX_LINES:
                raise LineError(f"a file has at most {MAX_LINES:,} examples")
            lines.append(_line(number, raw, normal))
        except LineError as error:
            faulty += 1
            if len(faults) < KEPT_FAULTS:
                faults.append(Fault(number, str(error)))
    return Read(tuple(lines), tuple(faults), faulty)


def check(found: Read, field: str) -> tuple[Line, ...]:
    """The lines. Raises `invalid_data` at `field` that tells the faults by their lines."""
    if found.faulty:
        raise refused(field, found.faults, found.faulty)
    if not found.lines:
        raise MeuseError(Code.INVALID_DATA, "the file has no examples", field=field, hint=_HINT)
    return found.lines


def refused(field: str, faults: Sequence[Fault], faulty: int) -> MeuseError:
    """The error of a file with faulty lines."""
    told = "; ".join(map(str, faults[:TOLD_FAULTS]))
    more = faulty - min(len(faults), TOLD_FAULTS)
    if more:
        told += f"; and {more:,} more line{'s' if more > 1 else ''}"
    return MeuseError(Code.INVALID_DATA, told, field=field, hint=_HINT)


_HINT = (
    'A line is {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": '
    '"…"}]} or {"prompt": "…", "completion": "…"}.'
)


def _line(number: int, raw: bytes, normal: Normal) -> Line:
    body = jsonl.parse(raw)
    if "messages" in body:
        return _conversation(number, body, normal)
    if _COMPLETION & body.keys():
        return _completion(number, body)
    raise LineError("it has neither messages nor prompt and completion")


def _known(body: dict[str, Any], allowed: frozenset[str]) -> None:
    for name in body:
        if name not in allowed:
            raise LineError(f"there is no field {name[:80]!r} here")


def _completion(number: int, body: dict[str, Any]) -> Line:
    _known(body, _COMPLETION)
    for name in ("prompt", "completion"):
        if not isinstance(body.get(name), str):
            raise LineError(f"{name} is missing" if name not in body else f"{name} is no text")
    if not body["completion"].strip():
        raise LineError("completion is empty")
    return Line(number, prompt=body["prompt"], completion=body["completion"])


def _conversation(number: int, body: dict[str, Any], normal: Normal) -> Line:
    _known(body, _CHAT)
    try:
        messages = normal(body["messages"])
    except MeuseError as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise LineError(f"{error.field}: {error.message}{hint}") from None
    trained = set()
    for i, (message, given) in enumerate(zip(messages, body["messages"], strict=True)):
        at = f"messages[{i}]"
        role = message["role"]
        says = (message.get("content") or "").strip() or message.get("tool_calls")
        if not says and role != "tool":  # which may well have nothing to tell
            raise LineError(f"{at}.content: it is empty")
        weight = given.get("weight")
        if weight not in (None, 0, 1) or (weight is not None and role != "assistant"):
            raise LineError(f"{at}.weight: it is 0 or 1, of an assistant's message alone")
        if role == "assistant" and weight != 0:
            trained.add(i)
    if not trained:
        raise LineError("there is no assistant's message to learn from")
    if 0 in trained:
        raise LineError("messages[0]: nobody has spoken before the assistant")
    tools = [] if body.get("tools") is None else body["tools"]
    if not isinstance(tools, list) or not all(isinstance(t, dict) for t in tools):
        raise LineError("tools: a list of objects is wanted")
    return Line(number, tuple(messages), frozenset(trained), tuple(tools))
