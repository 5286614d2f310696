"""What usage cost, by any dimension and interval, rated by the code that makes invoices. Pure.

The cost of an interval is what the month comes to at its end less what it came to at its begin:
the costs of the intervals of a month add up to its usage lines before they are rounded. What a
price counts together (tiers, free units, packages) has one cost for all who used it; it is shared
out by quantity, and said to be shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, localcontext
from itertools import groupby
from typing import Any

from meuse.billing.invoice_ports import RollupRow
from meuse.billing.lines import Line, difference
from meuse.billing.plans.curve import PRECISION
from meuse.billing.rating import rate, rule_of
from meuse.billing.statement import Usage
from meuse.core.errors import invalid
from meuse.core.plans import PlanVersion, Price

MAX_STEPS = 3_000

Values = tuple[Any, ...]
Part = tuple[Values, RollupRow]
"""A step's own values (month, interval) and the group's, then the usage."""


@dataclass(slots=True)
class Cost:
    """Of a group: quantity, cost by currency, whether a part of it is a share of a common cost,
    and how much of it has no price."""

    quantity: int = 0
    by_currency: dict[str, Decimal] = field(default_factory=dict)
    shared: bool = False
    unrated: int = 0

    def add(self, currency: str, amount: Decimal) -> None:
        with localcontext(prec=PRECISION):
            self.by_currency[currency] = self.by_currency.get(currency, Decimal(0)) + amount


def costs(
    parts: Sequence[Part], before: Iterable[RollupRow], plans: Mapping[str, PlanVersion], width: int
) -> dict[Values, Cost]:
    """Costs by the values of `parts` behind the first `width`, and by meter.

    The first `width` values say the step: its month, then the interval in it, in order of time.
    `before` is what the first month had until the first of them. Raises `invalid_field` for
    more steps than can be rated.
    """
    found: dict[Values, Cost] = {}
    steps = _steps(parts, width)
    if len(steps) > MAX_STEPS:
        raise invalid(
            "by", f"{len(steps):,} intervals are too many to tell what each of them cost",
            f"Ask for a shorter time or a longer interval: up to {MAX_STEPS:,} of them.",
        )  # fmt: skip
    so_far = list(before)
    for _, mine in groupby(steps, key=lambda step: step[0][0]):
        _of_month([members for _, members in mine], so_far, plans, width, found)
        so_far = []
    return found


def _steps(parts: Sequence[Part], width: int) -> list[tuple[Values, list[Part]]]:
    by_step: dict[Values, list[Part]] = {}
    for part in parts:
        by_step.setdefault(part[0][:width], []).append(part)
    return sorted(by_step.items())


def _of_month(
    steps: Sequence[Sequence[Part]],
    before: Iterable[RollupRow],
    plans: Mapping[str, PlanVersion],
    width: int,
    found: dict[Values, Cost],
) -> None:
    sums: dict[tuple[str, str, str | None, str], Usage] = {}
    for row in before:
        _count(sums, row)
    then = _rated(sums, plans)
    for members in steps:
        for _, row in members:
            _count(sums, row)
        now = _rated(sums, plans)
        _share_out(members, now, then, plans, width, found)
        then = now


def _count(sums: dict[tuple[str, str, str | None, str], Usage], row: RollupRow) -> None:
    key = (row.meter, row.deployment, row.plan_version, row.tier)
    old = sums.get(key)
    if old is None:
        sums[key] = Usage(
            row.meter, row.deployment, row.plan_version, row.quantity, row.tier, row.first_ms,
            row.from_ms,
        )  # fmt: skip
    else:
        first = min(old.first_ms, row.first_ms)
        sums[key] = replace(old, quantity=old.quantity + row.quantity, first_ms=first)


def _rated(
    sums: Mapping[Any, RollupRow], plans: Mapping[str, PlanVersion]
) -> dict[str, tuple[Line, ...]]:
    """The lines so far, by currency."""
    by_currency: dict[str, list[RollupRow]] = {}
    for row in sums.values():
        plan = plans.get(row.plan_version or "")
        if plan is not None:
            by_currency.setdefault(plan.currency, []).append(row)
    return {currency: rate(rows, plans).lines for currency, rows in by_currency.items()}


def _share_out(
    members: Sequence[Part],
    now: Mapping[str, tuple[Line, ...]],
    then: Mapping[str, tuple[Line, ...]],
    plans: Mapping[str, PlanVersion],
    width: int,
    found: dict[Values, Cost],
) -> None:
    """Add what the lines of a step have more than before to the groups that used them."""
    users: dict[tuple[str, ...], list[tuple[Cost, int]]] = {}
    for values, row in members:
        group = (*values[width:], row.meter)
        cost = found.setdefault(group, Cost())
        cost.quantity += row.quantity
        price = rule_of(row, plans)
        if isinstance(price, str):
            cost.unrated += row.quantity
        elif price is not None:
            users.setdefault(_line_key(row, price), []).append((cost, row.quantity))
    for currency, lines in now.items():
        for line in difference(lines, then.get(currency, ()), currency):
            _share(line, currency, users.get(line.key, ()), found, members, width)


def _share(
    line: Line,
    currency: str,
    users: Sequence[tuple[Cost, int]],
    found: dict[Values, Cost],
    members: Sequence[Part],
    width: int,
) -> None:
    left, quantity = line.exact, sum(n for _, n in users)
    if not quantity:
        # A volume price gives back, or takes, for units of before that nobody used here.
        columns = zip(*(values[width:] for values, _ in members), strict=True)
        common = (mine[0] if len(set(mine)) == 1 else None for mine in columns)
        group = (*common, line.meter)
        found.setdefault(group, Cost()).add(currency, left)
        return
    is_common = len({id(cost) for cost, _ in users}) > 1
    with localcontext(prec=PRECISION):
        for n, (cost, used) in enumerate(users, 1):
            mine = left if n == len(users) else line.exact * used / quantity
            cost.add(currency, mine)
            cost.shared |= is_common and bool(line.models)
            left -= mine


def _line_key(row: RollupRow, price: Price) -> tuple[str, ...]:
    """The key of the line that usage is on (`Line.key`)."""
    plan = row.plan_version or ""
    if price.is_linear:
        return ("usage", plan, "", row.meter, row.deployment, row.tier)
    return ("usage", plan, "", row.meter, price.model, price.tier)
