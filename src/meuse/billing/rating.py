"""Usage × prices → lines. Pure: no clock, no store, no rounding but once per line.

The order of operations: unit conversion (`per`), rounding of quantities (`round_up_to`), free
units, price, discount; then `statement` has maximum, minimum, credits and tax.

Usage is rated by the plan version that stood on the record. What has no price rule at all in
its plan is included; what has no plan, or no rule for its model, is unrated: it is listed,
never a silent zero.

What a price counts together (tiers, free units, packages) is counted per price rule, which is
its meter, model and tier, and period, whichever plan version it stands in: after a change of
plan the count goes on. Usage of the version that was used first comes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, localcontext

from meuse.billing.invoice_ports import RollupRow
from meuse.billing.lines import Line, Unpriced, amount_text, total_of
from meuse.billing.plans.curve import PRECISION, Slice, cost, slices
from meuse.billing.plans.match import discounts_for, left_of, price_for
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import PlanVersion, Price

NO_PLAN = "no plan when it was used"
UNKNOWN_PLAN = "the plan version does not exist"
NO_PRICE = "the plan prices this meter, but not for this model"


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
        return total_of(self.lines)


@dataclass(slots=True)
class _Used:
    """Usage under one rule of one plan version, by deployment and tier."""

    plan: PlanVersion
    price: Price
    first_ms: int
    parts: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def order(self) -> tuple[int, int, str, int]:
        return self.first_ms, self.plan.created_ms, self.plan.name, self.plan.version


def rate(rows: Iterable[RollupRow], plans: Mapping[str, PlanVersion]) -> Rating:
    """Rate one payer's usage of one period; `plans` by reference (`basic:3`). The order of rows
    is no matter. Raises `conflict` when the rows were priced in more than one currency.
    """
    used: dict[tuple[str, Price], _Used] = {}
    included: Counter[tuple[str, str, str, str]] = Counter()
    unrated: Counter[tuple[str, str, str, str, str]] = Counter()
    for row in rows:
        ref = row.plan_version or ""
        where = (row.deployment, row.meter, ref, row.tier)
        found = rule_of(row, plans)
        if isinstance(found, str):
            unrated[*where, found] += row.quantity
        elif found is None:
            included[where] += row.quantity
        else:
            mine = used.get((ref, found))
            if mine is None:
                mine = used[ref, found] = _Used(plans[ref], found, row.first_ms)
            mine.first_ms = min(mine.first_ms, row.first_ms)
            mine.parts[row.deployment, row.tier] += row.quantity
    currency = one_currency(mine.plan for mine in used.values())
    lines = _lines(used.values())
    lines.sort(key=lambda line: (line.model, line.meter, line.plan, line.tier))
    return Rating(
        tuple(lines),
        tuple(Unpriced(w[1], w[0], w[2], n, tier=w[3]) for w, n in sorted(included.items())),
        tuple(
            Unpriced(w[1], w[0], w[2] or None, n, w[4], w[3]) for w, n in sorted(unrated.items())
        ),
        currency,
    )


def is_unrated(row: RollupRow, plans: Mapping[str, PlanVersion]) -> bool:
    """Whether usage has no price and is not included."""
    return isinstance(rule_of(row, plans), str)


def one_currency(plans: Iterable[PlanVersion]) -> str | None:
    """The currency of all of them. Raises `conflict` when there are two."""
    currencies: dict[str, str] = {}
    for plan in plans:
        currencies[plan.currency] = min(plan.ref, currencies.get(plan.currency, plan.ref))
    if len(currencies) > 1:
        raise _two_currencies(currencies)
    return next(iter(currencies), None)


def rule_of(row: RollupRow, plans: Mapping[str, PlanVersion]) -> Price | str | None:
    """The price of usage; None: it is included; a reason: it is unrated."""
    plan = plans.get(row.plan_version or "")
    if plan is None:
        return UNKNOWN_PLAN if row.plan_version else NO_PLAN
    rules = [price for price in plan.prices if price.meter == row.meter]
    if not rules:
        return None
    return price_for(rules, row.deployment, row.tier) or NO_PRICE


def _lines(used: Iterable[_Used]) -> list[Line]:
    counters: dict[tuple[str, str, str], list[_Used]] = {}
    for mine in used:
        counters.setdefault(mine.price.counter, []).append(mine)
    lines: list[Line] = []
    for together in counters.values():
        together.sort(key=lambda mine: mine.order)
        total = sum(mine.parts.total() for mine in together)
        start = 0
        for mine in together:
            end = start + mine.parts.total()
            if mine.price.is_linear:
                lines += [_unit(mine, *where, n) for where, n in sorted(mine.parts.items())]
            else:
                lines.append(_counted(mine, start, end, total))
            start = end
    return lines


def price_of(plan: PlanVersion, meter: str, deployment: str, tier: str) -> Price | None:
    """What `plan` asks at most for a meter of "owner/name", for estimates: no unit is free, of a
    price with tiers that of the dearest holds for all (without its flat amounts), packages and
    granules stay what they are. None: it is included, or has no rule."""
    rules = [price for price in plan.prices if price.meter == meter]
    found = price_for(rules, deployment, tier)
    if found is None:
        return None
    dearest = max([step.amount for step in found.tiers] or [found.amount], key=Decimal)
    return Price(
        meter, dearest, found.per, found.model, found.tier,
        scheme="package" if found.scheme == "package" else "unit", round_up_to=found.round_up_to,
    )  # fmt: skip


def _unit(mine: _Used, model: str, tier: str, quantity: int) -> Line:
    return _line(mine, model, tier, quantity, slices(mine.price, 0, quantity, quantity))


def _counted(mine: _Used, start: int, end: int, total: int) -> Line:
    price = mine.price
    parts = slices(price, start, end, total)
    models: Counter[str] = Counter()
    for (model, _), quantity in sorted(mine.parts.items()):
        models[model] += quantity
    free = min(end, price.free) - min(start, price.free)
    return _line(
        mine, price.model, price.tier, end - start, parts, free=free, models=tuple(models.items())
    )


def _line(
    mine: _Used,
    model: str,
    tier: str,
    quantity: int,
    parts: tuple[Slice, ...],
    *,
    free: int = 0,
    models: tuple[tuple[str, int], ...] = (),
) -> Line:
    price, plan = mine.price, mine.plan
    discounts = discounts_for(plan, price.meter, model, tier)
    with localcontext(prec=PRECISION):
        exact = cost(parts) * left_of(discounts) / price.per
    stepped = bool(price.tiers)
    return Line(
        meter=price.meter,
        model=model,
        plan=plan.ref,
        quantity=quantity,
        per=price.per,
        unit_price=None if stepped and len(parts) > 1 else parts[0].unit_price,
        amount=amount_text(exact, plan.currency),
        tier=tier,
        exact=exact,
        scheme=price.scheme,
        tiers=parts if stepped else (),
        free=free,
        discounts=tuple((one.name, one.percent) for one in discounts),
        models=models,
    )


def _two_currencies(currencies: Mapping[str, str]) -> MeuseError:
    named = " and ".join(f"{code} (plan {ref})" for code, ref in sorted(currencies.items()))
    return MeuseError(
        Code.CONFLICT,
        f"the usage of this period is priced in {named}; an invoice has one currency",
        field="period",
        hint="Ask for two periods, split at the quarter of an hour when the plan was changed.",
    )
