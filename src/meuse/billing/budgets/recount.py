"""What a budget has counted, computed again from usage. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from meuse.billing.ports import Plans
from meuse.core.errors import MeuseError
from meuse.core.nouns import COST, Limit, PlanVersion, PriceTable
from meuse.core.periods import period_at
from meuse.core.prices import ATOMS, Prices

INTERNAL = "internal"
"""The tier of what no caller asked for: no budget counts it."""


class Used(Protocol):
    """A quantity of usage that a budget is about."""

    @property
    def meter(self) -> str: ...
    @property
    def deployment(self) -> str: ...
    @property
    def plan_version(self) -> str | None: ...
    @property
    def tier(self) -> str: ...
    @property
    def quantity(self) -> int: ...


Usage = Callable[[Limit, int, int], Sequence[Used]]
"""(limit, from, to) → what matches its subjects and was recorded in [from, to), Unix ms."""


@dataclass(frozen=True, slots=True)
class Recount:
    """`used` in the budget's units from `start_ms` on; `unrated` is usage that a budget of money
    cannot count: by meter, what had no price, or one in another currency."""

    used: int
    start_ms: int
    unrated: Mapping[str, int]


def span_of(limit: Limit, now_ms: int) -> tuple[int, int]:
    """[from, to) of what counts in the present period, in Unix milliseconds."""
    _, start_us, _ = period_at(limit.period, now_ms * 1000)
    return max(start_us // 1000, limit.since_ms, 0), now_ms + 1


def recount(
    limit: Limit, usage: Iterable[Used], table: Callable[[str], PriceTable | None], start_ms: int
) -> Recount:
    """Add up what a budget counts; `table` has the prices of a plan version, if there is one."""
    atoms, units = 0, 0
    unrated: dict[str, int] = {}
    known: dict[tuple[str | None, str, str], Prices | None] = {}
    for row in usage:
        if row.tier == INTERNAL:
            continue
        if limit.meter != COST:
            units += row.quantity if row.meter == limit.meter else 0
            continue
        where = (row.plan_version, row.deployment, row.tier)
        if where not in known:
            known[where] = _prices(limit, table, *where)
        prices = known[where]
        if prices is None or row.meter in prices.unpriced:
            unrated[row.meter] = unrated.get(row.meter, 0) + row.quantity
        else:
            atoms += prices.cost({row.meter: row.quantity})
    return Recount(units if limit.meter != COST else -(-atoms // ATOMS), start_ms, unrated)


def tables(
    plans: Plans, table: Callable[[PlanVersion], PriceTable]
) -> Callable[[str], PriceTable | None]:
    """By reference ("basic:3"); None for a plan that is not there."""

    def find(ref: str) -> PriceTable | None:
        name, _, version = ref.rpartition(":")
        try:
            return table(plans.plan(name, int(version)))
        except (MeuseError, ValueError):
            return None

    return find


def _prices(
    limit: Limit,
    table: Callable[[str], PriceTable | None],
    plan: str | None,
    model: str,
    tier: str,
) -> Prices | None:
    found = table(plan) if plan else None
    if plan is None or found is None or found.currency != limit.currency:
        return None
    return Prices(plan, found, model, tier)
