"""The price that budgets of money count: never less than what is invoiced for usage. Pure."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, localcontext

from meuse.core.plans import ANY, PlanVersion, Price

_DIGITS = 40  # of a price per unit that does not end, rounded up


def budget_price(plan: PlanVersion, meter: str, model: str) -> Decimal | None:
    """The highest price of one unit, over tiers of usage and tiers of price.

    0 when the plan includes the meter; None when it prices it, but not for this model: such
    usage would be unrated. Discounts and free units do not count. What a period owes beyond
    price × quantity, whatever the quantity, is `budget_base`.
    """
    rules = _reachable(plan, meter, model)
    if rules is None:
        return None
    with localcontext(prec=_DIGITS, rounding=ROUND_CEILING):
        return max((_highest(price) / price.per for price in rules), default=Decimal(0))


def budget_base(plan: PlanVersion, meter: str, model: str) -> Decimal:
    """What one period may owe at most for a meter and model beyond `budget_price` × quantity.

    A started package, the flat amounts of tiers, and a quantity rounded up to its granule:
    0 for most prices.
    """
    base = Decimal(0)
    with localcontext(prec=_DIGITS, rounding=ROUND_CEILING):
        for price in _reachable(plan, meter, model) or ():
            base += sum((Decimal(step.flat) for step in price.tiers), Decimal(0))
            spare = price.round_up_to - 1 + (price.per - 1 if price.scheme == "package" else 0)
            base += spare * _highest(price) / price.per
    return base


def _highest(price: Price) -> Decimal:
    return max([Decimal(step.amount) for step in price.tiers] or [Decimal(price.amount)])


def _reachable(plan: PlanVersion, meter: str, model: str) -> list[Price] | None:
    """The prices that usage of a model may meet: of its most specific name, and of wider ones
    for the tiers that it does not price. None: there are prices, and none of them."""
    rules = [price for price in plan.prices if price.meter == meter]
    names = (model, model.partition("/")[2] or model, ANY)
    found: list[Price] = []
    for name in dict.fromkeys(names):
        mine = [price for price in rules if price.model == name]
        found += mine
        if any(price.tier == ANY for price in mine):
            break
    return found if found or not rules else None
