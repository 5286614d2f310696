"""What a counter costs as it rises: one curve for each price rule. Pure and exact.

A curve is asked for the part between two counts of a period, so that usage under several
versions of a plan, and on several invoices, adds up to what it costs as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from itertools import pairwise

from meuse.core.plans import Price, Step

PRECISION = 120
"""Digits: sums and products of 19-digit counts and 36-digit prices are exact, and what is
divided (by `per`, once, at the end) is far from a tie unless it is one."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Units of one step of a price. `cost` is their amount times the price's `per`, exactly."""

    up_to: int | None
    quantity: int
    unit_price: str
    cost: Decimal
    flat: Decimal = Decimal(0)


def billable(price: Price, counted: int) -> int:
    """A count, rounded up to the granule, without the free units."""
    granule = price.round_up_to
    return max(-(-counted // granule) * granule - price.free, 0)


def slices(price: Price, start: int, end: int, total: int) -> tuple[Slice, ...]:
    """The units from count `start` to `end` of a period whose count is `total`.

    `total` decides the step of a volume price alone. There is always a slice, if an empty one.
    """
    low, high = billable(price, start), billable(price, end)
    with localcontext(prec=PRECISION):
        if price.scheme == "graduated":
            return tuple(_graduated(price, low, high))
        if price.scheme == "package":
            packages = -(-high // price.per) + -low // price.per
            cost = packages * Decimal(price.amount) * price.per
            return (Slice(None, high - low, price.amount, cost),)
        if price.scheme == "volume":
            step = _landed(price.tiers, billable(price, total))
            amount, up_to = step.amount, step.up_to
        else:
            amount, up_to = price.amount, None
        return (Slice(up_to, high - low, amount, (high - low) * Decimal(amount)),)


def cost(parts: Iterable[Slice]) -> Decimal:
    """What slices cost together, times `per`."""
    with localcontext(prec=PRECISION):
        return sum((part.cost for part in parts), Decimal(0))


def _graduated(price: Price, low: int, high: int) -> list[Slice]:
    """Each unit at its own step's price; a step is entered by its first unit."""
    parts: list[Slice] = []
    floors = [0, *(step.up_to for step in price.tiers if step.up_to is not None)]
    bounds = [*pairwise(floors), (floors[-1], max(high, floors[-1]))]
    for step, (floor, top) in zip(price.tiers, bounds, strict=True):
        inside = min(high, top) - max(low, floor)
        if inside <= 0:
            continue
        flat = Decimal(step.flat) if low <= floor else Decimal(0)
        cost = inside * Decimal(step.amount) + flat * price.per
        parts.append(Slice(step.up_to, inside, step.amount, cost, flat))
    first = price.tiers[0]
    return parts or [Slice(first.up_to, 0, first.amount, Decimal(0))]


def _landed(tiers: Iterable[Step], quantity: int) -> Step:
    """The step in which a quantity lies; the open one is last."""
    return next(step for step in tiers if step.up_to is None or quantity <= step.up_to)
