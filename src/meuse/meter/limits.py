"""Limits and budgets of the requests on one host: exact over all its gateway workers.

All limits of a request are checked and reserved under one lock of the shared file (`cells`);
a request that any of them refuses reserves nothing. Rate limits follow the Generic Cell Rate
Algorithm (ATM Forum Traffic Management 4.0, 4.4.2): one cell holds the theoretical arrival
time in Unix microseconds. Concurrency limits and budgets sum what each slot has `reserved` and
`settled`; a slot's cells count only under the stamp of the entry's generation and the present
period, so a period rolls by the first request after it and nobody has to clear cells.

Order on the hot path: `admit`, run, `settle`, append the usage record. What dies in between
leaves a reservation, which the next worker to start releases, or a settled amount without a
record: a killed worker may block one request too much per request in flight, never let one
through. Settled amounts survive kill -9 and restarts of worker and platform (see `cells` for
power loss). A request counts in the period in which it was admitted.

The clock may jump. Forwards, periods roll. Backwards, a budget stays in its newest period
until the clock has caught up, and a rate limit owes at most one full burst.

Knows no tenant, file format or protocol. Not safe for threads: it belongs to the worker's loop.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from meuse.core.clock import to_rfc3339
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Limit, Spent
from meuse.meter import cells
from meuse.meter.cells import Cells

SECOND_US = 1_000_000
RATE_US = {"second": SECOND_US, "minute": 60 * SECOND_US, "hour": 3600 * SECOND_US}
"""What a rate may be per, in microseconds."""
PERIODS = ("minute", "day", "month", "total")
REQUEST_METERS = ("requests", "rows", "prompt_tokens", "completion_tokens")
"""What is known of a request before its work is done, of tokens an upper bound."""
BUDGET_METERS = (*REQUEST_METERS, "training_ms", "training_tokens")
"""Jobs count as they go, and stop."""

_FIXED_US = {"minute": 60 * SECOND_US, "day": 86_400 * SECOND_US}
_ALWAYS_US = 1 << 62
_STAMP_BITS = 32  # of the period's number; minutes since 1970 fit until the year 10136

_ORDER = {"budget": 0, "concurrency": 1, "rate": 2}


def period_at(period: str, now_us: int) -> tuple[int, int, int]:
    """(number, start, end) of the UTC period that holds a moment, in Unix microseconds."""
    if period == "total":
        return 0, -_ALWAYS_US, _ALWAYS_US
    if period in _FIXED_US:
        width = _FIXED_US[period]
        number = now_us // width
        return number, number * width, (number + 1) * width
    moment = datetime.fromtimestamp(now_us // SECOND_US, UTC)
    number = moment.year * 12 + moment.month - 1
    return number, _month_us(number), _month_us(number + 1)


def _month_us(number: int) -> int:
    return int(datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()) * SECOND_US


class Check:
    """A limit made ready: where its cells are and what its numbers mean in microseconds."""

    __slots__ = ("at", "burst_us", "each_us", "end_us", "generation", "limit", "meter", "most",
                 "number", "start_us", "word")  # fmt: skip

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.word = self.at = self.generation = 0  # not looked up yet; no entry has generation 0
        self.each_us = self.burst_us = 0
        self.most = limit.amount if limit.hard else None
        self.meter = limit.meter if limit.kind == "budget" else None
        if limit.kind == "rate":
            self.each_us = -(-RATE_US[limit.period] // limit.amount)
            self.burst_us = self.each_us * (limit.burst or limit.amount)
        self.number, self.start_us, self.end_us = 0, 0, 0
        if limit.kind == "concurrency":
            self.start_us, self.end_us = -_ALWAYS_US, _ALWAYS_US

    def roll(self, now_us: int) -> None:
        self.number, self.start_us, self.end_us = period_at(self.limit.period, now_us)


Plan = tuple[Check, ...]
"""Every limit that a caller meets at a deployment."""


class Grant:
    """What a request has reserved until it is settled or released."""

    __slots__ = ("held", "rates", "short")

    def __init__(self) -> None:
        self.short = ("", 0)  # what it was refused for, and what is left
        # (word of the slot's stamp, stamp, reserved, meter)
        self.held: list[tuple[int, int, int, str | None]] = []
        self.rates: list[tuple[Check, int]] = []  # with the theoretical arrival time

    def held_of(self, meter: str) -> int | None:
        """How much of a meter it holds, the least where several limits count it; None: none do."""
        return min((need for _, _, need, m in self.held if m == meter), default=None)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a rate limit or budget stands: `left` of `most`, all of it again after `reset_us`
    (0: it never resets, or nothing is used)."""

    limit: Limit
    most: int
    left: int
    reset_us: int


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
            if limit.kind == "budget" and limit.meter not in REQUEST_METERS:
                continue
            subject = (limit.tenant, limit.project, limit.key, limit.model)
            self._by_subject.setdefault(subject, []).append(check)
        self._cells.keep_only(self._known, snapshot)

    def plan(self, tenant: str, project: str, key: str, model: str) -> Plan | None:
        """What holds for these callers at this deployment ("owner/name"); None: nothing."""
        if not self._by_subject:
            return None
        subjects = itertools.product((tenant, None), (project, None), (key, None), (model, None))
        found = [check for s in subjects for check in self._by_subject.get(s, ())]
        return tuple(sorted(found, key=lambda check: _ORDER[check.limit.kind])) or None

    def plan_of(self, budgets: Iterable[Limit]) -> Plan:
        """These and no others: for a job, whose process frees no entry of any limit."""
        return tuple(Check(budget) for budget in budgets)

    def admit(
        self,
        plan: Plan,
        needs: Mapping[str, int],
        now_us: int | None = None,
        *,
        elastic: str = "",
    ) -> Grant:
        """Reserve `needs` (by meter) under every limit of the plan, or nothing at all. Of the
        `elastic` meter less will do: what all budgets leave, at least 1 (`Grant.held_of`).

        Raises `budget_exceeded`, `rate_limited`, or `unavailable` when the file is busy.
        """
        now = time.time_ns() // 1000 if now_us is None else now_us
        grant = Grant()
        self._cells.lock()
        try:
            refused = self._check(plan, needs, now, grant)
            while (
                refused is not None and elastic and elastic == grant.short[0] and grant.short[1] > 0
            ):
                needs = {**needs, elastic: grant.short[1]}
                grant = Grant()
                refused = self._check(plan, needs, now, grant)
            if refused is None:
                self._reserve(grant)
        finally:
            self._cells.unlock()
        if refused is not None:
            raise refused
        return grant

    def _check(
        self, plan: Plan, needs: Mapping[str, int], now: int, grant: Grant
    ) -> MeuseError | None:
        """Fill in what the grant would hold; the refusal, if there is one. Under the lock."""
        file = self._cells
        read, memory, stamps = file.row, file.map, file.stamps
        for check in plan:
            row = read(memory, check.at)
            if row[0] != check.generation or not row[0]:
                row = self._look_up(check)
            if check.each_us:
                full = now + check.burst_us
                if row[1] > full:  # the clock went back: no more than a full burst is owed
                    row = (row[0], full)
                    file.words[check.word + 1] = full
                arrival = max(now, row[1]) + check.each_us
                if arrival > full:
                    return _too_fast(check.limit, arrival - full)
                grant.rates.append((check, arrival))
                continue
            if not check.start_us <= now < check.end_us:
                check.roll(now)
            stamp = row[0] << _STAMP_BITS | check.number
            used = reserved = 0
            for i in stamps:
                if row[i] >= stamp:
                    if row[i] > stamp:  # the clock went back; the period does not
                        stamp, used, reserved = row[i], 0, 0
                    reserved += row[i + 1]
                    used += row[i + 2]
            need = 1 if check.meter is None else needs.get(check.meter, 0)
            if check.most is not None and used + reserved + need > check.most:
                grant.short = check.meter or "", check.most - used - reserved
                return _no_room(check, stamp, used, reserved, need)
            grant.held.append((check.word + file.own, stamp, need, check.meter))
        return None

    def _reserve(self, grant: Grant) -> None:
        words = self._cells.words
        for check, arrival in grant.rates:
            words[check.word + 1] = arrival
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
        for check in plan:
            limit = check.limit
            if limit.kind == "concurrency":
                continue
            row = self._cells.row(self._cells.map, check.at)
            if not check.generation or row[0] != check.generation:
                row = (0,) * len(row)
            if check.each_us:
                behind = max(row[1] - now, 0)
                left = max(check.burst_us - behind, 0) // check.each_us
                found.append(Standing(limit, limit.burst or limit.amount, left, behind))
                continue
            number, _, end_us = period_at(limit.period, now)
            stamp = row[0] << _STAMP_BITS | number
            mine = [i for i in self._cells.stamps if row[0] and row[i] == stamp]
            left = max(limit.amount - sum(row[i + 1] + row[i + 2] for i in mine), 0)
            reset_us = 0 if limit.period == "total" else end_us - now
            found.append(Standing(limit, limit.amount, left, reset_us))
        return found

    def settle(self, grant: Grant, quantities: Mapping[str, int]) -> None:
        """Count what a request used in place of what it had reserved. Takes no lock, cannot
        fail; a second call changes nothing."""
        words = self._cells.words
        for word, stamp, need, meter in grant.held:
            if words[word] == stamp:  # else the period, and with it the reservation, is over
                # In this order: others may count both, but must not count neither. Stores of
                # one process are seen in order on x86-64.
                if meter is not None:
                    words[word + 2] += quantities.get(meter, 0)
                words[word + 1] -= need
        grant.held = []
        grant.rates = []

    def progress(self, grant: Grant, more: Mapping[str, int], left: Mapping[str, int]) -> None:
        """Count `more` as used already, and from now on hold `left`, both by meter; a meter
        that is not in `left` holds on. As `settle`, takes no lock and cannot fail."""
        words = self._cells.words
        held = []
        for word, stamp, need, meter in grant.held:
            keeps = need if meter is None else left.get(meter, need)
            if words[word] == stamp:
                if meter is not None:
                    words[word + 2] += more.get(meter, 0)
                words[word + 1] -= need - keeps
            held.append((word, stamp, keeps, meter))
        grant.held = held

    def release(self, grant: Grant) -> None:
        """Give back all that a request has reserved, as if it had never been."""
        rates = grant.rates
        self.settle(grant, {})
        if not rates:
            return
        file = self._cells
        try:
            file.lock()
        except MeuseError:
            return  # one request fewer for the caller; no reason to hold up the loop
        try:
            for check, _ in rates:
                if file.words[check.word] == check.generation:
                    file.words[check.word + 1] -= check.each_us
        finally:
            file.unlock()

    def _look_up(self, check: Check) -> tuple[int, ...]:
        check.word, check.generation = self._cells.find_or_make(
            cells.digest(check.limit.id), self._known
        )
        check.at = check.word * 8
        return self._cells.row(self._cells.map, check.at)


