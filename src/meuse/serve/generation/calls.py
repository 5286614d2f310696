"""Calls of tools within a model's text.

What turns out to be no call is given as the text that it is. Pure, and streaming: text that can
be no call is given at once, a call when it is complete.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from meuse.serve.generation.text import tail

MAX_HELD = 1 << 20
"""Characters of a call that has not ended; a longer one is text."""
_MAX_HEAD = 256  # characters between a marker of Mistral's and the object that it announces

Call = dict[str, object]
Read = Callable[[str], tuple[str, str] | None]
"""What stands where a call should → its name and its arguments as JSON; None for no call."""


class Calls(Protocol):
    """Of one answer. `made`: how many there were."""

    made: int

    def push(self, text: str) -> tuple[str, list[Call]]:
        """(text that is none of a call, calls that are complete)."""
        ...

    def end(self) -> tuple[str, list[Call]]:
        """Nothing more comes."""
        ...


def first(calls: Calls, text: str) -> tuple[str, list[Call]]:
    """As `push`, and nothing of what follows the first call that is complete."""
    shown = ""
    for letter in text:
        more, made = calls.push(letter)
        shown += more
        if made:
            return shown, made
    return shown, []


def long_id() -> str:
    """As OpenAI's."""
    return f"call_{uuid.uuid4().hex[:24]}"


def short_id() -> str:
    """Templates of Mistral take no other: nine letters and digits."""
    return uuid.uuid4().hex[:9]


def json_call(text: str, field: str = "arguments") -> tuple[str, str] | None:
    """Of an object with a name, and the arguments in `field`."""
    try:
        body: Any = from_json(text)
        if not isinstance(body, dict) or not isinstance(body.get("name"), str):
            return None
        arguments = body.get(field, body.get("arguments", {}))
        return body["name"], arguments if isinstance(arguments, str) else to_json(arguments)
    except (ValueError, RecursionError):
        return None


def to_json(value: Any) -> str:
    """Raises RecursionError."""
    return json.dumps(value, ensure_ascii=False)


def from_json(text: str) -> Any:
    """Without NaN and its like, which are none. Raises ValueError or RecursionError."""
    return json.loads(text, parse_constant=_no_json)


def _no_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


