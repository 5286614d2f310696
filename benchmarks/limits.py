"""What the limits cost a request: microseconds (of processor time) of admit + settle, by the
limits it meets.

One process, no contention; the lock's two system calls alone are measured beside it. The
figure to hold: 20 µs with ten budgets, of units and of money. `python benchmarks/limits.py`
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from report import write

from meuse.core.nouns import Limit, PriceTable
from meuse.core.prices import ATOMS, Prices
from meuse.meter.checks import Plan
from meuse.meter.limits import Limits

ROUNDS, CALLS = 41, 1000
HOLD_US = 20.0


def median_us(call: Callable[[], object]) -> float:
    """The median over rounds of the mean processor time of a call: what others do on the
    machine meanwhile counts as little as it can."""
    figures = []
    for _ in range(ROUNDS):
        start = time.thread_time_ns()
        for _ in range(CALLS):
            call()
        figures.append((time.thread_time_ns() - start) / CALLS / 1000)
    return round(statistics.median(figures), 2)


def main() -> None:
    rate = Limit("rate", "rate", 100_000, "second", burst=10**9)
    budgets = [Limit(f"budget-{i}", "budget", 10**15, "month", "rows") for i in range(10)]
    money = [
        Limit(f"money-{i}", "budget", 10**15, "month", "cost", currency="EUR") for i in range(10)
    ]
    prices = {"requests": {"*": str(ATOMS)}, "rows": {"*": str(ATOMS // 3)}}
    table = Prices("basic:1", PriceTable("EUR", prices), "acme/m", "standard")
    tokens = Limit("tokens", "rate", 10**9, "minute", "tokens", burst=10**9)
    needs = {"requests": 1, "rows": 1}
    cases = {
        "rate": [rate],
        "budget": budgets[:1],
        "rate_and_budget": [rate, budgets[0]],
        "ten_budgets": budgets,
        "rate_of_tokens": [tokens],
        "ten_of_money": money,
    }
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        limits = Limits(Path(folder) / "cells")
        for number, (name, wanted) in enumerate(cases.items(), 1):
            limits.load(wanted, number)
            plan = limits.plan("acme", "default", "key", "acme/m", lambda: table)
            assert plan is not None

            def once(plan: Plan = plan) -> None:
                limits.settle(limits.admit(plan, needs), needs)

            figures[f"{name}_us"] = median_us(once)

        def lock() -> None:
            limits._cells.lock()
            limits._cells.unlock()

        figures["lock_alone_us"] = median_us(lock)
        limits.close()
    for name, value in figures.items():
        print(f"{name:20} {value:8.2f}")
    for name in ("ten_budgets_us", "ten_of_money_us"):
        print(f"{name}: hold {HOLD_US} µs: {figures[name] <= HOLD_US}")
    print(write("limits", {**figures, "hold_ten_budgets_us": HOLD_US}))


if __name__ == "__main__":
    main()
