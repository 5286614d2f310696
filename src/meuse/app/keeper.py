"""Keeps the counts of a host's budgets true to the ledger: a loop in the ledger's process.

What a file of cells that was damaged had counted is computed again from usage, and prepaid
budgets follow the balance of their wallets. Until then those budgets refuse (`meter.limits`).
Of prepaid ones it also adds what no host counts: usage that outside services report, or that
nothing reserves, such as replicas kept. An invoice takes that off the wallet all the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from meuse.billing.budgets.prepaid import Balances, limit_of
from meuse.billing.budgets.recount import Recount, Usage, recount, span_of, tables
from meuse.billing.budgets.told import Told
from meuse.billing.ports import Plans
from meuse.core.clock import Clock, bucket_start, now_ms
from meuse.core.errors import MeuseError, not_found
from meuse.core.nouns import Limit, PriceTable
from meuse.meter import cells
from meuse.meter.cells import BusyError
from meuse.meter.limits import Limits, spent

log = logging.getLogger(__name__)

EVERY_S = 1.0
PAST_S = 60.0
"""How long a sum of the past is good: only records that come late change it."""
MOST_PAST = 10_000
SWEEP_S = 5.0
_FRESH_MS = 3_600_000
_MOST = 1 << 62  # a cell has 63 bits
REST = 10
"""Times as long as a look took it rests, at least."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """`ingest` reads the journal to its end; `complete_to` is up to when all usage is in, ms."""

    path: Path
    told: Told
    plans: Plans
    tenant_plan: Callable[[str], str | None]
    usage: Usage
    balances: Balances
    ingest: Callable[[], object]
    complete_to: Callable[[], int]
    clock: Clock = now_ms
    _most: dict[str, int] = field(default_factory=dict)
    _swept: dict[str, float] = field(default_factory=dict)
    _waiting: set[str] = field(default_factory=set)
    _past: dict[tuple[str, int, int], tuple[float, int]] = field(default_factory=dict)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                self.look()
            except BusyError:
                pass
            except Exception:
                log.exception("the budgets of this host could not be looked after")
            stop.wait(max(EVERY_S, REST * (time.monotonic() - began)))

    def look(self) -> None:
        """Write what is not there yet, or has moved."""
        born = cells.born_ms(self.path)
        if not born:
            return
        rows = cells.read(self.path)
        budgets = [limit for limit in self.told.limits() if limit.kind == "budget"]
        counted = {one.id for one in budgets if rows.get(cells.digest(one.id), (0, 0))[1]}
        lost = [
            limit
            for limit in budgets
            if limit.id not in counted and (limit.moves or 0 < limit.since_ms < born)
        ]
        waiting = self._incomplete(lost, born) if lost else set()
        lost = [limit for limit in lost if limit.id not in waiting]
        budgets = [limit for limit in budgets if limit.id not in waiting]
        now = self.clock()
        if len(self._past) > MOST_PAST:
            self._past.clear()
        most = self._limits_of([limit for limit in budgets if limit.moves], now)
        moved = [
            limit
            for limit in budgets
            if limit.id in most and most[limit.id] != self._most.get(limit.id)
        ]
        lost = [limit for limit in lost if not limit.moves or limit.id in most]
        paid = [limit for limit in budgets if limit.id in most]
        used = {one.id: min(self.recounted(one, now).used, _MOST) for one in lost}
        used |= {one.id: min(self._so_far(one, now), _MOST) for one in paid if one.id not in used}
        seen = spent(self.path, paid, now)  # after the ledger: what it has was counted before
        behind = [limit for limit in paid if seen[limit.id].used < used[limit.id]]
        if not lost and not moved and not behind:
            self._free_what_the_dead_hold(rows)
            return
        limits = Limits(self.path)
        try:
            for limit in {one.id: one for one in (*lost, *moved, *behind)}.values():
                limits.seed(limit, used.get(limit.id, 0), now * 1000, most.get(limit.id))
        finally:
            limits.close()
        self._most.update(most)
        for limit in lost:
            if not limit.moves:
                log.warning("%s counts on from %d, as the ledger has it", limit.id, used[limit.id])

    def _incomplete(self, lost: list[Limit], born: int) -> set[str]:
        """Those whose usage before the file was made is not all in, since a segment of the journal
        is quarantined, say. They refuse until it is."""
        try:
            self.ingest()
        except Exception:
            log.exception("the journal cannot be read to its end")
            return {limit.id for limit in lost}
        if self.complete_to() >= born:
            self._waiting.clear()
            return set()
        found = {limit.id for limit in lost if limit.since_ms < born}
        for id in sorted(found - self._waiting):
            log.error("%s cannot be counted anew yet: usage before it is not all in", id)
        self._waiting.update(found)
        return found

    def _limits_of(self, budgets: list[Limit], now: int) -> dict[str, int]:
        """By id; one that cannot be computed is told of, and holds up no other."""
        found = {}
        for limit in budgets:
            try:
                found[limit.id] = min(self._limit_of(limit, now), _MOST)
            except Exception:
                log.exception("how much %s may spend is not known", limit.id)
        return found

    def _free_what_the_dead_hold(self, rows: Mapping[bytes, tuple[int, ...]]) -> None:
        """Now and then: a process that was killed, a cancelled job's say, has reserved for good.
        Whoever opens the file takes its slot and clears it."""
        at = time.monotonic()
        if at - self._swept.get("", 0.0) > SWEEP_S and any(any(row[3::3]) for row in rows.values()):
            self._swept[""] = at
            Limits(self.path).close()

    def recounted(self, limit: Limit, now: int) -> Recount:
        """What a budget comes to by the ledger's records, in its present period."""
        start, end = span_of(limit, now)
        return recount(limit, self.usage(limit, start, end), self._tables, start)

    def _so_far(self, limit: Limit, now: int) -> int:
        """What a prepaid budget comes to; of what lies long back, as it was a minute ago."""
        border = max(bucket_start(now - _FRESH_MS), limit.since_ms)
        rows = self.usage(limit, border, now + 1)
        return (
            self._counted(limit, limit.since_ms, border)
            + recount(limit, rows, self._tables, border).used
        )

    def _counted(self, limit: Limit, start: int, end: int) -> int:
        if start >= end:
            return 0
        key, at = (limit.id, start, end), time.monotonic()
        known = self._past.get(key)
        if known is None or at - known[0] > PAST_S:
            rows = self.usage(limit, start, end)
            known = at, recount(limit, rows, self._tables, start).used
            self._past[key] = known
        return known[1]

    def tell(self, budget: str) -> dict[str, Any]:
        """The answer of the ledger's API, usage read to its end. Raises `not_found`."""
        found = next((one for one in self.told.limits() if one.id == budget), None)
        if found is None or found.kind != "budget":
            raise not_found("budget", budget)
        self.ingest()
        counted = self.recounted(found, self.clock())
        return {
            "id": budget,
            "used": counted.used,
            "start_ms": counted.start_ms,
            "unrated": dict(counted.unrated),
            "complete_to_ms": self.complete_to(),
        }

    def _tables(self, ref: str) -> PriceTable | None:
        return tables(self.plans, self.told.table)(ref)

    def _limit_of(self, limit: Limit, now: int) -> int:
        assert limit.tenant is not None
        wallet = self.balances(limit.tenant, limit.currency)
        name = self.tenant_plan(limit.tenant)
        try:
            plan = self.plans.plan(name) if name else None
        except MeuseError:
            plan = None
        if plan is None:
            return 0
        return limit_of(limit, wallet, plan, partial(self._counted, limit), now)
