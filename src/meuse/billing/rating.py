"""Usage × price list → lines. Pure: no clock, no store, no rounding but once per line.

Usage is rated by the plan version that stood on the record. What has no price rule at all in
its plan is included; what has no plan, or no rule for its model, is unrated: it is listed,
never a silent zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal, localcontext
from typing import Any

from meuse.billing.ports import RollupRow
from meuse.core.errors import Code, MeuseError
from meuse.core.money import round_money
from meuse.core.nouns import PlanVersion, Price

NO_PLAN = "no plan when it was used"
UNKNOWN_PLAN = "the plan version does not exist"
NO_PRICE = "the plan prices this meter, but not for this model"

# Exact for quantities of 19 digits times prices of 36, and far from a tie after a division.
_PRECISION = 120


@dataclass(frozen=True, slots=True)
class Line:
    """Quantity of one meter on one deployment, priced by one plan version.

    `unit_price` is for `per` units; it and `amount` are decimal text in the plan's currency.
    """

    meter: str
    model: str
    plan: str
    quantity: int
    per: int
    unit_price: str
    amount: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Quantity without an amount: included in the plan, or unrated for a `reason`."""

    meter: str
    model: str
    plan: str | None
    quantity: int
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rating:
    """Every quantity that went in is in exactly one of these. `currency` None: no lines."""

    lines: tuple[Line, ...]
    included: tuple[Unpriced, ...]
    unrated: tuple[Unpriced, ...]
    currency: str | None

    @property
    def total(self) -> Decimal:
        """The sum of the rounded amounts."""
        with localcontext(prec=_PRECISION):
            return sum((Decimal(line.amount) for line in self.lines), Decimal(0))


def rate(rows: Iterable[RollupRow], plans: Mapping[str, PlanVersion]) -> Rating:
    """Rate one payer's usage; `plans` by reference (`basic:3`). Order of rows is no matter.

    Raises `conflict` when the rows were priced in more than one currency.
    """
    sums: dict[tuple[str, str, str], int] = {}
    for row in rows:
        key = (row.deployment, row.meter, row.plan_version or "")
        sums[key] = sums.get(key, 0) + row.quantity
    lines: list[Line] = []
    included: list[Unpriced] = []
    unrated: list[Unpriced] = []
    currencies: dict[str, str] = {}
    for (model, meter, ref), quantity in sorted(sums.items()):
        plan = plans.get(ref)
        if plan is None:
            reason = UNKNOWN_PLAN if ref else NO_PLAN
            unrated.append(Unpriced(meter, model, ref or None, quantity, reason))
            continue
        rules = [price for price in plan.prices if price.meter == meter]
        if not rules:
            included.append(Unpriced(meter, model, ref, quantity))
            continue
        price = _match(rules, model)
        if price is None:
            unrated.append(Unpriced(meter, model, ref, quantity, NO_PRICE))
            continue
        currencies.setdefault(plan.currency, ref)
        lines.append(_line(price, plan, model, quantity))
    if len(currencies) > 1:
        raise _two_currencies(currencies)
    currency = next(iter(currencies), None)
    return Rating(tuple(lines), tuple(included), tuple(unrated), currency)


def amount_text(amount: Decimal, currency: str) -> str:
    """`0.125`, EUR → `"0.12"`: rounded to the minor unit, without an exponent."""
    with localcontext(prec=_PRECISION):
        return f"{round_money(amount, currency):f}"


def price_of(plan: PlanVersion, meter: str, deployment: str) -> Price | None:
    """What `plan` asks for a meter of "owner/name"; None: it is included, or has no rule."""
    return _match([price for price in plan.prices if price.meter == meter], deployment)


def _match(rules: list[Price], deployment: str) -> Price | None:
    """The most specific rule: "owner/name", then the bare name, then "*"."""
    bare = deployment.partition("/")[2]
    for name in (deployment, bare, "*"):
        for price in rules:
            if price.model == name:
                return price
    return None


def _line(price: Price, plan: PlanVersion, model: str, quantity: int) -> Line:
    with localcontext(prec=_PRECISION):
        amount = Decimal(quantity) * Decimal(price.amount) / Decimal(price.per)
    return Line(
        meter=price.meter,
        model=model,
        plan=plan.ref,
        quantity=quantity,
        per=price.per,
        unit_price=price.amount,
        amount=amount_text(amount, plan.currency),
    )


def _two_currencies(currencies: Mapping[str, str]) -> MeuseError:
    named = " and ".join(f"{code} (plan {ref})" for code, ref in sorted(currencies.items()))
    return MeuseError(
        Code.CONFLICT,
        f"the usage of this period is priced in {named}; an invoice has one currency",
        field="period",
        hint="Ask for two periods, split at the quarter of an hour when the plan was changed.",
    )
