"""Every kind of job leaves a record of what it used, and every one is in a table here."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from billing.make_usage import plan
from helpers_jobs import RecordedJob
from meuse.app import kinds as control
from meuse.app import work as child
from meuse.app.kinds.batch import Batches
from meuse.app.kinds.budgets import Budgets
from meuse.app.kinds.compress import Compress
from meuse.app.kinds.compress_language import LanguageCompress
from meuse.app.kinds.evaluate import Evaluate
from meuse.app.kinds.fine_tuning_api import FineTunings
from meuse.app.kinds.finetune import Finetune
from meuse.app.kinds.import_ import Foreign, Import
from meuse.app.kinds.ingest import Ingest
from meuse.app.kinds.search import Search
from meuse.app.kinds.shared import Stores
from meuse.app.kinds.train import Train
from meuse.app.kinds.tune import Tune
from meuse.app.work import spending, worktime
from meuse.app.work.worktime import KEPT, Worked, worked, worked_in
from meuse.billing.plans.budget import price_table
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Job, Limit, Scope
from meuse.core.plans import Price
from meuse.core.ports import Paused
from meuse.core.states import JobStatus
from meuse.jobs.kinds import JobKind
from meuse.meter.jobs import JobJournal
from meuse.meter.limits import spent
from meuse.meter.record import UsageRecord
from meuse.meter.segments import list_segments, read

NOTHING = cast("Any", None)
FREE = spending.Budgets({"meter": "compute_ms", "limits": [], "cells": ""})
# kind → (spec, the meter, what it is priced as); None: somebody else meters it.
KINDS: dict[str, tuple[dict[str, Any], str, str] | None] = {
    "train": ({"model_name": "digits"}, "training_ms", "digits"),
    "search": ({"model_name": "digits"}, "training_ms", "digits"),
    "compress": ({"model": "digits:1"}, "training_ms", "digits"),
    "evaluate": ({"models": ["digits:1", "digits:2"], "data": "d:1"}, "compute_ms", "digits"),
    "import": ({"model_name": "digits", "source": {}}, "compute_ms", "digits"),
    "ingest": ({"name": "digits"}, "compute_ms", "digits"),
    "tune": ({"deployment": "digits"}, "compute_ms", "digits"),
    "predict": ({"model": "digits:1", "deployment": None, "output": "o"}, "rows", "digits"),
    # The gateway records each line that it answers, under the line's own id.
    "batch": None,
}


def job(kind: str, attempt: int = 1) -> Job:
    found = KINDS[kind]
    spec = {} if found is None else found[0]
    return Job(f"job-{'0' * 31}1", Scope("acme", "lab"), kind, spec, JobStatus.RUNNING, 0.0,
               attempt, {}, None, None, False, 0, 0)  # fmt: skip


@pytest.fixture
def kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, JobKind]:
    """Those of the platform; what they prepare beside what is metered needs stores, and is left
    out, and so is the work itself."""
    for part in (Train, Compress, LanguageCompress, Evaluate, Import, Ingest, Search, Tune):
        name = "prepare" if hasattr(part, "prepare") else "_prepare"
        monkeypatch.setattr(part, name, lambda self, job: {})
    monkeypatch.setattr(control, "by_task", lambda others, language: others)
    monkeypatch.setattr(
        child, "import_module", lambda name: SimpleNamespace(work=lambda *a, **k: {"done": True})
    )
    datasets = SimpleNamespace(add_version=lambda scope, draft: (draft, True))
    stores = Stores(cast("Any", datasets), NOTHING, NOTHING, lambda: None)
    batches = Batches(NOTHING, NOTHING, NOTHING, "")
    return control.kinds(
        stores, JobJournal(tmp_path / "journal", "h", time.time_ns),
        lambda tenant: "basic:3", Foreign(), NOTHING, NOTHING,
        Budgets(list, tmp_path / "cells", lambda tenant: None), batches,
        FineTunings(stores, NOTHING, NOTHING, NOTHING, lambda: 0),
        Finetune(stores, NOTHING, NOTHING, lambda tenant: "basic:3"), 1,
    )  # fmt: skip


def records(tmp_path: Path) -> list[UsageRecord]:
    folder = tmp_path / "journal"
    return [r for path in list_segments(folder) for r, _ in read(path, 0, closed=True).records]


def test_every_kind_is_classed(kinds: dict[str, JobKind]) -> None:
    """Those that control knows, those that a child knows, and those in the table are the same."""
    assert KINDS.keys() == kinds.keys() == set(child.WORKS)


@pytest.mark.parametrize("kind", [k for k, what in KINDS.items() if what and what[1] != "rows"])
def test_an_attempt_that_worked_leaves_a_record(
    kinds: dict[str, JobKind], tmp_path: Path, kind: str
) -> None:
    """Of its time, at the batch tier, under the job's own id: repeated, it is the same."""
    what = KINDS[kind]
    assert what is not None
    context = RecordedJob(tmp_path / "job")
    for attempt, ok in ((1, False), (2, True)):
        inputs = kinds[kind].prepare(job(kind, attempt))
        run = child.works(NOTHING, NOTHING)[kind]
        assert run(context, {"kind": kind, "spec": what[0], "inputs": inputs}) == {"done": True}
        for _ in range(2):
            kinds[kind].ended(job(kind, attempt), context.folder, ok)
    found = records(tmp_path)
    assert [r.status for r in found] == ["error", "error", "ok", "ok"]
    assert (found[0], found[2]) == (found[1], found[3])
    assert found[0].id != found[2].id
    for record in found:
        assert record.quantities.keys() == {what[1]}
        assert (record.source, record.tier, record.protocol) == ("job", "batch", "job")
        assert (record.tenant, record.owner, record.project) == ("acme", "acme", "lab")
        assert (record.deployment, record.plan_version) == (f"acme/{what[2]}", "basic:3")
        assert abs(record.ts - time.time() * 1000) < 60_000


