"""What jobs count against budgets, in the file of the gateway's workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from helpers_jobs import RecordedJob
from meuse.app.kinds.budgets import Budgets as Found
from meuse.app.work.spending import SLICE_MS, TRAINING, Budgets, timed, used_in
from meuse.core.clock import now_ms
from meuse.core.errors import MeuseError
from meuse.core.nouns import Job, Limit, PriceTable, Scope
from meuse.core.ports import JobContext, Paused
from meuse.core.prices import ATOMS
from meuse.core.states import JobStatus
from meuse.meter import limits


def told(path: Path, *budgets: Limit) -> dict[str, Any]:
    found = [asdict(budget) for budget in budgets]
    meter = budgets[0].meter if budgets else TRAINING
    return {"meter": meter, "limits": found, "cells": str(path / "cells")}


def used(path: Path, budget: Limit) -> tuple[int, int]:
    spent = limits.spent(path / "cells", [budget], now_ms())[budget.id]
    return spent.used, spent.reserved


def test_rows_are_reserved_whole_and_counted_part_by_part(tmp_path: Path) -> None:
    """As `predict` does it: what does not fit is refused before a row is answered."""
    budget = Limit("b", "budget", 100, "month", "rows", tenant="t")
    with Budgets(told(tmp_path, budget)) as budgets:
        budgets.settle(0, 80)
        assert used(tmp_path, budget) == (0, 80)
        budgets.settle(30, 50)
        assert used(tmp_path, budget) == (30, 50)
    assert used(tmp_path, budget) == (30, 0)  # paused: the rest is free
    with Budgets(told(tmp_path, budget)) as budgets:
        with pytest.raises(MeuseError, match=r"100 rows \(b\) has 70 left") as caught:
            budgets.settle(0, 71)
        assert (caught.value.code, caught.value.field) == ("budget_exceeded", "budget")
        assert "It resets at" in str(caught.value.hint)
    assert used(tmp_path, budget) == (30, 0)


def test_what_is_used_after_a_refusal_counts(tmp_path: Path) -> None:
    """Work ends at its next checkpoint, and what it did until then was done."""
    budget = Limit("b", "budget", 100, "total", "rows", tenant="t")
    with Budgets(told(tmp_path, budget)) as budgets:
        budgets.settle(0, 60)
        with pytest.raises(MeuseError, match="40 left"):
            budgets.settle(60, 60)
        assert used(tmp_path, budget) == (60, 0)
        budgets.settle(7)
        budgets.settle(8)
        budgets.settle(0, 25)
        assert used(tmp_path, budget) == (75, 25)
    assert used(tmp_path, budget) == (75, 0)


def test_a_soft_budget_counts_and_stops_nothing(tmp_path: Path) -> None:
    budget = Limit("b", "budget", 10, "total", "rows", hard=False, tenant="t")
    with Budgets(told(tmp_path, budget)) as budgets:
        budgets.settle(0, 80)
        budgets.settle(80)
    assert used(tmp_path, budget) == (80, 0)


def steps(count: int) -> Callable[[JobContext], dict[str, Any]]:
    """Work of `count` steps of 0.3 s, each with a checkpoint."""

    def work(job: JobContext) -> dict[str, Any]:
        done = int(job.checkpoint.read_text()) if job.checkpoint.exists() else 0
        while done < count:
            time.sleep(0.3)
            done += 1
            job.checkpoint.write_text(str(done))
            if job.paused():
                raise Paused
        return {"steps": done}

    return work


def test_a_training_stops_at_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    """Refused when its budget is spent, and then at the start; with a larger one it ends, and
    both attempts are told apart."""
    small = Limit("s", "budget", 2 * SLICE_MS, "total", TRAINING, tenant="t")
    job = RecordedJob(tmp_path / "job")

    def run(attempt: int, *budgets: Limit, count: int = 12) -> dict[str, Any]:
        inputs = {"budgets": told(tmp_path, *budgets), "attempt": attempt, "plan_version": None}
        return timed(steps(count), job, inputs)

    with pytest.raises(MeuseError, match=r"2000 training_ms \(s\)") as caught:
        run(1, small)
    assert caught.value.code == "budget_exceeded"
    first = used_in(job.folder, 1)
    assert first is not None
    spent, reserved = used(tmp_path, small)
    assert reserved == 0
    assert SLICE_MS < spent == first[TRAINING]
    done = int(job.checkpoint.read_text())
    assert 3 <= done < 12
    with pytest.raises(MeuseError, match="budget"):
        run(2, small)
    assert int(job.checkpoint.read_text()) == done, "it worked on"
    assert used_in(job.folder, 2) is None
    assert run(3, count=done + 1) == {"steps": done + 1}
    third = used_in(job.folder, 3)
    assert third is not None
    assert third[TRAINING] >= 300
    assert used_in(job.folder, 1) == first


def test_a_pause_stays_a_pause(tmp_path: Path) -> None:
    large = Limit("l", "budget", 10**6, "total", TRAINING, tenant="t")
    job = RecordedJob(tmp_path / "job")
    job.is_paused = True
    with pytest.raises(Paused):
        timed(steps(3), job, {"budgets": told(tmp_path, large), "attempt": 1, "plan_version": None})
    assert used(tmp_path, large)[0] >= 300
    assert used(tmp_path, large)[1] == 0


def test_a_jobs_process_frees_no_limit_of_others(tmp_path: Path) -> None:
    """It knows its own budgets only."""
    other = Limit("other", "budget", 100, "total", "rows", tenant="u")
    with Budgets(told(tmp_path, other)) as budgets:
        budgets.settle(0, 5)
        budgets.settle(5)
    with Budgets(told(tmp_path, Limit("b", "budget", 10, "total", "rows", tenant="t"))) as budgets:
        budgets.settle(0, 5)
    assert used(tmp_path, other) == (5, 0)


def test_which_budgets_hold_for_a_job() -> None:
    """Those of all its subjects; a job has no key, and counts one meter."""
    known = [
        Limit("tenant", "budget", 1, meter="rows", tenant="t"),
        Limit("model", "budget", 1, meter="rows", model="t/m"),
        Limit("project", "budget", 1, meter="rows", tenant="t", project="p"),
        Limit("a-key", "budget", 1, meter="rows", tenant="t", key="k"),
        Limit("stranger", "budget", 1, meter="rows", tenant="u"),
        Limit("other", "budget", 1, meter="rows", model="t/n"),
        Limit("time", "budget", 1, meter=TRAINING, tenant="t"),
        Limit("rate", "rate", 1, "minute", "rows", tenant="t"),
    ]
    job = Job("j", Scope("t", "p"), "predict", {}, JobStatus.QUEUED, 0.0, 1, {}, None, None,
              False, 0, 0)  # fmt: skip
    budgets = Found(lambda: known, Path("cells"), lambda tenant: None)
    found = budgets.inputs(job, "rows", "m")["budgets"]
    assert [limit["id"] for limit in found["limits"]] == ["tenant", "model", "project"]
    assert (found["meter"], found["cells"], found["prices"]) == ("rows", "cells", None)
    known.append(Limit("money", "budget", 1, meter="cost", currency="EUR", tenant="t"))
    table = PriceTable("EUR", {"rows": {"*": "5"}})
    budgets = Found(lambda: known, Path("cells"), lambda tenant: ("basic:1", table))
    for meter, also in (("rows", ["tenant", "model", "project"]), (TRAINING, ["time"])):
        found = budgets.inputs(job, meter, "m")["budgets"]
        assert [limit["id"] for limit in found["limits"]] == [*also, "money"]
        assert (found["model"], found["prices"]) == ("t/m", ["basic:1", asdict(table)])


def priced(path: Path, meter: str, prices: dict[str, int] | None, *budgets: Limit) -> Any:
    """What control says to a job of `t/m`; prices in micros."""
    table = prices and PriceTable(
        "EUR", {name: {"*": str(micros * ATOMS)} for name, micros in prices.items()}
    )
    pays = table and ["basic:1", asdict(table)]
    return {**told(path, *budgets), "meter": meter, "model": "t/m", "prices": pays}


MONEY = Limit("m", "budget", 1000, "month", "cost", tenant="t", currency="EUR")


def test_a_job_spends_money(tmp_path: Path) -> None:
    """Rows at their price, and beside them what the engine took; refused when it is spent."""
    prices = {"rows": 10, "compute_ms": 1}
    with Budgets(priced(tmp_path, "rows", prices, MONEY)) as budgets:
        budgets.settle(0, 80)
        assert used(tmp_path, MONEY) == (0, 800)
        budgets.settle(30, 50, compute_ms=100)
        assert used(tmp_path, MONEY) == (400, 500)
        with pytest.raises(MeuseError, match=r"0\.001 EUR \(m\) has 0\.0003 EUR left") as caught:
            budgets.settle(30, 31)
        assert "the job needs 31 rows" in caught.value.message
        budgets.settle(0, 30)
    assert used(tmp_path, MONEY) == (700, 0)


@pytest.mark.parametrize("prices", [None, {"compute_ms": 1, "rows": 0}])
def test_a_job_at_no_known_price_does_not_begin(
    tmp_path: Path, prices: dict[str, int] | None
) -> None:
    """Its payer has no plan; or its plan prices a meter that it uses, for others only."""
    given = priced(tmp_path, "rows", prices, MONEY)
    if prices is not None:
        given["prices"][1]["prices"]["compute_ms"] = {"other": "7"}
    with Budgets(given) as budgets, pytest.raises(MeuseError) as caught:
        budgets.settle(0, 1)
    assert (caught.value.code, caught.value.field) == ("unrated", "budget")


def test_two_meters_of_one_job_spend_one_budget(tmp_path: Path) -> None:
    """The time and the tokens of a training: what one holds the other does not give back."""
    prices = {TRAINING: 1, "training_tokens": 2}
    with (
        Budgets(priced(tmp_path, TRAINING, prices, MONEY)) as time_,
        Budgets(priced(tmp_path, "training_tokens", prices, MONEY)) as tokens,
    ):
        time_.settle(0, 100)
        tokens.settle(0, 200)
        assert used(tmp_path, MONEY) == (0, 500)
        time_.settle(100, 100)
        tokens.settle(150, 0)
        assert used(tmp_path, MONEY) == (400, 100)
    assert used(tmp_path, MONEY) == (400, 0)
