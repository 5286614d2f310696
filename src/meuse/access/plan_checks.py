"""Whether a plan makes sense: tiers that meet, prices that leave no usage without one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

from meuse.access import plan_body
from meuse.core.errors import invalid
from meuse.core.ids import check_name
from meuse.core.money import check_currency, parse_amount
from meuse.core.plans import ANY, TIERS, PlanVersion, Price, plan_of

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_STEPPED = ("graduated", "volume")


def check_plan(name: str, body: Mapping[str, Any]) -> PlanVersion:
    """A plan of a request's body, as version 0 made at 0. Raises `invalid_field`."""
    check_name(name, "plan")
    given = plan_body.read(body)
    check_currency(given.currency)
    for i, price in enumerate(given.prices):
        _check_price(price, f"prices[{i}]")
    terms = plan_body.plain(given)
    _check_amounts(terms, "")
    prices = terms.pop("prices")
    plan = plan_of(name, 0, 0, terms.pop("currency"), prices, terms)
    _check_rules(plan.prices)
    _check_terms(given)
    _check_discounts(plan)
    return plan


def _check_amounts(part: Any, field: str) -> None:
    """Whole text, and not only up to a line's end, as the schema's patterns have it."""
    if isinstance(part, list):
        for i, one in enumerate(part):
            _check_amounts(one, f"{field}[{i}]")
        return
    for name, value in part.items():
        where = f"{field}.{name}" if field else name
        if name in plan_body.AMOUNTS:
            parse_amount(value, where)
        elif isinstance(value, dict | list):
            _check_amounts(value, where)


def _check_price(price: plan_body.PriceBody, field: str) -> None:
    _check_model(price.model, f"{field}.model")
    if price.scheme not in _STEPPED:
        if price.tiers is not None:
            raise invalid(
                f"{field}.tiers",
                f"a price of the scheme {price.scheme} has no tiers",
                'Say "scheme": "graduated" or "volume".',
            )
        parse_amount(price.amount, f"{field}.amount")
        return
    if price.amount is not None:
        raise invalid(
            f"{field}.amount",
            f"the amounts of a {price.scheme} price stand in its tiers",
            "Leave it out.",
        )
    _check_steps(price, f"{field}.tiers")


def _check_steps(price: plan_body.PriceBody, field: str) -> None:
    steps = price.tiers or []
    told = 'The last tier, and it alone, has "up_to": null: it takes all that is above.'
    if not steps:
        raise invalid(field, f"a {price.scheme} price needs tiers", told)
    ends = [step.up_to for step in steps]
    if ends.count(None) > 1:
        at = ends.index(None, ends.index(None) + 1)
        raise invalid(f"{field}[{at}].up_to", "two tiers are open-ended", told)
    if ends[-1] is not None:
        where = f"[{ends.index(None)}].up_to" if None in ends else ""
        problem = "the open-ended tier is not the last one" if where else "no tier is open-ended"
        raise invalid(f"{field}{where}", problem, told)
    for at, (low, high) in enumerate(pairwise(end for end in ends if end is not None), 1):
        if high <= low:
            raise invalid(
                f"{field}[{at}].up_to",
                f"this tier ends at {high} and overlaps the one before, which ends at {low}",
                "List tiers by rising up_to: each begins where the one before ends.",
            )
    for at, step in enumerate(steps):
        if price.scheme == "volume" and Decimal(step.flat):
            raise invalid(
                f"{field}[{at}].flat",
                "a volume price has no flat amounts",
                'Only tiers of "graduated" have them; for a fixed amount use `fees`.',
            )


def _check_rules(prices: Sequence[Price]) -> None:
    seen: dict[tuple[str, str, str], int] = {}
    for i, price in enumerate(prices):
        if price.counter in seen:
            raise invalid(
                "prices",
                f"prices[{seen[price.counter]}] and prices[{i}] price {price.meter} twice for "
                f"model {price.model} and tier {price.tier}",
                "Keep one of them.",
            )
        seen[price.counter] = i
    for price in prices:
        if price.meter in TOKENS:
            for meter in TOKENS:
                if not any(_reaches(other, price) for other in prices if other.meter == meter):
                    raise invalid(
                        "prices",
                        f"{price.meter} of model {price.model} and tier {price.tier} has a price, "
                        f"{meter} has none there",
                        f'Price all three of {", ".join(TOKENS)}; "0" is a price.',
                    )


