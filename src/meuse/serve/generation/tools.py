"""Calls of tools within a model's text, by the family of its training.

`hermes`: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number, between other text.
`llama3`: the whole answer is `{"name": …, "parameters": {…}}`.
What turns out to be no call is given as the text that it is. Pure, and streaming: text that can
be no call is given at once, a call when it is complete.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from meuse.core.errors import invalid
from meuse.serve.generation.messages import Ask, Format
from meuse.serve.generation.text import tail

MAX_HELD = 1 << 20
"""Characters of a call that has not ended; a longer one is text."""

_DEFINITIONS = "#/$defs/"

Call = dict[str, object]
_decode = msgspec.json.decode


class Calls(Protocol):
    """Of one answer. `made`: whether a call was."""

    made: int

    def push(self, text: str) -> tuple[str, list[Call]]:
        """(text that is none of a call, calls that are complete)."""
        ...

    def end(self) -> tuple[str, list[Call]]:
        """Nothing more comes."""
        ...


class Hermes:
    """`<tool_call>` … `</tool_call>`."""

    _OPEN, _CLOSE = "<tool_call>", "</tool_call>"

    def __init__(self) -> None:
        self.made = 0
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
            elif (call := _call(before, self.made, "arguments")) is not None:
                self.made += 1
                self._after = False
                calls.append(call)
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
        call = _call(held, self.made, "arguments")  # ended by its token instead of the tag
        if call is None:
            return self._OPEN + held, []
        self.made += 1
        return "", [call]

    def _text(self, text: str) -> str:
        """Without the line breaks that follow a call."""
        if self.made and not self._after:
            text = text.lstrip()
            self._after = bool(text)
        return text


class Whole:
    """An answer that is one object, or nothing of it is a call. `field` holds the arguments."""

    def __init__(self, field: str) -> None:
        self.made = 0
        self._field = field
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
        call = _call(held, self.made, self._field)
        if call is None:
            return held, []
        self.made += 1
        return "", [call]


FAMILIES: dict[str, Callable[[], Calls]] = {
    "hermes": Hermes,
    "llama3": lambda: Whole("parameters"),
}
_FIELDS = {"hermes": "arguments", "llama3": "parameters"}


def prepared(ask: Ask, family: str) -> Ask:
    """What is asked with `tool_choice` carried out: without tools where none may be called, held
    to a call where one must be.

    Raises `invalid_field` at `tools` for a family that has no parser.
    """
    if not ask.tools:
        return ask
    choice = _choice(ask)
    if choice == "none":
        return msgspec.structs.replace(ask, tools=b"", tool_choice=b"")
    if family not in FAMILIES:
        raise invalid(
            "tools",
            "this model is of no family whose calls of tools are understood",
            f"Families: {', '.join(FAMILIES)}. Leave tools out, or use response_format.",
        )
    if choice == "auto":
        return ask
    tools = [tool["function"] for tool in _decode(ask.tools) if choice in ("required", _name(tool))]
    schema = json.dumps(_schema(tools, _FIELDS[family]), ensure_ascii=False).encode()
    return msgspec.structs.replace(ask, format=Format("json_schema", schema))


def parser(ask: Ask, family: str) -> Calls | None:
    """How the answer to what was `prepared` is read."""
    if not ask.tools:
        return None
    return FAMILIES[family]() if _choice(ask) == "auto" else Whole(_FIELDS[family])


def _choice(ask: Ask) -> str:
    """none, auto, required, or a space and the name of the one tool to call."""
    choice = _decode(ask.tool_choice) if ask.tool_choice else "auto"
    return choice if isinstance(choice, str) else _name(choice)


def _name(tool: Any) -> str:
    return f" {tool['function']['name']}"


def _schema(tools: Sequence[Any], field: str) -> dict[str, Any]:
    """Of one call of one of these. Definitions move to the root, where references look; a name
    that two tools use becomes two."""
    definitions: dict[str, Any] = {}
    kinds = []
    for number, tool in enumerate(tools):
        parameters = dict(tool.get("parameters") or {"type": "object"})
        own = parameters.pop("$defs", {})
        names = {name: f"{name}-{number}" for name in own if name in definitions}
        parameters = _referring(parameters, names)
        definitions |= {names.get(name, name): _referring(own[name], names) for name in own}
        kinds.append(
            {
                "type": "object",
                "properties": {"name": {"enum": [tool["name"]]}, field: parameters},
                "required": ["name", field],
                "additionalProperties": False,
            }
        )
    return {"anyOf": kinds} | ({"$defs": definitions} if definitions else {})


def _referring(value: Any, names: Mapping[str, str]) -> Any:
    """The same with its references to definitions that have new names."""
    if not names:
        return value
    if isinstance(value, list):
        return [_referring(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: _referring(each, names) for key, each in value.items()}
    reference = found.get("$ref")
    if isinstance(reference, str) and reference.startswith(_DEFINITIONS):
        name, *rest = reference.removeprefix(_DEFINITIONS).split("/")
        found["$ref"] = _DEFINITIONS + "/".join([names.get(name, name), *rest])
    return found


def _call(text: str, index: int, field: str) -> Call | None:
    """As OpenAI's deltas have it; None for what is no call."""
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        return None
    arguments = body.get(field, body.get("arguments", {}))
    return {
        "index": index,
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {
            "name": body["name"],
            "arguments": arguments
            if isinstance(arguments, str)
            else json.dumps(arguments, ensure_ascii=False),
        },
    }
