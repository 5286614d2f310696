"""A prepaid balance as a budget: its limit is what was paid in, less what is paid for. Pure.

The host counts what is used from `since` on and never takes anything off. The ledger takes usage
off a wallet when it is invoiced. So the limit is the balance and what was counted until the last
invoice: when an invoice is issued one falls by what it comes to, the other rises by its budget
price, which is never less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Protocol

from meuse.billing.plans.calendar import Month, months
from meuse.core.clock import BUCKET_MS
from meuse.core.micros import UNIT
from meuse.core.nouns import Limit, PlanVersion


class Spendable(Protocol):
    """`available`: 10⁻⁶ of the currency that are neither spent nor held nor expired, as the ledger
    has it: invoices up to `invoiced_to_ms` (0: none) are taken off, later usage is not."""

    @property
    def available(self) -> int: ...
    @property
    def invoiced_to_ms(self) -> int: ...


Balances = Callable[[str, str], Spendable | None]
"""(tenant, currency) → its wallet; None: it has none."""

Spent = Callable[[int, int], int]
"""[from, to) in Unix ms → the budget price of what was used, in 10⁻⁶ of the currency."""


@dataclass(frozen=True, slots=True)
class _None:
    available: int = 0
    invoiced_to_ms: int = 0


def limit_of(
    limit: Limit, wallet: Spendable | None, plan: PlanVersion, spent: Spent, now_ms: int
) -> int:
    """What a prepaid budget may have counted at most, in 10⁻⁶ of its currency; never negative."""
    wallet = wallet or _None()
    begun = limit.since_ms
    # What no invoice has taken off yet, and was used before the host began to count.
    paid_to = wallet.invoiced_to_ms or months(begun, begun + 1)[0].start_ms
    counted = spent(begun, paid_to) if paid_to > begun else -spent(paid_to, begun)
    return max(wallet.available + counted + _credited(limit, plan, paid_to, spent, now_ms), 0)


def _credited(limit: Limit, plan: PlanVersion, paid_to: int, spent: Spent, now_ms: int) -> int:
    """Of the plan's monthly credit what usage that is not invoiced yet is paid by: in past months
    what was used of it, in the present one all."""
    if plan.credits is None or not Decimal(plan.credits.amount):
        return 0
    total = 0
    for month in months(min(max(paid_to, limit.since_ms), now_ms), now_ms + 1):
        start = max(paid_to, month.start_ms)
        left = _credit(plan, month, limit.since_ms)
        if start > month.start_ms:  # an invoice has used of it
            left = max(left - spent(month.start_ms, start), 0)
        total += left if month.end_ms > now_ms else min(left, spent(start, month.end_ms))
    return total


def _credit(plan: PlanVersion, month: Month, since_ms: int) -> int:
    """Of a month, by the seconds that the plan is in force: at least those after the bucket in
    which that began."""
    assert plan.credits is not None
    begun = month.start_ms if since_ms <= month.start_ms else since_ms + BUCKET_MS
    seconds = max(month.end_ms - begun, 0) // 1000
    share = Decimal(plan.credits.amount) * UNIT * seconds / month.seconds
    return int(share.to_integral_value(rounding=ROUND_FLOOR))
