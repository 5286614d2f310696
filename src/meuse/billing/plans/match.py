"""Which price and which discounts of a plan hold for usage. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext

from meuse.billing.plans.curve import PRECISION
from meuse.core.plans import ANY, Discount, PlanVersion, Price


def price_for(prices: Iterable[Price], deployment: str, tier: str) -> Price | None:
    """The most specific of the prices of a meter.

    First by model: "owner/name", then the bare name, then "*"; of these by tier: its own,
    then "*".
    """
    by_name = {(price.model, price.tier): price for price in prices}
    for model in _names(deployment):
        for wanted in (tier, ANY):
            found = by_name.get((model, wanted))
            if found is not None:
                return found
    return None


def discounts_for(plan: PlanVersion, meter: str, model: str, tier: str) -> tuple[Discount, ...]:
    """Those that are applied, as the plan's `stacking` says.

    `stack`: all, each to what the one before left; `best_of`: the largest, of equal ones the
    first; `precedence`: the first.
    """
    names = _names(model)
    held = [
        one
        for one in plan.discounts
        if one.meter in (ANY, meter) and one.model in names and one.tier in (ANY, tier)
    ]
    if plan.stacking == "stack":
        return tuple(held)
    if plan.stacking == "best_of":
        held.sort(key=lambda one: -Decimal(one.percent))  # stable
    return tuple(held[:1])


def left_of(discounts: Iterable[Discount]) -> Decimal:
    """What share of a price is left after discounts: 50 % and 10 % leave 0.45."""
    left = Decimal(1)
    with localcontext(prec=PRECISION):
        for one in discounts:
            left *= 1 - Decimal(one.percent) / 100
    return left


def _names(model: str) -> tuple[str, ...]:
    """The names under which a rule for a model may stand, the most specific first."""
    bare = model.partition("/")[2]
    return (model, bare, ANY) if bare else (model, ANY)