@pytest.mark.parametrize("kind", [k for k, what in KINDS.items() if what])
def test_what_never_began_leaves_none(kinds: dict[str, JobKind], tmp_path: Path, kind: str) -> None:
    """A job that was refused before its work, or whose process never started."""
    (tmp_path / "job").mkdir()
    kinds[kind].ended(job(kind), tmp_path / "job", False)
    assert records(tmp_path) == []


def test_predictions_are_recorded_with_their_result(
    kinds: dict[str, JobKind], tmp_path: Path
) -> None:
    """By rows, when they are complete."""
    quantities = {"rows": 7, "compute_ms": 2}
    output = {"digest": "d" * 64, "format": "csv", "rows": 7, "bytes": 9, "columns": []}
    usage = {"ts": 1_000, "plan_version": "basic:3", "quantities": quantities}
    result = {"output": output, "rows_per_s": 1.0, "usage": usage}
    for _ in range(2):
        kinds["predict"].complete(job("predict"), result)
    first, again = records(tmp_path)
    assert first == again
    assert (first.quantities, first.deployment, first.tier) == (quantities, "acme/digits", "batch")


def test_time_goes_on_where_a_killed_process_left_it(tmp_path: Path) -> None:
    """Of the same attempt; another one counts by itself."""
    told, second_told = ({"attempt": n, "plan_version": None} for n in (1, 2))
    killed = Worked(tmp_path, told, FREE)
    killed._before, killed._began = 5_000, time.monotonic()
    killed._note()
    with Worked(tmp_path, told, FREE, every_s=0.01):
        time.sleep(0.1)
        meanwhile = worked_in(tmp_path, 1)
    with pytest.raises(ValueError, match="broken"), Worked(tmp_path, second_told, FREE):
        raise ValueError("broken")
    first, second = worked_in(tmp_path, 1), worked_in(tmp_path, 2)
    assert meanwhile is not None
    assert first is not None
    assert second is not None
    assert 5_000 < meanwhile["compute_ms"] <= first["compute_ms"] < 8_000
    assert first["compute_ms"] >= 5_100
    assert 0 < second["compute_ms"] < 3_000
    assert worked_in(tmp_path, 3) is None
    (tmp_path / KEPT).write_text("{")
    assert worked_in(tmp_path, 1) is None


