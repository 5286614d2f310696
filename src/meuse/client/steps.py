"""Steps and goals of a compression as they are typed: `prune(rate=0.9),share(bits=4),quantize`.

Knows the notation alone: what a method is and takes, the platform says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from meuse.core.errors import invalid

AUTO = "auto"
_STEP = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?:\((.*)\))?\s*", re.DOTALL)
_OPTION = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.]*)\s*=(.*)", re.DOTALL)
_HINT = "Such as prune(rate=0.9),share(bits=4),quantize or @steps.json."
_OPENING, _CLOSING = "([{", ")]}"


def parse_steps(text: str) -> str | list[dict[str, Any]]:
    """A list of steps, or `auto` as it is. Options are JSON, or else text; a dot leads into an
    object: `gate.max_drop=0.02`. Raises `invalid_field` (`steps`)."""
    if text.strip() == AUTO:
        return AUTO
    return [_step(part) for part in _parts(text)]


def parse_goals(goals: Iterable[str]) -> dict[str, Any]:
    """`max_drop=0.01` and the like, by name. Raises `invalid_field` (`goal`)."""
    found: dict[str, Any] = {}
    for text in goals:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise invalid("goal", f"{text!r} is not name=number", "Such as max_drop=0.01.")
        found[name.strip()] = _value(value)
    return found


def _step(text: str) -> dict[str, Any]:
    found = _STEP.fullmatch(text)
    if found is None:
        raise invalid("steps", f"{text.strip()!r} is not a step", _HINT)
    step: dict[str, Any] = {"method": found[1]}
    for part in _parts(found[2] or ""):
        option = _OPTION.fullmatch(part)
        if option is None:
            raise invalid("steps", f"{part.strip()!r} is not name=value", _HINT)
        *way, last = option[1].split(".")
        inner = step
        for name in way:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise invalid("steps", f"{option[1]} is given twice", _HINT)
        if last in inner:
            raise invalid("steps", f"{option[1]} is given twice", _HINT)
        inner[last] = _value(option[2])
    return step


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


def _parts(text: str) -> Iterator[str]:
    """What stands between the commas that are in no bracket and no quotes."""
    depth, start, quoted = 0, 0, False
    for at, sign in enumerate(text):
        if sign == '"' and (at == 0 or text[at - 1] != "\\"):
            quoted = not quoted
        elif quoted:
            continue
        elif sign in _OPENING:
            depth += 1
        elif sign in _CLOSING:
            depth -= 1
            if depth < 0:
                raise invalid("steps", f"a {sign!r} too many in {text!r}", _HINT)
        elif sign == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    if depth or quoted:
        raise invalid("steps", f"something is left open in {text!r}", _HINT)
    if text.strip():
        yield text[start:]
