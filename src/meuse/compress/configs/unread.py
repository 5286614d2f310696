"""Options that the others leave without effect: they are refused, not ignored.

An option that not every config reads is None unless it was sent; what reads it knows the default.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from meuse.core.errors import invalid


def check_read(config: msgspec.Struct, by: str, read: Mapping[Any, Collection[str]]) -> None:
    """Raises `invalid_field` at an option that was sent and that the value of `by` does not read.

    `read` has the options that are read by each value of the field `by`; others are left alone.
    """
    value = getattr(config, by)
    for name in dict.fromkeys(name for names in read.values() for name in names):
        if getattr(config, name) is None or name in read.get(value, ()):
            continue
        told = f"without {by}" if value is None else f"with {by} {value}"
        fits = [str(v) for v, names in read.items() if name in names and v is not None]
        hint = f"Leave {name} out, or set {by} to {' or '.join(fits)}."
        raise invalid(name, f"{name} has no effect {told}", hint)


def check_trains(epochs: int, learning_rate: float | None) -> None:
    """Raises `invalid_field` for a learning rate of no training."""
    if learning_rate is not None and not epochs:
        raise invalid(
            "learning_rate",
            "learning_rate has no effect with epochs 0",
            "Leave learning_rate out, or set epochs to 1 or more.",
        )
