"""Typed options from JSON: msgspec does the checking, this gives its errors a field and a hint.

Knows msgspec and the platform's errors; knows no torch, because the control process
validates with it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from meuse.core.errors import MeuseError, invalid

T = TypeVar("T", bound=msgspec.Struct)

_AT = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")


def convert(given: object, kind: type[T], field: str = "") -> T:
    """`given` as `kind`; numbers and booleans may come as text.

    `field` is where the object stands in the request (`config`; "" for its top level).
    Raises `invalid_field` that names the part at fault (`config.hidden`).
    """
    if not isinstance(given, Mapping):
        raise invalid(field, f"{field or 'the spec'} is not an object", _options(kind))
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise _told(str(error), kind, field) from None
    except MeuseError as error:  # of a check that knows the part at fault itself
        error.field = ".".join(part for part in (field, error.field) if part)
        raise


def schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `kind`."""
    return msgspec.json.schema(kind)


def _told(message: str, kind: type[msgspec.Struct], prefix: str) -> MeuseError:
    at = _AT.search(message)
    path = at["path"].strip(".") if at else ""
    told = _AT.sub("", message)
    info = _part(inspect.type_info(kind), path)
    unknown = _UNKNOWN.match(told)
    if unknown is not None:
        told = f"there is no option {unknown['name']!r}"
        names = [name for part in _structs(info) for name in part.__struct_fields__]
        close = difflib.get_close_matches(unknown["name"], names, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        hint += _listed(names)
        path = f"{path}.{unknown['name']}".strip(".")
    else:
        told = told[:1].lower() + told[1:]
        hint = _allowed(info)
    where = ".".join(part for part in (prefix, path) if part)
    return invalid(where, told, hint or None)


def _part(info: inspect.Type, path: str) -> inspect.Type:
    """The type at a path such as `loss.gamma` or `hidden[0]`."""
    for name in re.findall(r"[^.\[\]]+", path):
        for option in _choices(info):
            if isinstance(option, inspect.StructType):
                found = next((f.type for f in option.fields if f.encode_name == name), None)
            else:
                found = getattr(option, "item_type", None)
            if found is not None:
                info = found
                break
    return info


def _choices(info: inspect.Type) -> list[inspect.Type]:
    while isinstance(info, inspect.Metadata):
        info = info.type
    return list(info.types) if isinstance(info, inspect.UnionType) else [info]


def _structs(info: inspect.Type) -> list[type[msgspec.Struct]]:
    return [part.cls for part in _choices(info) if isinstance(part, inspect.StructType)]


def _options(kind: type[msgspec.Struct]) -> str:
    return _listed(kind.__struct_fields__)


def _listed(names: Any) -> str:
    return f"Options: {', '.join(names)}." if names else "There is nothing to choose here."


def _allowed(info: inspect.Type) -> str:
    """What may stand there, in a sentence for each kind of value."""
    told = (_allowed_one(part) for part in map(_bare, _choices(info)))
    return " ".join(filter(None, told))


def _bare(info: inspect.Type) -> inspect.Type:
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info


def _allowed_one(info: inspect.Type) -> str:
    match info:
        case inspect.IntType() | inspect.FloatType():
            what = "a whole number" if isinstance(info, inspect.IntType) else "a number"
            return f"Use {what}{_range(info)}."
        case inspect.LiteralType():
            return f"Use one of: {', '.join(map(str, info.values))}."
        case inspect.BoolType():
            return "Use true or false."
        case inspect.VarTupleType():
            several = f" of {info.min_length} to {info.max_length}" if info.max_length else ""
            items = _allowed(info.item_type).removeprefix("Use ").rstrip(".")
            return f"Use a list{several}, each {items}."
        case inspect.StructType():
            return _options(info.cls)
    return ""


def _range(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" from {info.ge} to {info.le}"
    bounds = {"above": info.gt, "at least": info.ge, "at most": info.le, "below": info.lt}
    told = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
    return f" {' and '.join(told)}" if told else ""
