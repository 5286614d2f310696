"""A call of a tool as Qwen3-Coder writes it: `<function=NAME>`, `<parameter=KEY>` a value
`</parameter>`, …, `</function>`.

Values are bare text: what a parameter's schema allows says what is text and what is a number, a
list or an object in JSON. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from meuse.serve.generation.calls import Read, from_json, to_json

_FUNCTION = re.compile(r"\s*<function=([^<>\s]+)>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(
    # The end is one that another parameter or nothing follows: a value may have such a tag.
    r"\s*<parameter=([^<>\s]+)>(.*?)</parameter>\s*(?=<parameter=|\Z)",
    re.DOTALL,
)
_PYTHON = {"True": "true", "False": "false", "None": "null"}  # as templates write them
_KINDS = {
    str: "string", bool: "boolean", int: "integer", float: "number", list: "array",
    dict: "object", type(None): "null",
}  # fmt: skip


def reader(tools: Sequence[Any]) -> Read:
    """Of calls of these tools, as OpenAI describes them."""
    properties = {tool["function"]["name"]: _properties(tool["function"]) for tool in tools}

    def read(text: str) -> tuple[str, str] | None:
        function = _FUNCTION.fullmatch(text)
        if function is None:
            return None
        name, body = function.groups()
        known = properties.get(name, {})
        arguments, at = {}, 0
        while at < len(body.rstrip()):
            found = _PARAMETER.match(body, at)
            if found is None:
                return None
            value = found[2].removeprefix("\n").removesuffix("\n")
            arguments[found[1]] = _value(value, known.get(found[1]))
            at = found.end()
        try:
            return name, to_json(arguments)
        except RecursionError:
            return None

    return read


def _properties(function: Mapping[str, Any]) -> dict[str, Any]:
    properties = (function.get("parameters") or {}).get("properties")
    return properties if isinstance(properties, dict) else {}


def _value(text: str, schema: Any) -> Any:
    """What the text says in JSON, where the schema allows that; otherwise the text."""
    kinds = _kinds(schema)
    try:
        value = from_json(_PYTHON.get(text.strip(), text))
    except (ValueError, RecursionError):
        return text
    kind = _KINDS[type(value)]
    return value if kind in kinds or (kind == "integer" and "number" in kinds) else text


def _kinds(schema: Any) -> set[str]:
    """The types that a schema allows, but for strings in quotes; a reference's are those that are
    no plain text."""
    if not isinstance(schema, dict):
        return set()
    told = schema.get("type")
    kinds = {kind for kind in (told if isinstance(told, list) else [told]) if isinstance(kind, str)}
    for word in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(word)
        for branch in branches if isinstance(branches, list) else ():
            kinds |= _kinds(branch)
    if not kinds and isinstance(values := schema.get("enum"), list):
        kinds = {_KINDS[type(value)] for value in values}
    if not kinds and "$ref" in schema:
        kinds = {"object", "array"}
    return kinds - {"string"}
