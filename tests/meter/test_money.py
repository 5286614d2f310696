"""Budgets of money and rates of tokens: meter.limits over real files and processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meter.test_limits import CHILD, NOW, S, begin, fresh_id, us
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Limit, PriceTable, Spent
from meuse.core.prices import ATOMS, Prices
from meuse.meter import cells
from meuse.meter.checks import Grant
from meuse.meter.limits import Limits, spent

MICRO = str(ATOMS)
ROWS = {"rows": {"*": str(500 * ATOMS)}}  # 0.50 for a thousand
TOKENS = {
    "requests": {"*": MICRO},
    "prompt_tokens": {"*": str(3 * ATOMS // 10)},
    "cached_tokens": {"*": str(ATOMS // 10)},
    "completion_tokens": {"*": str(15 * ATOMS // 10)},
}


def prices(table: dict[str, dict[str, str]], currency: str = "EUR") -> Prices:
    return Prices("basic:1", PriceTable(currency, table), "acme/m", "standard")


def money(micros: int, period: str = "total", **more: Any) -> Limit:
    more.setdefault("currency", "EUR")
    return Limit(more.pop("id", "b"), "budget", micros, period, "cost", **more)


class Host:
    """One worker's limits under a price list, with a clock of the test's."""

    def __init__(self, path: Path, table: Prices | None, *limits: Limit) -> None:
        self.path, self.table, self.now, self.number = path, table, NOW, 0
        self.limits = Limits(path)
        self.load(*limits)

    def load(self, *limits: Limit) -> None:
        self.number += 1
        self.limits.load(limits, self.number)
        self.plan = self.limits.plan("acme", "default", "key", "acme/m", lambda: self.table)

    def admit(self, elastic: str = "", **needs: int) -> Grant:
        assert self.plan is not None
        return self.limits.admit(self.plan, {"requests": 1, **needs}, self.now, elastic=elastic)

    def use(self, **used: int) -> None:
        self.limits.settle(self.admit(**used), {"requests": 1, **used})

    def refused(self, elastic: str = "", **needs: int) -> MeuseError:
        with pytest.raises(MeuseError) as refusal:
            self.admit(elastic, **needs)
        return refusal.value

    def seen(self, limit: Limit) -> tuple[int, int]:
        found = spent(self.path, [limit], self.now // 1000)[limit.id]
        return found.used, found.reserved


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    opened: list[Host] = []

    def make(table: Prices | None, *limits: Limit) -> Host:
        close()
        opened.append(Host(tmp_path / "limits" / "cells", table, *limits))
        return opened[-1]

    def close() -> None:
        for old in opened:
            old.limits.close()
        opened.clear()

    yield make
    close()


def test_what_it_may_cost_is_reserved_and_what_it_cost_is_counted(
    host: Callable[..., Host],
) -> None:
    """In millionths: of eight rows at 0.0005 each 4,000 are held, of five that were answered
    2,500 stay."""
    limit = money(10_000)
    one = host(prices(ROWS), limit)
    grant = one.admit(rows=8)
    assert one.seen(limit) == (0, 4000)
    one.limits.settle(grant, {"requests": 1, "rows": 5, "compute_ms": 9})
    assert one.seen(limit) == (2500, 0)
    grant = one.admit(rows=10)
    error = one.refused(rows=6)
    assert (error.code, error.retry_after_s, error.field) == (Code.RATE_LIMITED, 1, "budget")
    error = one.refused(rows=16)
    assert (error.code, error.http_status) == (Code.BUDGET_EXCEEDED, 402)
    assert error.message == (
        "the budget of 0.01 EUR (b) has 0.0075 EUR left; this request needs up to 0.008 EUR"
    )
    one.limits.release(grant)
    one.use(rows=15)
    assert one.seen(limit) == (10_000, 0)
    assert one.refused(rows=1).hint == "It never resets."


def test_a_period_of_money_rolls(host: Callable[..., Host]) -> None:
    limit = money(1000, "month")
    one = host(prices(ROWS), limit)
    one.now = us("2026-01-31T23:59:59")
    one.use(rows=2)
    assert one.refused(rows=1).hint == "It resets at 2026-02-01T00:00:00.000Z."
    one.now += S
    one.use(rows=2)
    assert one.seen(limit) == (1000, 0)


def test_work_at_no_known_price_is_refused(host: Callable[..., Host]) -> None:
    """No plan, a plan in another currency, no price for this deployment: never taken for zero.
    Soft budgets, which stop nothing, count what they can."""
    hard, soft = money(10**9), money(10**9, id="s", hard=False)
    one = host(None, hard)
    error = one.refused(rows=1)
    assert (error.code, error.http_status, error.field) == ("unrated", 402, "budget")
    assert "no plan" in error.message
    assert "in EUR, plan basic:1 in USD" in host(prices(ROWS, "USD"), hard).refused(rows=1).message
    only = prices({"rows": {"other": MICRO}})
    assert "no price for rows of acme/m" in host(only, hard, soft).refused(rows=1).message
    one = host(only, soft)
    one.use(rows=5)
    assert one.seen(soft) == (0, 0)
    assert host(None, soft).plan is None


def test_a_plan_that_includes_everything_costs_nothing(host: Callable[..., Host]) -> None:
    one = host(prices({}), money(0))
    one.use(rows=10**6)
    assert host(prices(ROWS), money(0)).refused(rows=1).code is Code.BUDGET_EXCEEDED


def test_what_is_set_aside_is_not_spent(host: Callable[..., Host]) -> None:
    """For packages and flat amounts that a plan may owe besides."""
    limit = money(10_000, aside=7_000)
    one = host(prices(ROWS), limit)
    one.use(rows=6)
    error = one.refused(rows=1)
    assert "0.01 EUR, 0.007 EUR of it set aside," in error.message
    assert "has 0.00 EUR left" in error.message


def test_sums_are_rounded_up_not_requests(host: Callable[..., Host]) -> None:
    """A thousand requests of three tenths of a micro are three hundred micros, not a thousand."""
    limit = money(301)
    one = host(prices({"prompt_tokens": TOKENS["prompt_tokens"]}), limit)
    for count in range(1, 1001):
        one.use(prompt_tokens=1)
        if count % 50 in (1, 2, 3):
            assert one.seen(limit) == (-(-count * 3 // 10), 0)
    one.use(prompt_tokens=1)
    assert one.refused(prompt_tokens=1).code is Code.BUDGET_EXCEEDED


def test_an_answer_gets_what_the_money_leaves(host: Callable[..., Host]) -> None:
    """Without a bound of its own; beside what the prompt and the request cost."""
    limit = money(1000)
    one = host(prices(TOKENS), limit)
    grant = one.admit("completion_tokens", prompt_tokens=100, completion_tokens=8192)
    assert grant.held_of("completion_tokens") == (1000 - 1 - 30) * 10 // 15
    assert one.seen(limit) == (0, 1000)
    one.limits.progress(grant, {}, {"prompt_tokens": 10, "cached_tokens": 20})
    assert one.seen(limit) == (0, 1 + 3 + 2 + 969)
    used = {"requests": 1, "prompt_tokens": 10, "cached_tokens": 20, "completion_tokens": 100}
    left = {"requests": 0, "prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 546}
    one.limits.progress(grant, used, left)
    assert one.seen(limit) == (1 + 3 + 2 + 150, 819)
    one.limits.settle(grant, {"completion_tokens": 46})
    assert one.seen(limit) == (156 + 69, 0)
    assert one.refused("completion_tokens", prompt_tokens=2600).code is Code.BUDGET_EXCEEDED


def test_a_limit_that_rises_keeps_what_is_counted(host: Callable[..., Host]) -> None:
    """As a budget that an operator raises by another of the same id."""
    one = host(prices(ROWS), money(1000))
    one.use(rows=2)
    assert one.refused(rows=1).code is Code.BUDGET_EXCEEDED
    one.load(money(1500))
    one.use(rows=1)
    assert one.seen(money(1500)) == (1500, 0)
    assert one.refused(rows=1).code is Code.BUDGET_EXCEEDED


def test_a_prepaid_budget_follows_what_is_written_beside_it(host: Callable[..., Host]) -> None:
    """Until the ledger has told its balance nothing goes; a top-up lets the next request through
    at once, a balance that fell none; what was counted stays."""
    limit = money(0, id="wallet-acme-1", moves=True, since_ms=1)
    one = host(prices(ROWS), limit)
    error = one.refused(rows=1)
    assert (error.code, error.http_status, error.retry_after_s) == (Code.UNAVAILABLE, 503, 1)
    one.limits.seed(limit, 500, one.now, 1500)
    one.use(rows=2)
    error = one.refused(rows=1)
    assert error.code is Code.BUDGET_EXCEEDED
    assert error.hint == "It is prepaid: top the wallet up."
    one.limits.seed(limit, 500, one.now, 2000)
    one.use(rows=1)
    one.limits.seed(limit, 0, one.now, 700)
    assert one.refused(rows=1).code is Code.BUDGET_EXCEEDED
    found = spent(one.path, [limit], one.now // 1000)[limit.id]
    assert (found.used, found.most) == (2000, 700)
    assert [s.left for s in one.limits.standings(one.plan, one.now)] == [0]


def test_lost_counts_let_nothing_through_until_they_are_there_again(
    host: Callable[..., Host],
) -> None:
    """A budget that is older than the file of cells waits for `seed`, and goes on from there; one
    that is younger begins at zero; a soft one goes on, and nothing of it is counted twice."""
    old = money(3000, id="old", since_ms=1)
    soft = Limit("soft", "budget", 5, meter="rows", hard=False, since_ms=1)
    young = Limit("young", "budget", 100, meter="rows", since_ms=2**45)
    one = host(prices(ROWS), young, soft)
    one.use(rows=3)
    one = host(prices(ROWS), old, young, soft)
    error = one.refused(rows=1)
    assert (error.code, error.field) == (Code.UNAVAILABLE, "budget")
    assert "being counted anew" in error.message
    one.limits.seed(old, 2000, one.now)
    one.limits.seed(soft, 40, one.now)
    one.use(rows=2)
    assert one.seen(old) == (3000, 0)
    assert one.seen(young) == (5, 0)
    assert one.seen(soft) == (42, 0)
    one.limits.seed(old, 0, one.now)  # again: nothing changes
    assert one.refused(rows=1).code is Code.BUDGET_EXCEEDED


def test_the_file_says_when_it_was_made(tmp_path: Path) -> None:
    limits = Limits(tmp_path / "cells")
    born = limits._cells.born_ms
    assert born == cells.born_ms(tmp_path / "cells") > 1_700_000_000_000
    limits.close()
    assert cells.born_ms(tmp_path / "none") == 0
    (tmp_path / "other").write_bytes(b"x" * 100)
    assert cells.born_ms(tmp_path / "other") == 0


Step = tuple[str, int, int]


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["admit", "admit", "settle", "part", "release"]),
            st.integers(0, 12),
            st.integers(0, 12),
        ),
        max_size=50,
    ),
    each=st.sampled_from([1, 3 * ATOMS // 10, ATOMS - 1, ATOMS, 7 * ATOMS // 3]),
    limit=st.integers(0, 60),
)
def test_a_hard_budget_of_money_is_never_overspent(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step], each: int, limit: int
) -> None:
    """Whatever is asked and used: what was used comes to the limit at most, what is counted is
    that, rounded up once, and in the end nothing is held."""
    path = tmp_path_factory.getbasetemp() / "overspend" / "cells"
    table = prices({"rows": {"*": str(each)}})
    budget = money(limit, id=fresh_id())
    one = Host(path, table, budget)
    open_: list[tuple[Grant, int]] = []
    used = 0
    try:
        for do, n, most in steps:
            if do == "admit":
                refusal = None
                try:
                    open_.append((one.admit(rows=n), n))
                except MeuseError as error:
                    refusal = error.code
                if refusal is not None:
                    assert refusal in (Code.BUDGET_EXCEEDED, Code.RATE_LIMITED)
                    held = sum(-(-rows * each // ATOMS) for _, rows in open_)
                    # Parts are rounded up one by one: one micro each may be held too much.
                    need = -(-n * each // ATOMS)
                    assert -(-used // ATOMS) + held + need + len(open_) > limit
            elif open_:
                grant, rows = open_.pop(0)
                part = min(most, rows)
                if do == "part":
                    one.limits.progress(grant, {"rows": part}, {"rows": rows - part})
                    open_.append((grant, rows - part))
                    used += part * each
                elif do == "settle":
                    one.limits.settle(grant, {"requests": 1, "rows": part})
                    used += part * each
                else:
                    one.limits.release(grant)
            assert used <= limit * ATOMS
            counted, _ = one.seen(budget)
            assert counted == -(-used // ATOMS)
        for grant, _ in open_:
            one.limits.release(grant)
        assert one.seen(budget) == (-(-used // ATOMS), 0)
    finally:
        one.limits.close()


def rate(tokens: int, burst: int = 0, **more: Any) -> Limit:
    return Limit(more.pop("id", "r"), "rate", tokens, "minute", "tokens", burst=burst, **more)


def test_tokens_are_reserved_and_corrected(host: Callable[..., Host]) -> None:
    """A bound of 600 of 1,000 tokens a minute is held; of 100 that were used the rest is there
    again at once; prompt, cached and answer count together."""
    one = host(None, rate(1000))
    grant = one.admit(prompt_tokens=100, completion_tokens=500)
    error = one.refused(prompt_tokens=1, completion_tokens=500)
    assert (error.code, error.retry_after_s, error.field) == (Code.RATE_LIMITED, 7, "limit")
    used = {"prompt_tokens": 10, "cached_tokens": 40, "completion_tokens": 20}
    one.limits.progress(grant, used, {"prompt_tokens": 0, "completion_tokens": 480})
    one.limits.settle(grant, {"completion_tokens": 30})
    assert [s.left for s in one.limits.standings(one.plan, one.now)] == [900]
    one.admit(prompt_tokens=400, completion_tokens=500)
    assert one.refused(prompt_tokens=1).retry_after_s == 1
    one.now += 30 * S
    one.admit(completion_tokens=500)
    assert one.refused(prompt_tokens=1).code is Code.RATE_LIMITED


def test_more_than_was_reserved_is_owed(host: Callable[..., Host]) -> None:
    """As from a server that counts otherwise: the next one waits for it."""
    one = host(None, rate(600))
    one.limits.settle(one.admit(completion_tokens=100), {"completion_tokens": 400})
    one.admit(completion_tokens=200)
    assert one.refused(completion_tokens=1).code is Code.RATE_LIMITED
    one.now += S
    one.admit(completion_tokens=10)


def test_an_answer_without_a_bound_gets_what_a_rate_leaves(host: Callable[..., Host]) -> None:
    """If it is a quarter of a burst at least: it rather waits than ends after a few words."""
    one = host(None, rate(1000))
    grant = one.admit("completion_tokens", prompt_tokens=100, completion_tokens=8000)
    assert grant.held_of("completion_tokens") == 900
    one.limits.settle(grant, {"prompt_tokens": 100, "completion_tokens": 400})
    grant = one.admit("completion_tokens", prompt_tokens=100, completion_tokens=8000)
    assert grant.held_of("completion_tokens") == 400
    one.limits.settle(grant, {"prompt_tokens": 100, "completion_tokens": 100})
    one.use(prompt_tokens=60)
    error = one.refused("completion_tokens", prompt_tokens=100, completion_tokens=8000)
    assert (error.code, error.retry_after_s) == (Code.RATE_LIMITED, 7)  # 240 left of 350
    one.now += 7 * S
    grant = one.admit("completion_tokens", prompt_tokens=100, completion_tokens=8000)
    assert grant.held_of("completion_tokens") == 256


def test_what_never_fits_a_rate_is_told(host: Callable[..., Host]) -> None:
    """Waiting does not help: it says how much goes at once."""
    one = host(None, rate(1000, burst=200))
    error = one.refused(prompt_tokens=50, completion_tokens=151)
    assert (error.code, error.http_status, error.retry_after_s) == (Code.LIMIT_EXCEEDED, 429, None)
    assert "201 tokens, and at most 200" in error.message
    one.use(prompt_tokens=50, completion_tokens=150)


def test_what_is_given_back_makes_no_more_than_a_burst(host: Callable[..., Host]) -> None:
    """Tokens that come back late, to a rate that has rested, add nothing to it."""
    one = host(None, rate(60, burst=60))
    grant = one.admit(completion_tokens=60)
    one.now += 600 * S
    one.limits.release(grant)
    one.use(completion_tokens=60)
    assert one.refused(completion_tokens=1).code is Code.RATE_LIMITED
    one.now -= 3600 * S  # a clock that goes back owes one burst at most
    assert one.refused(completion_tokens=1).retry_after_s == 1


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    started = []

    def start(do: str, *limits: Limit, **more: Any) -> Any:
        body = {
            "path": str(tmp_path / "limits" / "cells"),
            "do": do,
            "journal": str(tmp_path / "journal"),
            "limits": [{name: getattr(one, name) for name in Limit.__slots__} for one in limits],
            **more,
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


def test_processes_share_money_exactly(
    host: Callable[..., Host], child: Callable[..., Any], tmp_path: Path
) -> None:
    """Two processes that spend as fast as they can get what is paid for, but for the fraction of
    a micro that each has counted too much."""
    limit = money(300)
    table = {"rows": {"*": str(3 * ATOMS // 10)}}
    pair = [child("spend", limit, prices=table) for _ in range(2)]
    for process in pair:
        begin(process)
    for process in pair:
        assert process.wait(60) == 0
    served = (tmp_path / "journal").stat().st_size
    assert 1000 - 2 * 3 <= served <= 1000
    one = host(prices(table), limit)
    found = spent(one.path, [limit], one.now // 1000)[limit.id]
    assert found == Spent(found.used, 0, None)
    assert -(-served * 3 // 10) <= found.used <= 300


def test_processes_share_a_rate_of_tokens_exactly(
    host: Callable[..., Host], child: Callable[..., Any], tmp_path: Path
) -> None:
    """Each reserves ten tokens and uses one: together they get exactly the burst, one by one."""
    limit = rate(1, burst=500)  # a minute for each token: none comes back meanwhile
    pair = [child("talk", limit) for _ in range(2)]
    for process in pair:
        begin(process)
    for process in pair:
        assert process.wait(60) == 0
    served = (tmp_path / "journal").stat().st_size
    # The last ones need room for ten, of which others may hold some just then.
    assert 500 - 9 - 9 <= served <= 500
    one = host(None, limit)
    one.now = time.time_ns() // 1000
    assert one.refused(completion_tokens=500).code is Code.RATE_LIMITED
    left = one.limits.standings(one.plan)[0].left
    assert 500 - served <= left <= 500 - served + 1
