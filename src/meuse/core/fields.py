"""Strict decoding of the fields of a spec, one function per kind of field.

Knows that values may come as text (query parameters) or as JSON; every refusal names the
field and what is allowed. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from meuse.core.errors import invalid

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def known(given: Mapping[str, Any], allowed: Collection[str], prefix: str = "") -> None:
    """Refuse the first field that is not allowed, by name."""
    for name in given:
        if name not in allowed:
            listed = ", ".join(sorted(allowed)) or "none"
            raise invalid(
                f"{prefix}{name}", f"there is no field {name!r} here", f"The fields are: {listed}."
            )


def choice(field: str, value: object, allowed: Collection[str]) -> str:
    """One of a few words, in any case."""
    word = value.strip().lower() if isinstance(value, str) else value
    if word not in allowed or not isinstance(word, str):
        raise invalid(field, f"{value!r} is not allowed", f"Use one of: {', '.join(allowed)}.")
    return word


def integer(field: str, value: object, low: int, high: int) -> int:
    """A whole number from `low` to `high`, as JSON or as text."""
    number: object = value
    if isinstance(value, str):
        text = value.strip()
        number = int(text) if _INTEGER.fullmatch(text) else value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        raise invalid(
            field, f"{value!r} is not allowed", f"Use a whole number from {low} to {high}."
        )
    return number


def real(field: str, value: object, told: str) -> float:
    """A finite number, as JSON or as text; `told` describes what is allowed."""
    number: object = value
    if isinstance(value, str):
        try:
            number = float(value) if "_" not in value else value
        except ValueError:
            number = value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise invalid(field, f"{value!r} is not a number", told)
    try:
        number = float(number)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise invalid(field, f"{value!r} is not a finite number", told)
    return number