class Hermes:
    """`<tool_call>` … `</tool_call>`, with what `read` understands between them."""

    _OPEN, _CLOSE = "<tool_call>", "</tool_call>"

    def __init__(self, read: Read = json_call) -> None:
        self.made = 0
        self._read = read
        self._held = ""
        self._inside = False
        self._after = False  # text followed the last call

    def push(self, text: str) -> tuple[str, list[Call]]:
        self._held += text
        shown, calls = "", list[Call]()
        while True:
            word = self._CLOSE if self._inside else self._OPEN
            at = self._held.find(word)
            if at < 0:
                break
            before, self._held = self._held[:at], self._held[at + len(word) :]
            if not self._inside:
                shown += self._text(before)
            elif (read := self._read(before)) is not None:
                calls.append(_call(self.made, *read, long_id()))
                self.made += 1
                self._after = False
            else:
                shown += self._text(self._OPEN + before + self._CLOSE)
            self._inside = not self._inside
        if not self._inside:
            keep = tail(self._held, self._OPEN)
            shown += self._text(self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
        elif len(self._held) > MAX_HELD:
            shown += self._OPEN + self._held
            self._held, self._inside = "", False
        return shown, calls

    def end(self) -> tuple[str, list[Call]]:
        held, self._held = self._held, ""
        if not self._inside:
            return self._text(held), []
        self._inside = False
        read = self._read(held)  # ended by its token instead of the tag
        if read is None:
            return self._OPEN + held, []
        self.made += 1
        return "", [_call(self.made - 1, *read, long_id())]

    def _text(self, text: str) -> str:
        """Without the line breaks that follow a call."""
        if self.made and not self._after:
            text = text.lstrip()
            self._after = bool(text)
        return text


class Whole:
    """An answer that is one object, or nothing of it is a call. `field` holds the arguments."""

    def __init__(self, field: str, new_id: Callable[[], str] = long_id) -> None:
        self.made = 0
        self._field = field
        self._new_id = new_id
        self._held = ""
        self._text = False

    def push(self, text: str) -> tuple[str, list[Call]]:
        if self._text:
            return text, []
        self._held += text
        begun = self._held.lstrip()
        if begun and (not begun.startswith("{") or len(begun) > MAX_HELD):
            self._text = True
            held, self._held = self._held, ""
            return held, []
        return "", []

    def end(self) -> tuple[str, list[Call]]:
        held, self._held = self._held, ""
        read = json_call(held, self._field)
        if read is None:
            return held, []
        self.made += 1
        return "", [_call(0, *read, self._new_id())]


class Mistral:
    """`[TOOL_CALLS]` and a list of calls; or the name of one, `[ARGS]` and its arguments, which
    begins with a `[TOOL_CALLS]` of its own, and may have a `[CALL_ID]` before `[ARGS]`.

    `mark` stands before each of these words that is a control token, so that the same letters
    within a text are text; "" where the tokenizer knows no such tokens.
    """

    WORDS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")

    def __init__(self, mark: str = "") -> None:
        self.made = 0
        self._mark = mark
        self._open, args, call_id = (mark + word for word in self.WORDS)
        open_, args, call_id = map(re.escape, (self._open, args, call_id))
        self._head = re.compile(
            rf"{open_}\s*(?:\[|([\w.-]+)\s*(?:{call_id}\s*\w*\s*)?(?:{args})?)\s*\{{"
        )
        self._held = ""  # from a marker or the end of a list's last call on, or what may be one
        self._inside = self._in_list = False
        self._name = ""  # in the form that names it before its arguments
        self._object: _Object | None = None
        self._after = False  # text followed the last call

    def push(self, text: str) -> tuple[str, list[Call]]:
        self._held += text
        shown, calls = "", list[Call]()
        while True:
            if not self._inside:
                more, again = self._outside()
            elif self._object is None:
                more, again = self._between()
            else:
                more, again = self._within(calls)
            shown += more
            if not again:
                return shown, calls

    def end(self) -> tuple[str, list[Call]]:
        held, self._held, self._inside = self._held, "", False
        return self._text(held), []

    def _outside(self) -> tuple[str, bool]:
        """(text, whether there is more to read), as the two that follow."""
        at = self._held.find(self._open)
        self._inside = at >= 0
        if at < 0:
            at = len(self._held) - tail(self._held, self._open)
        before, self._held = self._held[:at], self._held[at:]
        return self._text(before), self._inside

    def _between(self) -> tuple[str, bool]:
        """Before an object: behind the marker, or in a list behind another."""
        if self._in_list and (end := _LIST_END.match(self._held)):
            self._held = self._held[end.end() :]
            self._inside = self._in_list = False
            return "", True
        head = (_LIST_NEXT if self._in_list else self._head).match(self._held)
        if head:
            self._name = "" if self._in_list else head[1] or ""
            self._in_list = not self._name
            self._object = _Object(head.end() - 1)
            return "", True
        may_be = _LIST_BEGUN.fullmatch(self._held) if self._in_list else "{" not in self._held
        return self._no_call() if not may_be or len(self._held) > _MAX_HEAD else ("", False)

    def _within(self, calls: list[Call]) -> tuple[str, bool]:
        assert self._object is not None
        end = self._object.end(self._held)
        if not end:
            return self._no_call() if len(self._held) > MAX_HELD else ("", False)
        body = self._held[self._object.begin : end].replace(self._mark, "")
        read = _arguments(self._name, body) if self._name else json_call(body)
        if read is None:
            return self._no_call()
        calls.append(_call(self.made, *read, short_id()))
        self.made += 1
        self._held = self._held[end:]
        self._inside, self._object, self._after = self._in_list, None, False
        return "", True

    def _no_call(self) -> tuple[str, bool]:
        """The marker is text; what follows it may have another."""
        at = len(self._open) if self._held.startswith(self._open) else 0
        before, self._held = self._held[:at], self._held[at:]
        self._inside = self._in_list = False
        self._object = None
        return self._text(before), True

    def _text(self, text: str) -> str:
        """Without marks, and without the line breaks that follow a call."""
        text = text.replace(self._mark, "")
        if self.made and not self._after:
            text = text.lstrip()
            self._after = bool(text)
        return text


_LIST_NEXT = re.compile(r"\s*,\s*\{")
_LIST_END = re.compile(r"\s*\]")
_LIST_BEGUN = re.compile(r"\s*,?\s*")


class _Object:
    """One whose text comes in parts; it begins at `begin`."""

    def __init__(self, begin: int) -> None:
        self.begin = self._read = begin
        self._depth = 0
        self._quoted = self._escaped = False

    def end(self, text: str) -> int:
        """Where it ends in the text so far; 0: not yet."""
        for at in range(self._read, len(text)):
            letter = text[at]
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped, self._quoted = letter == "\\", letter != '"'
            elif letter == '"':
                self._quoted = True
            elif letter in "{}":
                self._depth += 1 if letter == "{" else -1
                if not self._depth:
                    return at + 1
        self._read = len(text)
        return 0


def _arguments(name: str, text: str) -> tuple[str, str] | None:
    try:
        return name, to_json(from_json(text))
    except (ValueError, RecursionError):
        return None


def _call(index: int, name: str, arguments: str, id: str) -> Call:
    """As OpenAI's deltas have it."""
    return {
        "index": index,
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
