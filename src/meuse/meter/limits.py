"""Limits and budgets of the requests on one host: exact over all its gateway workers.

All limits of a request are checked and reserved under one lock of the shared file (`cells`);
a request that any of them refuses reserves nothing. Rate limits follow the Generic Cell Rate
Algorithm (ATM Forum Traffic Management 4.0, 4.4.2): one cell holds the theoretical arrival
time in Unix microseconds; what requests did not use of what they had reserved (tokens) each slot
adds up in its `settled` cell, and it is taken off. Concurrency limits and budgets sum what each
slot has `reserved` and `settled`; a slot's cells count only under the stamp of the entry's
generation and the present period, so a period rolls by the first request after it and nobody has
to clear cells. Budgets of money are counted in 10⁻⁶ of their currency (`prices`).

Order on the hot path: `admit`, run, `settle`, append the usage record. What dies in between
leaves a reservation, which the next worker to start releases, or a settled amount without a
record: a killed worker may block one request too much per request in flight, never let one
through. Settled amounts survive kill -9 and restarts of worker and platform (see `cells` for
power loss). A request counts in the period in which it was admitted.

The clock may jump. Forwards, periods roll. Backwards, a budget stays in its newest period
until the clock has caught up, and a rate limit owes at most one full burst.

What a damaged file had counted is lost, and counted anew from the ledger (`seed`); until then
those budgets refuse.

Knows no tenant, file format or protocol. Not safe for threads: it belongs to the worker's loop.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from meuse.core.errors import MeuseError
from meuse.core.nouns import COST, Limit, Spent
from meuse.core.periods import STAMP_BITS, period_at
from meuse.core.prices import ATOMS, Prices
from meuse.meter import cells, refusals
from meuse.meter.cells import Cells
from meuse.meter.checks import TOKENS, Check, Grant, Plan, Standing, tokens_of

REQUEST_METERS = ("requests", "rows", "prompt_tokens", "completion_tokens")
"""What is known of a request before its work is done, of tokens an upper bound."""
BUDGET_METERS = (*REQUEST_METERS, "training_ms", "training_tokens", COST)
"""Jobs count as they go, and stop."""

_LEAST = 4
"""An answer without a bound of its own is let through by a rate of tokens when this part of a
whole burst is there for it: better wait than be cut short after a few words."""


class Limits:
    """The limits of one worker. One per process; raises OSError when the file cannot be had."""

    def __init__(self, path: Path) -> None:
        self._cells = Cells(path)
        self._checks: dict[Limit, Check] = {}
        self._known: set[bytes] | None = None
        self._by_subject: dict[tuple[str | None, ...], list[Check]] = {}

    def close(self) -> None:
        self._cells.close()

    def load(self, limits: Iterable[Limit], snapshot: int) -> None:
        """From now on these hold; plans made before are out of date. Entries of limits that
        are gone are freed. `snapshot` is its number: only the newest may free."""
        before = self._checks
        checks = {limit: before.get(limit) or Check(limit) for limit in limits}
        if checks.keys() == before.keys() and self._known is not None:
            return
        self._checks = checks
        self._known = {cells.digest(limit.id) for limit in checks}
        self._by_subject = {}
        for limit, check in checks.items():
            if limit.kind == "budget" and limit.meter not in (*REQUEST_METERS, COST):
                continue
            subject = (limit.tenant, limit.project, limit.key, limit.model)
            self._by_subject.setdefault(subject, []).append(check)
        self._cells.keep_only(self._known, snapshot)

    def plan(
        self,
        tenant: str,
        project: str,
        key: str,
        model: str,
        prices: Callable[[], Prices | None] = lambda: None,
    ) -> Plan | None:
        """What holds for these callers at this deployment ("owner/name"); None: nothing.
        `prices` are asked for where money is counted."""
        if not self._by_subject:
            return None
        subjects = itertools.product((tenant, None), (project, None), (key, None), (model, None))
        found = [check for s in subjects for check in self._by_subject.get(s, ())]
        paid = any(check.meter == COST for check in found)
        return Plan(found, prices() if paid else None) or None

    def plan_of(self, budgets: Iterable[Limit], prices: Prices | None = None) -> Plan:
        """These and no others: for a job, whose process frees no entry of any limit."""
        return Plan([Check(budget) for budget in budgets], prices)

    def admit(
        self,
        plan: Plan,
        needs: Mapping[str, int],
        now_us: int | None = None,
        *,
        elastic: str = "",
        least: int = 1,
    ) -> Grant:
        """Reserve `needs` (by meter) under every limit of the plan, or nothing at all. Of the
        `elastic` meter less will do: what all budgets leave, at least `least` (`Grant.held_of`).

        Raises `budget_exceeded`, `rate_limited`, `limit_exceeded`, `unrated`, or `unavailable`
        when the file is busy or a budget not counted yet.
        """
        if (unknown := plan.refusal(needs)) is not None:
            raise unknown
        now = time.time_ns() // 1000 if now_us is None else now_us
        grant = Grant(plan.prices, plan.needs(needs))
        self._cells.lock()
        try:
            refused = self._check(plan, now, grant, elastic)
            while refused is not None and grant.short >= least:
                needs = {**needs, elastic: grant.short}
                grant = Grant(plan.prices, plan.needs(needs))
                refused = self._check(plan, now, grant, elastic)
            if refused is None:
                self._reserve(grant)
        finally:
            self._cells.unlock()
        if refused is not None:
            raise refused
        return grant

    def _check(self, plan: Plan, now: int, grant: Grant, elastic: str) -> MeuseError | None:
        """Fill in what the grant would hold; the refusal, if there is one. Under the lock."""
        file, needs = self._cells, grant.needs
        read, memory, stamps = file.row, file.map, file.stamps
        for check in plan.checks:
            row = read(memory, check.at)
            if row[0] != check.generation or not row[0]:
                row = self._look_up(check)
            if check.rate_us:
                refused = self._check_rate(check, row, now, grant, elastic)
                if refused is not None:
                    return refused
                continue
            if not check.start_us <= now < check.end_us:
                check.roll(now)
            stamp = row[0] << STAMP_BITS | check.number
            used = reserved = 0
            for i in stamps:
                if row[i] >= stamp:
                    if row[i] > stamp:  # the clock went back; the period does not
                        stamp, used, reserved = row[i], 0, 0
                    reserved += row[i + 1]
                    used += row[i + 2]
            need = 1 if check.meter is None else needs.get(check.meter, 0)
            most = row[1] - 1 if check.moves else check.most
            if most is not None and used + reserved + need > most:
                if check.meter is None:
                    return refusals.no_place(check.limit)
                grant.short = _fitting(grant, check.meter, elastic, most - used - reserved)
                return refusals.no_room(check.limit, most, stamp, used, reserved, need)
            grant.held.append((check.word + file.own, stamp, need, check))
        return None

    def _check_rate(
        self, check: Check, row: tuple[int, ...], now: int, grant: Grant, elastic: str
    ) -> MeuseError | None:
        file, stamp = self._cells, row[0] << STAMP_BITS
        returned = sum([row[i + 2] for i in file.stamps if row[i] == stamp])
        full = now + check.burst_us
        at = row[1] - returned + check.debt_us
        if at > full:  # the clock went back: no more than a full burst is owed
            at = full
            file.words[check.word + 1] = full + returned
            check.debt_us = 0
        at = max(now, at)
        need = 1 if check.meter != TOKENS else grant.needs[TOKENS]
        span = check.span(need)
        if at + span > full:
            least = need
            if elastic and check.meter == TOKENS:
                least -= grant.needs[elastic]
                burst = check.limit.burst or check.limit.amount
                least = min(need, max(least + 1, min(least + burst // _LEAST, burst)))
                left = (full - at) * check.limit.amount // check.rate_us
                if left >= least:
                    grant.short = left - need + grant.needs[elastic]
            if check.span(least) > check.burst_us:
                return refusals.too_large(check.limit, need)
            return refusals.too_fast(check.limit, max(at + check.span(least) - full, 1))
        grant.rates.append((check.word + file.own, stamp, span, check, at + span + returned))
        return None

    def _reserve(self, grant: Grant) -> None:
        words = self._cells.words
        for _, _, _, check, at in grant.rates:
            words[check.word + 1] = at
            check.debt_us = 0
        for word, stamp, need, _ in grant.held:
            if words[word] != stamp:
                words[word + 1] = words[word + 2] = 0
                words[word] = stamp  # last: what it had counted was another period's
            words[word + 1] += need

    def standings(self, plan: Plan, now_us: int | None = None) -> list[Standing]:
        """How rate limits and budgets of a plan stand; one that nobody has met yet is whole.
        Takes no lock: a request that is admitted meanwhile may be half seen."""
        now = time.time_ns() // 1000 if now_us is None else now_us
        found = []
        for check in plan.checks:
            limit = check.limit
            if limit.kind == "concurrency":
                continue
            row = self._cells.row(self._cells.map, check.at)
            if not check.generation or row[0] != check.generation:
                row = (0,) * len(row)
            number, _, end_us = (0, 0, 0) if check.rate_us else period_at(limit.period, now)
            stamp = row[0] << STAMP_BITS | number
            mine = [i for i in self._cells.stamps if row[0] and row[i] == stamp]
            if check.rate_us:
                behind = max(row[1] - sum(row[i + 2] for i in mine) + check.debt_us - now, 0)
                left = max(check.burst_us - behind, 0) * limit.amount // check.rate_us
                found.append(Standing(limit, limit.burst or limit.amount, left, behind))
                continue
            most = max(row[1] - 1 if check.moves else limit.amount - limit.aside, 0)
            left = max(most - sum(row[i + 1] + row[i + 2] for i in mine), 0)
            reset_us = 0 if limit.period == "total" else end_us - now
            found.append(Standing(limit, most, left, reset_us))
        return found

    def settle(self, grant: Grant, quantities: Mapping[str, int]) -> None:
        """Count what a request used in place of what it had reserved. Takes no lock, cannot
        fail; a second call changes nothing."""
        words, prices = self._cells.words, grant.prices
        micros = rest = 0
        if prices is not None:
            micros, rest = divmod(prices.cost(quantities), ATOMS)
        for word, stamp, need, check in grant.held:
            if words[word] == stamp:  # else the period, and with it the reservation, is over
                # In this order: others may count both, but must not count neither. Stores of
                # one process are seen in order on x86-64.
                if not check.is_money:
                    if check.meter is not None:
                        words[word + 2] += quantities.get(check.meter, 0)
                elif rest and (rest > check.spare or stamp != check.spare_of):
                    words[word + 2] += micros + check.rounded(stamp, rest)
                else:  # as `rounded` has it, without the call: what most come to
                    check.spare -= rest
                    if micros:
                        words[word + 2] += micros
                words[word + 1] -= need
        if grant.rates:
            self._return(grant, grant.tokens + tokens_of(quantities))
        grant.held = []
        grant.rates = []

    def progress(self, grant: Grant, more: Mapping[str, int], left: Mapping[str, int]) -> None:
        """Count `more` as used already, and from now on hold `left`, both by meter; a meter
        that is not in `left` holds on. As `settle`, takes no lock and cannot fail."""
        words, prices = self._cells.words, grant.prices
        needs = {**grant.needs, **left}
        micros = rest = 0
        if prices is not None:
            micros, rest = divmod(prices.cost(more), ATOMS)
            needs[COST] = prices.bound(needs)
        held = []
        for word, stamp, need, check in grant.held:
            keeps = need if check.meter is None else needs.get(check.meter, need)
            if words[word] == stamp:
                if check.is_money:
                    words[word + 2] += micros + check.rounded(stamp, rest)
                elif check.meter is not None:
                    words[word + 2] += more.get(check.meter, 0)
                words[word + 1] -= need - keeps
            held.append((word, stamp, keeps, check))
        grant.held, grant.needs = held, needs
        grant.tokens += tokens_of(more)

    def release(self, grant: Grant) -> None:
        """Give back all that a request has reserved, as if it had never been."""
        for word, stamp, span, _, _ in grant.rates:
            self._credit(word, stamp, span)
        grant.rates = []
        self.settle(grant, {})

    def _return(self, grant: Grant, tokens: int) -> None:
        """What was reserved of rates of tokens and not used; more than that is owed."""
        for word, stamp, span, check, _ in grant.rates:
            if check.meter == TOKENS:
                back = span - check.span(tokens)
                check.debt_us += max(-back, 0)
                self._credit(word, stamp, back)

    def _credit(self, word: int, stamp: int, span: int) -> None:
        words = self._cells.words
        if span > 0:
            if words[word] != stamp:
                words[word + 1] = words[word + 2] = 0
                words[word] = stamp
            words[word + 2] += span

    def seed(self, limit: Limit, used: int, now_us: int, most: int | None = None) -> None:
        """Let a budget whose counts were lost count on from `used`. One that moves gets `most`, and
        `used` where it has counted less. Raises `unavailable` when the file is busy."""
        self._cells.lock()
        try:
            word, generation = self._cells.find_or_make(cells.digest(limit.id), None)
            words = self._cells.words
            if not words[word + 1] or limit.moves:
                stamp = generation << STAMP_BITS | period_at(limit.period, now_us)[0]
                mine = word + self._cells.own
                if words[mine] != stamp:
                    words[mine + 1] = words[mine + 2] = 0
                    words[mine] = stamp
                row = self._cells.row(self._cells.map, word * 8)
                counted = sum(row[i + 2] for i in self._cells.stamps if row[i] == stamp)
                words[mine + 2] += max(used - counted, 0)  # soft ones have counted on
            words[word + 1] = 1 + max(most or 0, 0)
        finally:
            self._cells.unlock()

    def _look_up(self, check: Check) -> tuple[int, ...]:
        file, limit = self._cells, check.limit
        word, generation = file.find_or_make(cells.digest(limit.id), self._known)
        row = file.row(file.map, word * 8)
        lost = limit.kind == "budget" and 0 < limit.since_ms < file.born_ms
        if limit.hard and not row[1] and (lost or limit.moves):
            raise refusals.uncounted(limit)
        check.word, check.generation, check.at = word, generation, word * 8
        return row


def _fitting(grant: Grant, meter: str, elastic: str, left: int) -> int:
    """How much of the elastic meter `left` of a budget is enough for."""
    if not elastic or left <= 0:
        return 0
    if meter == elastic:
        return left
    if meter == COST and grant.prices is not None:
        return grant.prices.fitting(grant.needs, elastic, left)
    return 0


def spent(path: Path, budgets: Iterable[Limit], now_ms: int) -> dict[str, Spent]:
    """What the present period of each budget holds, by id, for another process than a worker."""
    rows = cells.read(path)
    found = {}
    for limit in budgets:
        number, _, end_us = period_at(limit.period, now_ms * 1000)
        row = rows.get(cells.digest(limit.id), (0, 0))
        stamp = row[0] << STAMP_BITS | number
        stamp = max(stamp, *row[2::3]) if row[2::3] else stamp
        mine = [i for i in range(2, len(row), 3) if row[i] == stamp]
        resets = None if limit.period == "total" else end_us // 1000
        most = max(row[1] - 1, 0) if limit.moves else limit.amount
        found[limit.id] = Spent(
            sum(row[i + 2] for i in mine), sum(row[i + 1] for i in mine), resets, most
        )
    return found