def spent(path: Path, budgets: Iterable[Limit], now_ms: int) -> dict[str, Spent]:
    """What the present period of each budget holds, by id, for another process than a worker."""
    rows = cells.read(path)
    found = {}
    for limit in budgets:
        number, _, end_us = period_at(limit.period, now_ms * 1000)
        row = rows.get(cells.digest(limit.id), (0,))
        stamp = row[0] << _STAMP_BITS | number
        stamp = max(stamp, *row[2::3]) if row[2::3] else stamp
        mine = [i for i in range(2, len(row), 3) if row[i] == stamp]
        resets = None if limit.period == "total" else end_us // 1000
        found[limit.id] = Spent(
            sum(row[i + 2] for i in mine), sum(row[i + 1] for i in mine), resets
        )
    return found


def _too_fast(limit: Limit, wait_us: int) -> MeuseError:
    seconds = -(-wait_us // SECOND_US)
    return MeuseError(
        Code.RATE_LIMITED,
        f"more than {limit.amount} requests a {limit.period} ({limit.id})",
        field="limit",
        hint=f"Try again in {seconds} s.",
        retry_after_s=seconds,
    )


def _no_room(check: Check, stamp: int, used: int, reserved: int, need: int) -> MeuseError:
    limit = check.limit
    if limit.kind == "concurrency":
        return MeuseError(
            Code.RATE_LIMITED,
            f"{limit.amount} requests are in flight already ({limit.id})",
            field="limit",
            hint="Wait for one to end.",
            retry_after_s=1,
        )
    left = max(limit.amount - used, 0)
    what = f"the budget of {limit.amount} {limit.meter} ({limit.id}) has {left} left"
    if left >= need:
        return MeuseError(
            Code.RATE_LIMITED,
            f"{what}, {reserved} of them held by requests in flight; this one needs {need}",
            field="budget",
            hint="Try again when they have ended.",
            retry_after_s=1,
        )
    resets = "It never resets."
    if limit.period != "total":
        resets = f"It resets at {to_rfc3339(_end_us(limit.period, stamp) // 1000)}."
    return MeuseError(
        Code.BUDGET_EXCEEDED, f"{what}; this request needs {need}", field="budget", hint=resets
    )


def _end_us(period: str, stamp: int) -> int:
    number = stamp & ((1 << _STAMP_BITS) - 1)
    return _month_us(number + 1) if period == "month" else (number + 1) * _FIXED_US[period]
