"""Reports on usage and cost: reads what there is and has it rated; keeps nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, localcontext
from typing import Any

from meuse.billing.costs import Cost, Part, Values, costs
from meuse.billing.forecast import CONFIDENCE, DAY_MS, MOST_DAYS, Day, forecast
from meuse.billing.invoices import calendar_of, current_plan, plan_versions
from meuse.billing.lines import amount_text, decimal_text
from meuse.billing.plans.calendar import months, windows
from meuse.billing.plans.curve import PRECISION
from meuse.billing.ports import LedgerStore, Plans, Tenants
from meuse.billing.rating import Rating
from meuse.billing.snapshot import details, taxed, taxed_stints
from meuse.billing.statement import assess
from meuse.core.clock import bucket_start, day_of, to_rfc3339

INTERVALS = ("hour", "day", "week", "month")


def usage_costs(
    store: LedgerStore,
    plans: Plans,
    tenants: Sequence[str],
    start_ms: int,
    end_ms: int,
    by: Sequence[str],
    where: Mapping[str, str | None],
) -> list[dict[str, Any]]:
    """What tenants used in [start, end) and what it cost, grouped by `by` and by meter.

    Rows as `LedgerStore.usage` has them, with `cost` (decimal text, unrounded to 18 places),
    `currency`, and where so `shared` (a part of the cost is common to several rows, and was
    shared out by quantity) and `unrated` (a quantity without a price). `where` narrows what is
    shown, not what tiers count. Raises `invalid_field` for a grouping that is none.
    """
    names = [name for name in dict.fromkeys(by) if name != "meter"]
    narrowed = {name: value for name, value in where.items() if value is not None}
    found: dict[Values, Cost] = {}
    for tenant in tenants:
        for values, cost in _of_tenant(
            store, plans, tenant, (start_ms, end_ms), [*names, *narrowed]
        ).items():
            *group, meter = values
            shown, marks = group[: len(names)], group[len(names) :]
            if all(mark == value for mark, value in zip(marks, narrowed.values(), strict=True)):
                _merge(found.setdefault((*shown, meter), Cost()), cost)
    rows = []
    for values, cost in sorted(found.items(), key=lambda item: [str(v or "") for v in item[0]]):
        *group, meter = values
        named = dict(zip(names, group, strict=True)) | {"meter": meter}
        rows += [{**{n: named[n] for n in dict.fromkeys((*by, "meter"))}, **r} for r in _rows(cost)]
    return rows


def owed(
    store: LedgerStore, plans: Plans, tenants: Tenants, tenant: str, start_ms: int, end_ms: int
) -> dict[str, Any]:
    """What a tenant owes for [start, end) by kind of line, rated now: {currency, usage, fee, …,
    total}. Raises `conflict` when it is owed in two currencies."""
    rows = store.rollup_rows(tenant, start_ms, end_ms, windows=windows(start_ms, end_ms))
    customer = details(tenant, tenants.billing(tenant))
    known = {ref: taxed(plan, customer) for ref, plan in plan_versions(rows, plans).items()}
    calendar = taxed_stints(calendar_of(tenant, tenants, plans, start_ms, end_ms), customer)
    rating = assess(rows, known, calendar, start_ms, end_ms)
    if rating.currency is None:
        return {"currency": None, "total": "0"}
    sums: dict[str, Decimal] = {}
    for line in rating.lines:
        sums[line.kind] = sums.get(line.kind, Decimal(0)) + Decimal(line.amount)
    told = {kind: amount_text(amount, rating.currency) for kind, amount in sums.items()}
    total = amount_text(rating.total, rating.currency)
    return {"currency": rating.currency, **told, "total": total}


def _of_tenant(
    store: LedgerStore, plans: Plans, tenant: str, period: tuple[int, int], names: Sequence[str]
) -> dict[Values, Cost]:
    start, end = period
    finest = next((name for name in INTERVALS if name in names), "month")
    step = list(dict.fromkeys(("month", finest)))
    asked = list(dict.fromkeys((*step, *names)))
    kept = store.usage_parts(tenant, start, end, asked)
    at = {name: n for n, name in enumerate(asked)}
    parts: list[Part] = [
        (tuple(values[at[name]] for name in (*step, *names)), row) for values, row in kept
    ]
    begin = months(start, end)[0].start_ms
    before = store.rollup_rows(tenant, begin, start) if begin < start else ()
    known = plan_versions([*before, *(row for _, row in parts)], plans)
    return costs(parts, before, known, len(step))


def _merge(into: Cost, more: Cost) -> None:
    into.quantity += more.quantity
    into.unrated += more.unrated
    into.shared |= more.shared
    for currency, amount in more.by_currency.items():
        into.add(currency, amount)


def _rows(cost: Cost) -> Iterable[dict[str, Any]]:
    """One per currency; the quantity stands in the first."""
    quantity = cost.quantity
    flags: dict[str, Any] = {}
    if cost.shared:
        flags["shared"] = True
    if cost.unrated:
        flags["unrated"] = cost.unrated
    costs_: list[tuple[str | None, Decimal]] = [*sorted(cost.by_currency.items())]
    for currency, amount in costs_ or [(None, Decimal(0))]:
        with localcontext(prec=PRECISION):
            text = decimal_text(amount)
        yield {"quantity": quantity, "cost": text, "currency": currency, **flags}
        quantity, flags = 0, {}


def month_forecast(
    store: LedgerStore, plans: Plans, tenants: Tenants, tenant: str, now_ms: int
) -> dict[str, Any]:
    """What the tenant's present month of UTC is likely to come to (`forecast`).

    {tenant, period, as_of, currency, so_far, expected, low, high, confidence, days, lines}; low
    and high are None when fewer than two days were seen. Raises `not_found` for the tenant and
    `conflict` for two currencies.
    """
    now = bucket_start(now_ms)
    (month,) = months(now, now + 1)
    customer = details(tenant, tenants.billing(tenant))
    current = current_plan(tenants.tenant(tenant), plans)
    so_far = store.rollup_rows(tenant, month.start_ms, now) if now > month.start_ms else ()
    known = {ref: taxed(plan, customer) for ref, plan in plan_versions(so_far, plans).items()}
    calendar = calendar_of(tenant, tenants, plans, month.start_ms, month.end_ms)
    told = forecast(
        so_far,
        _days(store, tenant, now - now % DAY_MS),
        None if current is None else taxed(current, customer),
        known,
        taxed_stints(calendar, customer),
        month,
        now,
    )
    currency = told.expected.currency or (current.currency if current else None)

    def text(rating: Rating | None) -> str | None:
        return amount_text(rating.total, currency) if rating and currency else None

    return {
        "tenant": tenant,
        "period": {"from": to_rfc3339(month.start_ms), "to": to_rfc3339(month.end_ms)},
        "as_of": to_rfc3339(now),
        "currency": currency,
        "so_far": text(told.so_far),
        "expected": text(told.expected),
        "low": text(told.low),
        "high": text(told.high),
        "confidence": CONFIDENCE,
        "days": told.days,
        "lines": [line.to_dict() for line in told.expected.lines],
    }


def _days(store: LedgerStore, tenant: str, today_ms: int) -> list[tuple[int, Day]]:
    begin = max(today_ms - MOST_DAYS * DAY_MS, 0)
    by_day: dict[str, dict[tuple[str, str, str], int]] = {}
    for (day,), row in store.usage_parts(tenant, begin, today_ms, ["day"]):
        kind = (row.meter, row.deployment, row.tier)
        mine = by_day.setdefault(day, {})
        mine[kind] = mine.get(kind, 0) + row.quantity
    return [(at, by_day.get(day_of(at), {})) for at in range(begin, today_ms, DAY_MS)]
