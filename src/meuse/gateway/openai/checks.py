"""What a value of an OpenAI parameter must be. Pure: value and name in, checked value out.

`None` never comes here: a parameter that is null is one that was not sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from meuse.core.errors import invalid
from meuse.core.ids import check_name

Check = Callable[[Any, str], Any]
"""(value, name) → what is kept of it. Raises `invalid_field` with the name."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_TOOLS = 128
MAX_SUFFIX = 64
MAX_STOPS = 16
_MAX_STOP = 256


def number(low: float, high: float) -> Check:
    def check(value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(name, "a number is wanted")
        if not low <= value <= high:
            raise invalid(name, f"{value} is not between {low:g} and {high:g}")
        return float(value)

    return check


def whole(low: int, high: int) -> Check:
    def check(value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(name, "a whole number is wanted")
        if not low <= value <= high:
            raise invalid(name, f"{value} is not between {low} and {high}")
        return value

    return check


def flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise invalid(name, "true or false is wanted")
    return value


def text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise invalid(name, "a text is wanted")
    return value


def named(value: Any, name: str) -> str:
    if not text(value, name):
        raise invalid(name, "it is empty", "GET /v1/models lists the models that you may call.")
    return str(value)


def file_id(value: Any, name: str) -> str:
    if not text(value, name):
        raise invalid(name, "it is empty", "Upload a file: POST /v1/files.")
    return str(value)


def one_of(*known: Any) -> Check:
    def check(value: Any, name: str) -> Any:
        if not any(value is k or (value == k and type(value) is type(k)) for k in known):
            raise invalid(name, f"{_shown(value)} is not offered", f"Use {_listed(known)}.")
        return value

    return check


def refused(hint: str, *harmless: Any) -> Check:
    """Not offered, but for values that ask for nothing."""

    def check(value: Any, name: str) -> None:
        if not any(value == k and type(value) is type(k) for k in harmless):
            raise invalid(name, "this is not offered", hint)

    return check


def stops(value: Any, name: str) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(stop, str) for stop in given):
        raise invalid(name, "a text, or a list of texts, is wanted")
    if len(given) > MAX_STOPS:
        raise invalid(name, f"{len(given)} stop sequences are more than {MAX_STOPS}")
    if any(not 0 < len(stop) <= _MAX_STOP for stop in given):
        raise invalid(name, f"a stop sequence has 1 to {_MAX_STOP} characters")
    return tuple(given)


def stream_options(value: Any, name: str) -> bool:
    """Whether the usage is wanted at the end of a stream."""
    if not isinstance(value, dict):
        raise invalid(name, "an object is wanted")
    flag(value.get("include_obfuscation") or False, f"{name}.include_obfuscation")
    return flag(value.get("include_usage") or False, f"{name}.include_usage")


def tools(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise invalid(name, "a list of tools is wanted")
    if len(value) > MAX_TOOLS:
        raise invalid(name, f"{len(value)} tools are more than {MAX_TOOLS}")
    for i, tool in enumerate(value):
        at = f"{name}[{i}]"
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise invalid(f"{at}.type", "only tools of the type 'function' are offered")
        function = tool.get("function")
        if not isinstance(function, dict):
            raise invalid(f"{at}.function", "an object is wanted")
        if not isinstance(function.get("name"), str) or not _NAME.fullmatch(function["name"]):
            raise invalid(f"{at}.function.name", "a name of 1 to 64 of a-z, A-Z, 0-9, _ and -")
        if not isinstance(function.get("description") or "", str):
            raise invalid(f"{at}.function.description", "a text is wanted")
        if not isinstance(function.get("parameters") or {}, dict):
            raise invalid(f"{at}.function.parameters", "a JSON schema is wanted")
    return value


def tool_choice(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        function = value.get("function")
        if value.get("type") != "function" or not isinstance(function, dict):
            raise invalid(name, 'an object here is {"type": "function", "function": {"name": …}}')
        text(function.get("name"), f"{name}.function.name")
        return value
    return one_of("none", "auto", "required")(value, name)


def response_format(value: Any, name: str) -> tuple[str, Any]:
    """(kind, the JSON schema where there is one)."""
    if not isinstance(value, dict):
        raise invalid(name, "an object is wanted")
    kind = one_of("text", "json_object", "json_schema")(value.get("type"), f"{name}.type")
    if kind != "json_schema":
        return kind, None
    described = value.get("json_schema")
    if not isinstance(described, dict):
        raise invalid(f"{name}.json_schema", "an object is wanted")
    if not isinstance(described.get("name"), str) or not _NAME.fullmatch(described["name"]):
        raise invalid(f"{name}.json_schema.name", "a name of 1 to 64 of a-z, A-Z, 0-9, _ and -")
    schema = described.get("schema")
    if not isinstance(schema, dict):
        raise invalid(f"{name}.json_schema.schema", "a JSON schema is wanted")
    return kind, schema


_PLACES: dict[str, Check] = {
    "n_epochs": whole(1, 50),
    "batch_size": whole(1, 256),
    "learning_rate_multiplier": number(1e-6, 1e6),
}


def hyperparameters(value: Any, name: str) -> dict[str, Any]:
    """Those that were given, by OpenAI's names; "auto" is as if it were not sent."""
    if not isinstance(value, dict):
        raise invalid(name, "an object is wanted")
    found = {}
    for key, given in value.items():
        if given is None or given == "auto":
            continue
        if key not in _PLACES:
            raise invalid(f"{name}.{key}", "this is not offered", f"Use {', '.join(_PLACES)}.")
        found[key] = _PLACES[key](given, f"{name}.{key}")
    return found


def method(value: Any, name: str) -> dict[str, Any]:
    """The hyperparameters of a supervised method."""
    if not isinstance(value, dict):
        raise invalid(name, "an object is wanted")
    one_of("supervised")(value.get("type"), f"{name}.type")
    for other in ("dpo", "reinforcement"):
        if value.get(other) is not None:
            raise invalid(f"{name}.{other}", "this is not offered", "Leave it out.")
    described = value.get("supervised") or {}
    if not isinstance(described, dict):
        raise invalid(f"{name}.supervised", "an object is wanted")
    at = f"{name}.supervised.hyperparameters"
    return hyperparameters(described.get("hyperparameters") or {}, at)


def suffix(value: Any, name: str) -> str:
    if len(text(value, name)) > MAX_SUFFIX:
        raise invalid(name, f"a suffix has up to {MAX_SUFFIX} characters")
    return check_name(value, name)


def metadata(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > 16:
        raise invalid(name, "metadata is not an object of up to 16 texts")
    for key, given in value.items():
        if not isinstance(given, str) or len(key) > 64 or len(given) > 512:
            raise invalid(
                f"{name}.{key[:64]}", "a key has up to 64 characters, a value is a text up to 512"
            )
    return value


def modalities(value: Any, name: str) -> None:
    if value != ["text"]:
        raise invalid(name, "only text is produced", 'Leave it out, or send ["text"].')


def _listed(known: tuple[Any, ...]) -> str:
    return ", ".join(_shown(k) for k in known)


def _shown(value: Any) -> str:
    return repr(value)[:60] if not isinstance(value, bool) else str(value).lower()