def _reaches(rule: Price, other: Price) -> bool:
    """Whether a rule holds wherever another one does."""
    return rule.model in _wider(other.model) and rule.tier in (ANY, other.tier)


def _wider(model: str) -> tuple[str, ...]:
    """The names under which rules are found that hold for all of `model`."""
    return ANY, model, model.partition("/")[2] or model


def _check_terms(given: plan_body.PlanBody) -> None:
    for i, fee in enumerate(given.fees):
        if fee.model is not None:
            _check_model(fee.model, f"fees[{i}].model")
    for i, discount in enumerate(given.discounts):
        _check_model(discount.model, f"discounts[{i}].model")
        _check_percent(discount.percent, f"discounts[{i}].percent")
    credit = given.credits
    if credit is not None and credit.amount is None and credit.settle != "credit_only":
        raise invalid(
            "credits.amount",
            "amount is missing",
            'Say what a month is credited with, such as "40". Only credit_only goes without: it '
            "spends the tenant's wallet.",
        )
    if given.tax is not None:
        _check_percent(given.tax.percent, "tax.percent")
    for field, names in (("fees", given.fees), ("discounts", given.discounts)):
        found = [one.name for one in names]
        for i, name in enumerate(found):
            if name in found[:i]:
                raise invalid(f"{field}[{i}].name", f"{name!r} stands there twice")
    if (
        given.maximum is not None
        and given.minimum is not None
        and Decimal(given.minimum) > Decimal(given.maximum)
    ):
        raise invalid(
            "minimum",
            f"the minimum {given.minimum} is more than the maximum {given.maximum}",
            "A period cannot come to both.",
        )


def _check_percent(text: str, field: str) -> None:
    if Decimal(text) > 100:
        raise invalid(field, f"{text} percent is more than all", 'Use "0" to "100".')


def _check_discounts(plan: PlanVersion) -> None:
    """A discount for a part of what is counted together would have no quantity to hold for.

    What a price counts is what no more specific one takes from it: tried on one usage of each
    sort that prices and discounts tell apart.
    """
    counted = _counted(plan)
    for i, discount in enumerate(plan.discounts):
        for at, price in enumerate(plan.prices):
            if price.is_linear or discount.meter not in (ANY, price.meter):
                continue
            covers = discount.model in _wider(price.model) and discount.tier in (ANY, price.tier)
            touches = any(
                discount.model in _wider(model) and discount.tier in (ANY, tier)
                for model, tier in counted.get(price.counter, ())
            )
            if touches and not covers:
                raise invalid(
                    f"discounts[{i}]",
                    f"{discount.name!r} is for a part of what prices[{at}] counts together",
                    f"Give that part a price of its own: model {discount.model}, "
                    f"tier {discount.tier}.",
                )


def _counted(plan: PlanVersion) -> dict[tuple[str, str, str], list[tuple[str, str]]]:
    """Of each price the usage (model, tier) for which it is the most specific."""
    discounted = {discount.model for discount in plan.discounts}
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for meter in {price.meter for price in plan.prices if not price.is_linear}:
        rules = {price.counter for price in plan.prices if price.meter == meter}
        named = discounted | {model for _, model, _ in rules}
        # "~" is no name: an owner or a deployment that the plan does not name.
        bare = {f"~/{model.rpartition('/')[2]}" for model in named - {ANY}}
        for model in {"~/~", *bare, *(model for model in named if "/" in model)}:
            for tier in TIERS:
                names = (model, model.partition("/")[2], ANY)
                wanted = [(meter, name, one) for name in names for one in (tier, ANY)]
                rule = next((one for one in wanted if one in rules), None)
                if rule is not None:
                    found.setdefault(rule, []).append((model, tier))
    return found


def _check_model(model: str, field: str) -> None:
    if not model:
        raise invalid(field, f"{model!r} is not a deployment", f'Use "{ANY}" for all.')
    if model != ANY:
        for part in model.split("/", 1):
            check_name(part, field)
