"""A prepaid balance as a budget: its limit is what was paid in, less what is paid for. Pure.

The host counts what is used from `since` on and never takes anything off. The ledger takes usage
off a wallet when it is invoiced. So the limit is the balance and what was counted in periods that
are invoiced: when an invoice is issued one falls by what it comes to, the other rises by its budget
price, which is never less. What was used before `since` and is not invoiced will be paid from the
wallet too: it is taken off the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Protocol

from meuse.billing.plans.calendar import Month, months
from meuse.core.clock import BUCKET_MS
from meuse.core.micros import UNIT
from meuse.core.nouns import Limit, PlanVersion

Span = tuple[int, int]
"""[from, to) in Unix ms."""


class Spendable(Protocol):
    """`available`: 10⁻⁶ of the currency that are neither spent nor held nor expired, as the ledger
    has it: what was used in the periods `invoiced` (ascending, apart) is taken off, else not."""

    @property
    def available(self) -> int: ...
    @property
    def invoiced(self) -> Sequence[Span]: ...


Balances = Callable[[str, str], Spendable | None]
"""(tenant, currency) → its wallet; None: it has none."""

Spent = Callable[[int, int], int]
"""[from, to) in Unix ms → the budget price of what was used, in 10⁻⁶ of the currency."""


@dataclass(frozen=True, slots=True)
class _None:
    available: int = 0
    invoiced: Sequence[Span] = ()


def limit_of(
    limit: Limit, wallet: Spendable | None, plan: PlanVersion, spent: Spent, now_ms: int
) -> int:
    """What a prepaid budget may have counted at most, in 10⁻⁶ of its currency; never negative."""
    wallet = wallet or _None()
    paid = joined(wallet.invoiced)
    owed = sum(spent(*span) for span in _rest(paid, (0, limit.since_ms)))
    counted = sum(spent(*span) for span in _within(paid, (limit.since_ms, now_ms + 1)))
    credited = _credited(limit, plan, paid, spent, now_ms)
    return max(wallet.available + counted - owed + credited, 0)


def joined(spans: Iterable[Span]) -> list[Span]:
    """Those that meet as one: fewer sums to take. They ascend."""
    found: list[Span] = []
    for start, end in spans:
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _within(spans: Iterable[Span], window: Span) -> Iterator[Span]:
    for start, end in spans:
        low, high = max(start, window[0]), min(end, window[1])
        if low < high:
            yield low, high


def _rest(spans: Iterable[Span], window: Span) -> Iterator[Span]:
    """What of a window lies in none of them."""
    begun = window[0]
    for start, end in _within(spans, window):
        if begun < start:
            yield begun, start
        begun = end
    if begun < window[1]:
        yield begun, window[1]


def _credited(
    limit: Limit, plan: PlanVersion, paid: Sequence[Span], spent: Spent, now_ms: int
) -> int:
    """Of the plan's monthly credit what usage that is not invoiced yet is paid by: in past months
    what was used of it, in the present one all."""
    if plan.credits is None or not Decimal(plan.credits.amount):
        return 0
    total = 0
    for month in months(min(limit.since_ms, now_ms), now_ms + 1):
        here = max(month.start_ms, limit.since_ms), month.end_ms
        left = _credit(plan, month, limit.since_ms)
        left = max(left - sum(spent(*span) for span in _within(paid, here)), 0)
        if month.end_ms > now_ms:
            total += left
        elif left:
            total += min(left, sum(spent(*span) for span in _rest(paid, here)))
    return total


def _credit(plan: PlanVersion, month: Month, since_ms: int) -> int:
    """Of a month, by the seconds that the plan is in force: at least those after the bucket in
    which that began."""
    assert plan.credits is not None
    begun = month.start_ms if since_ms <= month.start_ms else since_ms + BUCKET_MS
    seconds = max(month.end_ms - begun, 0) // 1000
    share = Decimal(plan.credits.amount) * UNIT * seconds / month.seconds
    return int(share.to_integral_value(rounding=ROUND_FLOOR))
