"""meter.limits and meter.cells"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Limit, Spent
from meuse.core.periods import period_at
from meuse.meter import cells
from meuse.meter.checks import Grant
from meuse.meter.limits import Limits, spent

CHILD = Path(__file__).with_name("limit_child.py")
S = 1_000_000
_numbers = itertools.count()
NOW = 1_767_225_600 * S  # 2026-01-01T00:00:00Z


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * S


def budget(amount: int, period: str = "total", **more: Any) -> Limit:
    return Limit(f"budget-{amount}", "budget", amount, period, more.pop("meter", "rows"), **more)


def fresh_id() -> str:
    """For examples that share a file: a new limit counts from zero."""
    return f"limit-{next(_numbers)}"


class Host:
    """One worker's limits with a clock of the test's."""

    def __init__(self, path: Path, *limits: Limit) -> None:
        self.path = path
        self.limits = Limits(path)
        self.now = NOW
        self.number = 0
        self.load(*limits)

    def load(self, *limits: Limit) -> None:
        self.number += 1
        self.limits.load(limits, self.number)
        self.plan = self.limits.plan("acme", "default", "key", "acme/m")

    def admit(self, rows: int = 1) -> Grant:
        assert self.plan is not None
        return self.limits.admit(self.plan, {"requests": 1, "rows": rows}, self.now)

    def use(self, rows: int = 1) -> None:
        self.limits.settle(self.admit(rows), {"requests": 1, "rows": rows})

    def refused(self, rows: int = 1) -> MeuseError:
        with pytest.raises(MeuseError) as refusal:
            self.admit(rows)
        return refusal.value

    def spent(self, limit: Limit) -> Spent:
        return spent(self.path, [limit], self.now // 1000)[limit.id]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Make a host; at most one at a time is open, as in a worker."""
    opened: list[Host] = []

    def make(*limits: Limit) -> Host:
        close()
        opened.append(Host(tmp_path / "limits" / "cells", *limits))
        return opened[-1]

    def close() -> None:
        for old in opened:
            old.limits.close()
        opened.clear()

    yield make
    close()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a child on the same file and wait until it says that it is ready."""
    started = []

    def start(do: str, *limits: Limit) -> Any:
        body = {
            "path": str(tmp_path / "limits" / "cells"),
            "do": do,
            "journal": str(tmp_path / "journal"),
            "limits": [
                {name: getattr(limit, name) for name in Limit.__slots__} for limit in limits
            ],
        }
        process = subprocess.Popen(
            [sys.executable, str(CHILD), json.dumps(body)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Bucket:
    """A token bucket in microseconds: the plain model of a rate limit."""

    def __init__(self, each: int, burst: int) -> None:
        self.each, self.most = each, each * burst
        self.level, self.at = self.most, 0

    def take(self, now: int) -> bool:
        self.level = min(self.most, self.level + now - self.at)
        self.at = now
        if self.level < self.each:
            return False
        self.level -= self.each
        return True


@settings(deadline=None)  # other work may hold this machine up
@given(
    requests=st.integers(1, 5000),
    per=st.sampled_from(["second", "minute", "hour"]),
    burst=st.integers(1, 6),
    waits=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    shift=st.floats(0, 1.5),
)
def test_a_rate_limit_is_a_token_bucket(
    tmp_path_factory: pytest.TempPathFactory,
    requests: int, per: str, burst: int, waits: list[int], shift: float,
) -> None:  # fmt: skip
    """GCRA admits exactly what a token bucket of that rate and size does."""
    path = tmp_path_factory.getbasetemp() / "gcra" / "cells"
    host = Host(path, Limit(fresh_id(), "rate", requests, per, burst=burst))
    width = {"second": 1, "minute": 60, "hour": 3600}[per] * S
    each = -(-width // requests)
    bucket = Bucket(each, burst)
    bucket.at = NOW
    try:
        for wait in waits:
            host.now += int(wait * shift * each)
            if bucket.take(host.now):
                host.admit()
            else:
                error = host.refused()
                assert (error.code, error.http_status) == (Code.RATE_LIMITED, 429)
                assert error.retry_after_s is not None
                assert 1 <= error.retry_after_s <= each // S + 1
    finally:
        host.limits.close()


def test_retry_after_is_when_it_works_again(host: Callable[..., Host]) -> None:
    """The seconds of a refusal are enough, and no second more than needed."""
    one = host(Limit("r", "rate", 4, "minute", burst=2))
    one.use(), one.use()
    assert one.refused().retry_after_s == 15
    one.now += 14 * S
    assert one.refused().retry_after_s == 1
    one.now += S
    one.use()
    assert one.refused().retry_after_s == 15


Step = tuple[str, int, int]


@settings(deadline=None)  # other work may hold this machine up
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["admit", "admit", "settle", "release"]),
            st.integers(1, 4),
            st.sampled_from([0, 0, S, 20 * S, 61 * S]),
        ),
        max_size=60,
    )
)
def test_decisions_follow_a_plain_model(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    """Two budgets, a concurrency limit and a soft budget together: every admission, refusal
    and sum is what plain bookkeeping says, over periods that roll."""
    path = tmp_path_factory.getbasetemp() / "model" / "cells"
    minute, total, soft = (
        Limit(fresh_id(), "budget", 6, "minute", "rows"),
        Limit(fresh_id(), "budget", 25, "total", "rows"),
        Limit(fresh_id(), "budget", 1, "total", "rows", hard=False),
    )
    host = Host(path, minute, total, soft, Limit(fresh_id(), "concurrency", 3))
    open_: list[tuple[Grant, int, int]] = []  # grant, rows, minute
    settled: dict[int, int] = {}
    used = 0
    try:
        for do, rows, wait in steps:
            host.now += wait
            now = host.now // (60 * S)
            if do == "admit":
                held = sum(r for _, r, m in open_ if m == now)
                all_held = sum(r for _, r, _ in open_)
                fits = (
                    settled.get(now, 0) + held + rows <= 6
                    and used + all_held + rows <= 25
                    and len(open_) < 3
                )
                if fits:
                    open_.append((host.admit(rows), rows, now))
                else:
                    host.refused(rows)
            elif open_:
                grant, took, began = open_.pop(0)
                if do == "settle":
                    host.limits.settle(grant, {"requests": 1, "rows": took})
                    settled[began] = settled.get(began, 0) + took
                    used += took
                else:
                    host.limits.release(grant)
            reserved = sum(r for _, r, _ in open_)
            there = spent(path, [minute, total, soft], host.now // 1000)
            assert there[total.id] == there[soft.id] == Spent(used, reserved, None)
            held = sum(r for _, r, m in open_ if m == now)
            end_ms = (now + 1) * 60_000
            assert there[minute.id] == Spent(settled.get(now, 0), held, end_ms)
    finally:
        host.limits.close()


def test_what_one_limit_refuses_reserves_nothing(host: Callable[..., Host]) -> None:
    """A refusal by any limit leaves every cell of every limit as it was."""
    rate, few = Limit("r", "rate", 10, "minute"), Limit("c", "concurrency", 1)
    one = host(budget(100), rate, few, budget(3, meter="requests"))
    grant = one.admit(5)
    before = bytes(one.limits._cells.map)
    assert one.refused(5).code is Code.RATE_LIMITED
    assert bytes(one.limits._cells.map) == before
    one.limits.release(grant)
    assert one.spent(budget(100)) == Spent(0, 0, None)
    for _ in range(3):
        one.use()
    before = bytes(one.limits._cells.map)
    error = one.refused()
    assert (error.code, error.http_status) == (Code.BUDGET_EXCEEDED, 402)
    assert bytes(one.limits._cells.map) == before


def test_refusals_of_a_budget(host: Callable[..., Host]) -> None:
    """402 when the rest is less than the need, with what is left and when it resets; 429 when
    only requests in flight stand in the way."""
    one = host(budget(10, "month"))
    one.use(4)
    grant = one.admit(5)
    error = one.refused(2)
    assert (error.code, error.retry_after_s, error.field) == (Code.RATE_LIMITED, 1, "budget")
    error = one.refused(7)
    assert (error.code, error.retry_after_s) == (Code.BUDGET_EXCEEDED, None)
    assert "6 left" in error.message
    assert "needs 7" in error.message
    assert error.hint == "It resets at 2026-02-01T00:00:00.000Z."
    one.limits.settle(grant, {"requests": 1, "rows": 1})  # fewer than reserved
    one.use(5)
    assert one.refused().code is Code.BUDGET_EXCEEDED


def test_soft_budgets_count_and_never_refuse(host: Callable[..., Host]) -> None:
    """A budget that is not hard lets everything through and says what was used."""
    soft = budget(3, hard=False)
    one = host(soft)
    for _ in range(5):
        one.use(2)
    assert one.spent(soft).used == 10


def test_plans_hold_what_matches(host: Callable[..., Host]) -> None:
    """A limit concerns a request when every subject that it names does; no limit costs None."""
    one = host(
        Limit("all-of-m", "concurrency", 1, model="acme/m"),
        Limit("acme", "concurrency", 1, tenant="acme"),
        Limit("project", "concurrency", 1, tenant="acme", project="lab"),
        Limit("key-on-m", "concurrency", 1, key="k1", model="acme/m"),
    )

    def plan(*subject: str) -> set[str]:
        return {check.limit.id for check in one.limits.plan(*subject) or ()}

    assert plan("acme", "default", "k2", "acme/m") == {"all-of-m", "acme"}
    assert plan("acme", "lab", "k1", "acme/m") == {"all-of-m", "acme", "project", "key-on-m"}
    assert plan("blue", "lab", "k1", "blue/m") == set()
    assert one.limits.plan("blue", "lab", "k1", "blue/m") is None


@pytest.mark.parametrize(
    ("period", "inside", "end"),
    [
        ("minute", "2026-02-28T23:59:12", "2026-03-01T00:00:00"),
        ("day", "2024-02-29T00:00:00", "2024-03-01T00:00:00"),
        ("month", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
        ("month", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
    ],
)
def test_periods_roll_in_utc(host: Callable[..., Host], period: str, inside: str, end: str) -> None:
    """A budget is full until the last microsecond of its period and whole in the next."""
    limit = budget(2, period)
    one = host(limit)
    one.now = us(inside)
    one.use(2)
    one.now = us(end) - 1
    assert one.refused().code is Code.BUDGET_EXCEEDED
    assert one.spent(limit).resets_ms == us(end) // 1000
    one.now += 1
    assert one.spent(limit).used == 0
    one.use(2)
    assert one.refused().code is Code.BUDGET_EXCEEDED
    assert period_at(period, us(end) - 1)[2] == us(end) == period_at(period, us(end))[1]


def test_a_request_counts_in_the_period_of_its_admission(host: Callable[..., Host]) -> None:
    """What is settled after the period's end takes nothing from the next one."""
    limit = budget(5, "minute")
    one = host(limit)
    grant = one.admit(5)
    one.now += 60 * S
    one.use(3)
    one.limits.settle(grant, {"requests": 1, "rows": 5})
    assert one.spent(limit) == Spent(3, 0, (one.now // S + 60) * 1000)


def test_a_clock_that_goes_back_gives_nothing(host: Callable[..., Host]) -> None:
    """Neither a used period nor a used burst comes back; a rate is never shut for longer than
    one full burst takes."""
    one = host(budget(2, "minute"))
    one.use(2)
    one.now -= 60 * S
    assert one.refused().code is Code.BUDGET_EXCEEDED
    one = host(Limit("r", "rate", 60, "minute", burst=10))
    for _ in range(10):
        one.use()
    one.now -= 3600 * S
    assert one.refused().retry_after_s == 1
    one.now += 10 * S
    for _ in range(10):
        one.use()


def test_restarts_forget_nothing(host: Callable[..., Host]) -> None:
    """What was settled, and how fast requests came, is there after the file is opened anew."""
    limits = budget(10), Limit("r", "rate", 1, "hour", burst=3)
    one = host(*limits)
    one.use(4), one.use(3)
    one = host(*limits)
    assert one.spent(limits[0]).used == 7
    assert one.refused(4).code is Code.BUDGET_EXCEEDED
    one.use(3)
    one = host(limits[1])
    assert one.refused().code is Code.RATE_LIMITED


def test_limits_that_are_gone_are_freed(host: Callable[..., Host]) -> None:
    """A limit that no snapshot has any more counts from zero when it comes again; one that an
    older snapshot does not know yet is kept."""
    old, new = budget(10), budget(20)
    one = host(old, new)
    one.use(7)
    one.limits.load([old], 0)  # a worker that is behind
    assert one.spent(new).used == 7
    one.load(new)
    assert (one.spent(old).used, one.spent(new).used) == (0, 7)
    one.load(old, new)
    one.use(10)
    assert (one.spent(old).used, one.spent(new).used) == (10, 17)


def test_a_full_file_refuses_what_it_cannot_count(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More limits than entries: what does not fit is unavailable, never let through; entries
    that nobody knows any more make room."""
    monkeypatch.setattr(cells, "CAPACITY", 4)
    monkeypatch.setattr(cells, "_FIXED", (*cells._FIXED[:2], 4, cells.SLOTS))
    monkeypatch.setattr(cells, "_ENTRIES", cells._TABLE + 64)
    one = host(*(budget(i) for i in range(10, 14)))
    one.use()
    one.load(*(budget(i) for i in range(10, 15)))
    assert one.refused().code is Code.UNAVAILABLE
    one.limits.load([budget(i) for i in range(20, 24)], 0)  # frees nothing by itself
    one.plan = one.limits.plan("acme", "default", "key", "acme/m")
    one.use()


def begin(process: Any) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_full_disk_refuses_what_it_cannot_count(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for a limit's cells its requests are unavailable until there is room."""

    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    one = host(budget(5))
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        assert one.refused().code is Code.UNAVAILABLE
    one.use(5)


def test_processes_share_a_budget_exactly(
    host: Callable[..., Host], child: Callable[..., Any], tmp_path: Path
) -> None:
    """Four processes that spend one budget as fast as they can get exactly its limit together."""
    limit = budget(4000, meter="requests")
    started = [child("spend", limit) for _ in range(4)]
    for process in started:
        begin(process)
    for process in started:
        assert process.wait(60) == 0
    assert (tmp_path / "journal").stat().st_size == 4000
    one = host(limit)
    assert one.spent(limit) == Spent(4000, 0, None)
    assert one.limits._cells.words[cells._USED_SLOTS] == 4  # each had a slot of its own


def test_sudden_deaths_never_overspend(
    host: Callable[..., Host], child: Callable[..., Any], tmp_path: Path
) -> None:
    """Processes that spend a budget are killed and followed by others, over and over: what was
    served is at most the limit, and short of it by at most one for each death."""
    limit, journal = budget(50_000, meter="requests"), tmp_path / "journal"
    deaths = 0
    while deaths < 12:
        pair = [child("spend", limit), child("spend", limit)]
        seen = journal.stat().st_size
        for process in pair:
            begin(process)
        until(lambda seen=seen: journal.stat().st_size > seen + 100)
        for process in pair:
            process.kill()
        if all(process.wait() == 0 for process in pair):
            break  # a slow machine: the budget was spent before the kill
        deaths += 2
    assert deaths >= 2
    last = child("spend", limit)
    begin(last)
    assert last.wait(60) == 0
    assert 50_000 - deaths <= journal.stat().st_size <= 50_000
    assert host(limit).spent(limit) == Spent(50_000, 0, None)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"


def test_the_lock_goes_with_its_holder(
    host: Callable[..., Host], child: Callable[..., Any]
) -> None:
    """While a stopped process holds the lock requests are refused as busy, soon; its death by
    SIGKILL frees the lock."""
    one = host(budget(5))
    one.use()
    holder = child("lock", budget(5))
    error = one.refused()
    assert (error.code, error.http_status, error.retry_after_s) == (Code.UNAVAILABLE, 503, 1)
    holder.kill()
    holder.wait()
    one.use()
    assert one.spent(budget(5)) == Spent(2, 0, None)


def test_what_the_dead_reserved_is_released(
    host: Callable[..., Host], child: Callable[..., Any]
) -> None:
    """Reservations of a killed process block until a worker starts; what it settled stays."""
    limits = budget(4), Limit("c", "concurrency", 2)
    one = host(*limits)
    dead = child("reserve", *limits)
    assert one.refused().code is Code.RATE_LIMITED
    dead.kill()
    dead.wait()
    assert one.refused().code is Code.RATE_LIMITED
    child("spend", *limits)  # takes the slot, and waits
    assert one.spent(limits[0]) == Spent(1, 0, None)
    assert one.limits._cells.words[cells._USED_SLOTS] == 2
    for _ in range(3):
        one.use()
    assert one.refused().code is Code.BUDGET_EXCEEDED


def test_a_worker_releases_for_slots_that_nobody_takes(
    host: Callable[..., Host], child: Callable[..., Any]
) -> None:
    """After a restart with fewer workers nothing stays reserved in the slots above."""
    limits = budget(4), Limit("c", "concurrency", 4)
    dead = [child("reserve", limits[1]), child("reserve", *limits)]
    for process in dead:
        process.kill()
        process.wait()
    one = host(*limits)
    assert one.spent(limits[0]) == Spent(1, 0, None)
    grants = [one.admit(0) for _ in range(4)]
    assert one.refused().code is Code.RATE_LIMITED
    assert len(grants) == 4


def write_at(offset: int, data: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not cells"),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        write_at(0, b"x"),
        write_at(8, struct.pack("q", 2)),  # another version
        write_at(40, struct.pack("q", 1 << 40)),  # slots in use
        write_at(cells.entry_word(0) * 8, struct.pack("q", 99)),  # a generation never given
        write_at(cells.entry_word(0) * 8 + 32, struct.pack("q", -5)),
    ],
)
def test_a_damaged_file_is_replaced(
    host: Callable[..., Host],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    """A file that cannot be trusted is put aside with an error in the log, and a new one used.
    A budget that does not say since when it counts begins at zero."""
    one = host(budget(5))
    one.use(2)
    one.limits.close()
    damage(one.path)
    damaged = one.path.read_bytes()
    with caplog.at_level(logging.ERROR):
        fresh = Host(one.path, budget(5))
    try:
        assert "budgets are counted anew" in caplog.text
        assert one.path.with_name("cells.damaged").read_bytes() == damaged
        fresh.use(5)
        assert fresh.refused().code is Code.BUDGET_EXCEEDED
        assert fresh.spent(budget(5)).used == 5
    finally:
        fresh.limits.close()
        one.limits = fresh.limits = Limits(one.path)  # for the fixture to close


def test_reading_without_a_file(tmp_path: Path) -> None:
    """Before the first worker has run nothing is used."""
    limit = budget(5, "day")
    found = spent(tmp_path / "none", [limit], NOW // 1000)
    assert found == {limit.id: Spent(0, 0, NOW // 1000 + 86_400_000)}


def tokens(amount: int, **more: Any) -> Limit:
    return budget(amount, meter="completion_tokens", **more)


def test_less_will_do_of_what_is_elastic(host: Callable[..., Host]) -> None:
    """The tightest budget says how much; with nothing left it is refused as everything is."""
    mine = host(
        Limit("a", "budget", 100, "total", "completion_tokens", tenant="acme"),
        Limit("b", "budget", 70, "total", "completion_tokens"),
        Limit("c", "budget", 9, "total", "requests"),
    )
    needs = {"requests": 1, "completion_tokens": 500}
    with pytest.raises(MeuseError):
        mine.limits.admit(mine.plan, needs, mine.now)
    with pytest.raises(MeuseError):  # one for each of so many choices
        mine.limits.admit(mine.plan, needs, mine.now, elastic="completion_tokens", least=71)
    grant = mine.limits.admit(mine.plan, needs, mine.now, elastic="completion_tokens", least=70)
    assert grant.held_of("completion_tokens") == 70
    assert grant.held_of("requests") == 1
    assert grant.held_of("rows") is None
    with pytest.raises(MeuseError) as caught:
        mine.limits.admit(mine.plan, needs, mine.now, elastic="completion_tokens")
    assert caught.value.code is Code.RATE_LIMITED
    mine.limits.settle(grant, {"requests": 1, "completion_tokens": 70})
    with pytest.raises(MeuseError) as caught:
        mine.limits.admit(mine.plan, needs, mine.now, elastic="completion_tokens")
    assert caught.value.code is Code.BUDGET_EXCEEDED
    small = {"requests": 10, "completion_tokens": 1}
    with pytest.raises(MeuseError):  # another meter is not made to fit
        mine.limits.admit(mine.plan, small, mine.now, elastic="completion_tokens")


def test_what_is_used_on_the_way_counts_at_once(host: Callable[..., Host]) -> None:
    """Used and held move together; what remains is settled at the end."""
    limit = tokens(100)
    mine = host(limit)

    def seen() -> tuple[int, int]:
        found = spent(mine.path, [limit], mine.now // 1000)[limit.id]
        return found.used, found.reserved

    grant = mine.limits.admit(mine.plan, {"completion_tokens": 80}, mine.now)
    assert seen() == (0, 80)
    mine.limits.progress(grant, {}, {"completion_tokens": 60})
    assert seen() == (0, 60)
    mine.limits.progress(grant, {"completion_tokens": 25}, {"completion_tokens": 35})
    assert seen() == (25, 35)
    mine.limits.progress(grant, {"rows": 9}, {"rows": 9})
    assert seen() == (25, 35)
    mine.limits.settle(grant, {"completion_tokens": 5})
    assert seen() == (30, 0)
    mine.limits.progress(grant, {"completion_tokens": 9}, {})
    assert seen() == (30, 0)


def test_how_limits_stand(host: Callable[..., Host]) -> None:
    """Before anything is asked they are whole; then what is left, and when it comes back."""
    rate = Limit("r", "rate", 60, "minute", burst=10)
    mine = host(rate, tokens(100, period="day"), Limit("c", "concurrency", 4))
    assert {s.limit.id: (s.most, s.left) for s in mine.limits.standings(mine.plan, mine.now)} == {
        "r": (10, 10), "budget-100": (100, 100),
    }  # fmt: skip
    grant = mine.limits.admit(mine.plan, {"completion_tokens": 30}, mine.now)
    found = {s.limit.id: s for s in mine.limits.standings(mine.plan, mine.now)}
    assert (found["r"].left, found["r"].reset_us) == (9, S)
    assert (found["budget-100"].left, found["budget-100"].reset_us) == (70, 86_400 * S)
    mine.limits.settle(grant, {"completion_tokens": 10})
    found = {s.limit.id: s for s in mine.limits.standings(mine.plan, mine.now + S)}
    assert (found["r"].left, found["budget-100"].left) == (10, 90)