PLAN = plan(Price("compute_ms", "0.001"))


def limited(tmp_path: Path, micros: int, attempt: int = 1) -> dict[str, Any]:
    """What control tells of a job's time under one budget of money; a second costs a unit."""
    budgets = Budgets(
        lambda: [Limit("b", "budget", micros, "total", "cost", tenant="acme", currency="EUR")],
        tmp_path / "cells", lambda tenant: (PLAN.ref, price_table(PLAN)),
    )  # fmt: skip
    told = budgets.inputs(job("evaluate"), "compute_ms", "digits")
    return {**told, "attempt": attempt, "plan_version": PLAN.ref}


def standing(tmp_path: Path) -> tuple[int, int]:
    """(used, reserved)."""
    limit = Limit("b", "budget", 1, "total", "cost", currency="EUR")
    found = spent(tmp_path / "cells", [limit], int(time.time() * 1000))["b"]
    return found.used, found.reserved


def counted(folder: Path, attempt: int = 1) -> int:
    used = worked_in(folder, attempt)
    assert used is not None
    return int(used["compute_ms"]) * 1000


def test_time_is_counted_against_budgets(tmp_path: Path) -> None:
    """As much as the record says, and two seconds ahead while it works; a job for which they are
    not there does not begin."""
    context = RecordedJob(tmp_path / "job")
    held = []

    def work(job: Any) -> dict[str, Any]:
        held.append(standing(tmp_path))
        time.sleep(0.3)
        with pytest.raises(MeuseError, match="the job needs 2000 compute_ms") as caught:
            worked(work, RecordedJob(tmp_path / "other"), limited(tmp_path, 3_900_000))
        assert caught.value.code is Code.BUDGET_EXCEEDED
        return {"done": True}

    assert worked(work, context, limited(tmp_path, 3_900_000)) == {"done": True}
    assert [reserved for _, reserved in held] == [2_000_000]
    assert worked_in(tmp_path / "other", 1) is None
    assert standing(tmp_path) == (counted(context.folder), 0)
    assert counted(context.folder) >= 300_000


@pytest.mark.parametrize("way", ["tells", "pauses"])
def test_a_job_ends_when_its_budget_is_spent(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it tells how far it is, or where it asks whether to pause."""
    monkeypatch.setattr(worktime, "EVERY_S", 0.05)
    context = RecordedJob(tmp_path / "job")

    def work(job: Any) -> dict[str, Any]:
        for n in range(1000):
            time.sleep(0.01)
            if way == "tells":
                job.progress(n / 1000)
            elif job.paused():
                raise Paused
        return {}

    with pytest.raises(MeuseError, match="budget") as caught:
        worked(work, context, limited(tmp_path, 2_100_000))
    assert caught.value.code is Code.BUDGET_EXCEEDED
    used, reserved = standing(tmp_path)
    assert (100_000 <= used < 2_000_000, reserved) == (True, 0)
    assert used == counted(context.folder)


def test_what_is_done_is_kept_and_what_cannot_be_counted_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last word of a job is no place to refuse it; a disk that takes no count is one."""
    monkeypatch.setattr(worktime, "EVERY_S", 0.05)

    def finished(job: Any) -> dict[str, Any]:
        time.sleep(0.3)
        job.progress(1.0)
        return {"done": True}

    context = RecordedJob(tmp_path / "job")
    assert worked(finished, context, limited(tmp_path, 2_100_000)) == {"done": True}

    def uncounted(job: Any) -> dict[str, Any]:
        (tmp_path / "other" / f"{KEPT}.new").mkdir()
        try:
            time.sleep(0.3)
            job.progress(0.5)
        finally:
            (tmp_path / "other" / f"{KEPT}.new").rmdir()
        return {}

    with pytest.raises(MeuseError, match="time cannot be counted"):
        worked(uncounted, RecordedJob(tmp_path / "other"), limited(tmp_path, 9_000_000))
