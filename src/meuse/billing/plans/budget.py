"""The price that budgets of money count: never less than what is invoiced for usage. Pure."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, localcontext

from meuse.billing.plans.match import price_for
from meuse.core.nouns import PriceTable
from meuse.core.plans import ANY, TIERS, PlanVersion, Price

_DIGITS = 40  # of a price per unit that does not end, rounded up
_ATOM_PLACES = 18


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
    with localcontext(prec=_DIGITS, rounding=ROUND_CEILING):
        rules = _reachable(plan, meter, model) or ()
        return sum((_base(price) for price in rules), Decimal(0))


def _base(price: Price) -> Decimal:
    spare = price.round_up_to - 1 + (price.per - 1 if price.scheme == "package" else 0)
    flat = sum((Decimal(step.flat) for step in price.tiers), Decimal(0))
    return flat + spare * _highest(price) / price.per


def price_table(plan: PlanVersion) -> PriceTable:
    """`budget_price` of every meter that a plan prices, for every name that its prices have their
    models under: that of a deployment is found under the most specific of its names. Atoms,
    rounded up.
    """
    prices: dict[str, dict[str, str]] = {}
    unrated: list[list[str]] = []
    for price in plan.prices:
        prices.setdefault(price.meter, {})[price.model] = ""
    for meter, names in prices.items():
        rules = [price for price in plan.prices if price.meter == meter]
        for name in names:
            model = _any_of(name)
            with localcontext(prec=_DIGITS + 18, rounding=ROUND_CEILING):
                found = budget_price(plan, meter, model) or Decimal(0)
                names[name] = str(int((found * 10**_ATOM_PLACES).to_integral_value()))
            unrated += [
                [tier, meter, name] for tier in TIERS if price_for(rules, model, tier) is None
            ]
    return PriceTable(plan.currency, prices, unrated)


def plan_base(plan: PlanVersion, model: str | None = None) -> Decimal:
    """What one month may owe at most beyond the budget prices of its units: of one deployment
    ("owner/name"), or of all together."""
    if model is None:
        with localcontext(prec=_DIGITS, rounding=ROUND_CEILING):
            return sum((_base(price) for price in plan.prices), Decimal(0))
    with localcontext(prec=_DIGITS, rounding=ROUND_CEILING):
        meters = dict.fromkeys(price.meter for price in plan.prices)
        return sum((budget_base(plan, meter, model) for meter in meters), Decimal(0))


def _any_of(name: str) -> str:
    """A deployment that no more specific name than this one means. "~" is no name."""
    if name == ANY:
        return "~/~"
    return name if "/" in name else f"~/{name}"


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
