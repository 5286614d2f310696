"""Usage of a month and plans of every kind, for the tests of rating."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext

from billing.make_usage import DAY, plan
from meuse.billing.plans.calendar import Stint, windows
from meuse.billing.plans.curve import PRECISION
from meuse.billing.rating import Rating
from meuse.billing.statement import Usage, assess
from meuse.core.clock import BUCKET_MS
from meuse.core.plans import PlanVersion, Price, Step

MONTH = DAY  # November 2026: 30 days
END = MONTH + 30 * 86_400_000
BUCKETS = (END - MONTH) // BUCKET_MS
TIERS = (Step(1_000, "0.010"), Step(10_000, "0.008"), Step(None, "0.005"))


@dataclass(frozen=True)
class Event:
    """Usage in a bucket of the month."""

    quantity: int
    bucket: int = 0
    meter: str = "rows"
    deployment: str = "acme/digits"
    plan_version: str | None = "basic:1"
    tier: str = "standard"


def rows_of(events: Iterable[Event], start: int = MONTH, end: int = END) -> list[Usage]:
    """As the store gives them: summed over each window of an invoice."""
    rows: list[Usage] = []
    for low, high in windows(start, end):
        sums: dict[tuple, tuple[int, int]] = {}
        for event in events:
            at = MONTH + event.bucket * BUCKET_MS
            if low <= at < high:
                key = (event.meter, event.deployment, event.plan_version, event.tier)
                quantity, first = sums.get(key, (0, at))
                sums[key] = quantity + event.quantity, min(first, at)
        for (meter, deployment, ref, tier), (quantity, first) in sums.items():
            rows.append(Usage(meter, deployment, ref, quantity, tier, first, low))
    return rows


def invoice(
    events: Iterable[Event],
    *plans: PlanVersion,
    start: int = MONTH,
    end: int = END,
    calendar: tuple[Stint, ...] | None = None,
) -> Rating:
    """The first plan is in force all the time, if no calendar says otherwise."""
    if calendar is None:
        calendar = (Stint(MONTH, max(end, END), plans[0]),)
    return assess(rows_of(events, start, end), {p.ref: p for p in plans}, calendar, start, end)


def one_price(*, meter: str = "rows", **fields: object) -> PlanVersion:
    return plan(Price(meter, **fields))


def sums(rating: Rating) -> dict[str, Decimal]:
    """What each kind of line comes to, before rounding."""
    found: dict[str, Decimal] = {}
    with localcontext(prec=PRECISION):
        for line in rating.lines:
            found[line.kind] = found.get(line.kind, Decimal(0)) + line.exact
    return found
