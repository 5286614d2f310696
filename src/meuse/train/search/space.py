"""What a search may vary: one dimension for each option, and points in the unit cube.

Knows names and ranges. Pure, and standard library only: the control process validates with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meuse.core.errors import MeuseError, invalid
from meuse.core.fields import known, real

MAX_DIMENSIONS = 16
MAX_CHOICES = 100

Accept = Callable[[str, Any], None]
"""(option, value): raises what a training with this value would be refused with."""


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; `log`: even in their logarithm."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> float | int:
        """The number that is `share` (from 0, below 1) of the way through the range."""
        # A whole number has an interval of 1 around it, so that the ends are as likely.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        value = min(max(value, self.low), self.high)
        if self.whole:
            return min(max(math.floor(value + 0.5), int(self.low)), int(self.high))
        return float(value)

    def to_dict(self) -> dict[str, Any]:
        low, high = (int(self.low), int(self.high)) if self.whole else (self.low, self.high)
        return {"low": low, "high": high, "log": self.log}


@dataclass(frozen=True, slots=True)
class Choices:
    """One of a few values, of any kind."""

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def to_dict(self) -> dict[str, Any]:
        return {"choices": list(self.values)}


Dimension = Range | Choices
Space = Mapping[str, Dimension]


def point(space: Space, shares: Sequence[float]) -> dict[str, Any]:
    """The parameters at a point of the unit cube, one share for each dimension, in order."""
    return {name: d.at(share) for (name, d), share in zip(space.items(), shares, strict=True)}


def parse(given: object, accept: Accept) -> dict[str, Dimension]:
    """A checked space, in the order of its names. Raises `invalid_field` that names the part
    at fault, such as `space.learning_rate.low`."""
    told = 'Such as {"learning_rate": {"low": 0.0001, "high": 0.1, "log": true}}.'
    if not isinstance(given, Mapping) or not given:
        raise invalid("space", "there is nothing to vary", told)
    if len(given) > MAX_DIMENSIONS:
        raise invalid(
            "space", f"{len(given)} options are too many", f"Vary at most {MAX_DIMENSIONS}."
        )
    return {str(name): _dimension(str(name), given[name], accept) for name in sorted(given)}


def overlaid(spec: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A train spec with these parameters; `config.hidden` is `hidden` of `config`."""
    made: dict[str, Any] = dict(spec)
    for name, value in parameters.items():
        first, _, rest = name.partition(".")
        if rest:
            inner = made.get(first)
            made[first] = overlaid(inner if isinstance(inner, Mapping) else {}, {rest: value})
        else:
            made[first] = value
    return made


def _dimension(name: str, given: object, accept: Accept) -> Dimension:
    field = f"space.{name}"
    if not isinstance(given, Mapping):
        raise invalid(
            field, f"{given!r} says no range", 'Use {"low": …, "high": …} or {"choices": […]}.'
        )
    if "choices" in given:
        known(given, ("choices",), f"{field}.")
        return _choices(name, field, given["choices"], accept)
    known(given, ("low", "high", "log"), f"{field}.")
    return _range(name, field, given, accept)


def _choices(name: str, field: str, values: object, accept: Accept) -> Choices:
    field = f"{field}.choices"
    if not isinstance(values, list | tuple) or not values:
        raise invalid(field, "there is nothing to choose from", "Give a list of values.")
    if len(values) > MAX_CHOICES:
        raise invalid(field, f"{len(values)} choices are too many", f"At most {MAX_CHOICES}.")
    for i, value in enumerate(values):
        _check(name, value, f"{field}[{i}]", accept)
        if value in values[:i]:
            raise invalid(f"{field}[{i}]", f"{value!r} is there twice", "Leave one out.")
    return Choices(tuple(values))


def _range(name: str, field: str, given: Mapping[str, Any], accept: Accept) -> Range:
    ends: dict[str, float] = {}
    for end in ("low", "high"):
        if end not in given:
            raise invalid(f"{field}.{end}", f"a range needs {end}", "Or use choices.")
        ends[end] = real(f"{field}.{end}", given[end], "Use a number.")
    low, high = ends["low"], ends["high"]
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise invalid(f"{field}.log", f"{log!r} is not true or false")
    if not low < high:
        raise invalid(f"{field}.high", f"{high:g} is not above low, {low:g}", "Swap them.")
    if log and low <= 0:
        raise invalid(f"{field}.low", f"a logarithmic range starts above 0, not at {low:g}")
    whole = _is_whole(name, low, high, accept)
    for end, value in ends.items():
        _check(name, int(value) if whole else value, f"{field}.{end}", accept)
    return Range(low, high, log, whole)


def _is_whole(name: str, low: float, high: float, accept: Accept) -> bool:
    """Whether the option takes whole numbers alone: then a fraction is refused, the ends not."""
    if not (low.is_integer() and high.is_integer()):
        return False
    try:
        accept(name, low + 0.5)
    except MeuseError:
        return True
    return False


def _check(name: str, value: Any, field: str, accept: Accept) -> None:
    """Refuse a value that no trial could have. What only goes wrong together with others is left
    to the trial that has them."""
    try:
        accept(name, value)
    except MeuseError as error:
        at = error.field or ""
        if at == name or at.startswith((f"{name}.", f"{name}[")):
            raise invalid(field, error.message, error.hint) from None
        if at and name.startswith(f"{at}."):
            raise invalid(field, error.message, error.hint) from None
