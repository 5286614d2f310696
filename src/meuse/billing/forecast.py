"""What a month will have come to at its end. Pure.

Method: what was used so far, and for the time that is left what was used on an average day, all
rated as the invoice will be. The average is over whole days of UTC, at most the last 28, from the
first that had usage on; with 14 of them, by the day of the week. New usage is under the plan that
is in force now.

The interval holds 80 of 100 months, if days go on to differ from each other as they did: the
days' sums, in prices of the plan, have a standard deviation s, and D days that are forecast from
n have s·√(D + D²/n), with a quantile of Student's t. With fewer than two days there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, localcontext

from meuse.billing.invoice_ports import RollupRow
from meuse.billing.plans.budget import budget_price
from meuse.billing.plans.calendar import Month, Stint
from meuse.billing.plans.curve import PRECISION
from meuse.billing.rating import Rating
from meuse.billing.statement import Usage, assess
from meuse.core.plans import PlanVersion

DAY_MS = 86_400_000
MOST_DAYS = 28
_WEEKS = 14
"""So many days, and each day of the week was seen twice."""
CONFIDENCE = "0.80"
# Student's t, two-sided 80 %, by degrees of freedom.
_T = ("3.078", "1.886", "1.638", "1.533", "1.476", "1.440", "1.415", "1.397", "1.383", "1.372",
      "1.363", "1.356", "1.350", "1.345", "1.341", "1.337", "1.333", "1.330", "1.328", "1.325",
      "1.323", "1.321", "1.319", "1.318", "1.316", "1.315", "1.314")  # fmt: skip

Kind = tuple[str, str, str]
"""Meter, deployment, tier."""
Day = Mapping[Kind, int]


@dataclass(frozen=True, slots=True)
class Forecast:
    """`low` and `high` are None when too few days were seen (`days`)."""

    so_far: Rating
    expected: Rating
    low: Rating | None
    high: Rating | None
    days: int


def forecast(
    so_far: Sequence[RollupRow],
    days: Sequence[tuple[int, Day]],
    plan: PlanVersion | None,
    plans: Mapping[str, PlanVersion],
    calendar: Sequence[Stint],
    month: Month,
    now_ms: int,
) -> Forecast:
    """`so_far` is the month's usage up to `now_ms`, `days` what was used on each whole day before
    it (its begin, quantities), oldest first; `plan` is in force. Raises `conflict` for two
    currencies."""
    seen = _seen(days)
    spent = assess(so_far, plans, calendar, month.start_ms, now_ms)
    known = {**plans, **({plan.ref: plan} if plan else {})}

    def rated(more: Mapping[Kind, Decimal]) -> Rating:
        rows = [*so_far, *_rows(more, plan, month, now_ms)]
        return assess(rows, known, calendar, month.start_ms, month.end_ms)

    left = _left(now_ms, month.end_ms)
    with localcontext(prec=PRECISION):
        mean = _mean(seen, left)
        share = _spread(seen, left, mean, plan)
        if share is None:
            return Forecast(spent, rated(mean), None, None, len(seen))
        low = {kind: n * max(1 - share, Decimal(0)) for kind, n in mean.items()}
        high = {kind: n * (1 + share) for kind, n in mean.items()}
    # A volume price may make more usage cheaper.
    ordered = sorted((rated(low), rated(mean), rated(high)), key=lambda rating: rating.total)
    return Forecast(spent, rated(mean), ordered[0], ordered[2], len(seen))


def _seen(days: Sequence[tuple[int, Day]]) -> list[tuple[int, Day]]:
    used = [n for n, (_, day) in enumerate(days) if any(day.values())]
    return list(days[used[0] :])[-MOST_DAYS:] if used else []


def _left(now_ms: int, end_ms: int) -> list[tuple[int, Decimal]]:
    """The days that are left, and how much of each: (day of the week, share)."""
    found = []
    at = now_ms
    while at < end_ms:
        after = min(at - at % DAY_MS + DAY_MS, end_ms)
        found.append((_weekday(at), Decimal(after - at) / DAY_MS))
        at = after
    return found


def _mean(
    seen: Sequence[tuple[int, Day]], left: Sequence[tuple[int, Decimal]]
) -> dict[Kind, Decimal]:
    """What the time that is left will use."""
    total: dict[Kind, Decimal] = {}
    for weekday, share in left:
        for kind, quantity in _average(seen, weekday).items():
            total[kind] = total.get(kind, Decimal(0)) + quantity * share
    return total


def _average(seen: Sequence[tuple[int, Day]], weekday: int) -> dict[Kind, Decimal]:
    """Of a day of the week, or of any where too few were seen."""
    alike = [day for at, day in seen if len(seen) < _WEEKS or _weekday(at) == weekday]
    sums: Counter[Kind] = Counter()
    for day in alike:
        sums.update(day)
    return {kind: Decimal(quantity) / len(alike) for kind, quantity in sums.items()}


def _spread(
    seen: Sequence[tuple[int, Day]],
    left: Sequence[tuple[int, Decimal]],
    mean: Mapping[Kind, Decimal],
    plan: PlanVersion | None,
) -> Decimal | None:
    """Half of the interval as a share of what is expected; None: too few days to tell."""
    n, days = len(seen), sum((share for _, share in left), Decimal(0))
    if n < 2:
        return None
    errors = [_worth(day, plan) - _worth(_average(seen, _weekday(at)), plan) for at, day in seen]
    expected = _worth(mean, plan)
    if not expected:
        return Decimal(0)
    variance = sum((error * error for error in errors), Decimal(0)) / (n - 1)
    deviation = (variance * (days + days * days / n)).sqrt()
    return Decimal(_T[min(n - 1, len(_T)) - 1]) * deviation / expected


def _worth(day: Mapping[Kind, int | Decimal], plan: PlanVersion | None) -> Decimal:
    """Quantities in prices of the plan: a measure of how days differ, not what they cost."""
    total = Decimal(0)
    for (meter, deployment, _), quantity in day.items():
        price = budget_price(plan, meter, deployment) if plan else None
        total += quantity * (price or 0)
    return total


def _rows(
    more: Mapping[Kind, Decimal], plan: PlanVersion | None, month: Month, now_ms: int
) -> list[RollupRow]:
    if plan is None:
        return []
    return [
        Usage(meter, deployment, plan.ref, round(quantity), tier, now_ms, month.start_ms)
        for (meter, deployment, tier), quantity in more.items()
    ]


def _weekday(ms: int) -> int:
    return datetime.fromtimestamp(ms // 1000, UTC).weekday()
