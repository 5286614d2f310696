"""Tools that a model may call, by the family of its training: what is asked of the engine for
them, and how its answer is read.

`hermes`: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number, between other text.
`llama3`: the whole answer is `{"name": …, "parameters": {…}}`.
`mistral`: `[TOOL_CALLS]` and a list of `{"name": …, "arguments": {…}}`, or a name, `[ARGS]` and
the arguments.
`qwen3_coder`: as hermes, with `<function=NAME>` and `<parameter=KEY>` in place of JSON.
A call that is forced is one object for all of them, which a grammar holds it to. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from meuse.core.errors import MeuseError, invalid
from meuse.serve.generation.calls import Calls, Hermes, Mistral, Whole, long_id, short_id
from meuse.serve.generation.messages import Ask, Format
from meuse.serve.generation.xmlcall import reader

_DEFINITIONS = "#/$defs/"
_decode = msgspec.json.decode


@dataclass(frozen=True, slots=True)
class Family:
    """`calls`: how its answers are read, from the tools as OpenAI describes them and from what
    stands before control tokens. `field` has the arguments of a call that is forced."""

    calls: Callable[[Sequence[Any], str], Calls]
    field: str = "arguments"
    new_id: Callable[[], str] = long_id
    words: tuple[str, ...] = ()
    """What may be control tokens, which are not text otherwise. The first begins a call."""


FAMILIES: Mapping[str, Family] = {
    "hermes": Family(lambda tools, mark: Hermes()),
    "llama3": Family(lambda tools, mark: Whole("parameters"), "parameters"),
    "mistral": Family(lambda tools, mark: Mistral(mark), new_id=short_id, words=Mistral.WORDS),
    "qwen3_coder": Family(lambda tools, mark: Hermes(reader(tools))),
}


def prepared(ask: Ask, family: str) -> Ask:
    """What is asked with `tool_choice` carried out: without tools where none may be called, held
    to a call where one must be.

    Raises `invalid_field` at `tools` for a family that has no parser.
    """
    if not ask.tools:
        return ask
    if _choice(ask) == "none":
        return msgspec.structs.replace(ask, tools=b"", tool_choice=b"")
    if family not in FAMILIES:
        raise invalid(
            "tools",
            "this model is of no family whose calls of tools are understood",
            f"Families: {', '.join(FAMILIES)}. Leave tools out, or use response_format.",
        )
    forced = _forced(ask)
    return msgspec.structs.replace(ask, format=_format(forced.values(), family)) if forced else ask


def check(ask: Ask, family: str, engine: Callable[[Format], None]) -> None:
    """Have the engine check what the answer to what was `prepared` is held to; it raises
    `invalid_field` at `response_format`.

    Raises it where the caller has sent it: at a tool's parameters, where a call is forced.
    """
    try:
        engine(ask.format)
    except MeuseError as error:
        forced = _forced(ask)
        if not forced:
            raise
        hint = "Mend the schema, or send tool_choice auto, which holds no call to it."
        for index, function in forced.items():
            try:
                engine(_format([function], family))
            except MeuseError as own:
                field = f"tools[{index}].function.parameters"
                raise invalid(field, own.message, hint) from None
        raise invalid("tools", f"{error.message} (all tools together)", hint) from None


def parser(ask: Ask, family: str, mark: str = "") -> Calls | None:
    """How the answer to what was `prepared` is read. `mark` stands before control tokens."""
    if not ask.tools:
        return None
    known = FAMILIES[family]
    if _forced(ask):
        return Whole(known.field, known.new_id)
    return known.calls(_decode(ask.tools), mark)


def _choice(ask: Ask) -> str:
    """none, auto, required, or a space and the name of the one tool to call."""
    choice = _decode(ask.tool_choice) if ask.tool_choice else "auto"
    return choice if isinstance(choice, str) else _name(choice)


def _forced(ask: Ask) -> dict[int, Any]:
    """The functions of which one must be called, by their places among the tools."""
    choice = _choice(ask) if ask.tools else "auto"
    if choice == "auto":
        return {}
    return {
        index: tool["function"]
        for index, tool in enumerate(_decode(ask.tools))
        if choice in ("required", _name(tool))
    }


def _name(tool: Any) -> str:
    return f" {tool['function']['name']}"


def _format(functions: Iterable[Any], family: str) -> Format:
    """A call of one of these."""
    schema = _schema(functions, FAMILIES[family].field)
    return Format("json_schema", json.dumps(schema, ensure_ascii=False).encode())


def _schema(tools: Iterable[Any], field: str) -> dict[str, Any]:
    """Of one call of one of these. Definitions move to the root, where references look; a name
    that two tools use becomes two."""
    definitions: dict[str, Any] = {}
    kinds = []
    for number, tool in enumerate(tools):
        parameters = dict(tool.get("parameters") or {"type": "object"})
        own: dict[str, Any] = {}
        if isinstance(parameters.get("$defs"), dict):  # otherwise the engine says what is wrong
            own = parameters.pop("$defs")
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
