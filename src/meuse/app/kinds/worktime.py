"""Jobs that compute and neither train nor answer rows are metered by the time that they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meuse.app.kinds.budgets import Budgets
from meuse.app.kinds.records import attempt_record
from meuse.app.work.worktime import METER, worked_in
from meuse.core.nouns import Job
from meuse.jobs.kinds import JobKind
from meuse.meter.jobs import JobJournal


@dataclass(frozen=True, slots=True)
class WorkTime:
    """`plan_of`: the plan version that a tenant pays by now, or None."""

    budgets: Budgets
    journal: JobJournal
    plan_of: Callable[[str], str | None]

    def metered(self, kind: JobKind, about: Callable[[Job], str]) -> JobKind:
        """The kind, whose attempts leave a record each. `about`: a version ("digits:2") or name
        under whose name it is priced."""

        def prepare(job: Job) -> dict[str, Any]:
            name = about(job).partition(":")[0]
            how = {"attempt": job.attempt, "plan_version": self.plan_of(job.scope.tenant)}
            told = self.budgets.inputs(job, METER, name)
            return {**kind.prepare(job), "worked": {**told, **how}}

        def ended(job: Job, folder: Path, ok: bool) -> None:
            used = worked_in(folder, job.attempt)
            if used is None:
                return
            self.journal.write(attempt_record(job, "worked", about(job), used, (METER,), ok))

        return replace(kind, prepare=prepare, ended=ended)


def first_model(job: Job) -> str:
    """Of an evaluation: the first of the versions that it compares."""
    model: str = job.spec["models"][0]
    return model


def model_name(job: Job) -> str:
    """Of an import: what it becomes."""
    name: str = job.spec["model_name"]
    return name


def dataset_name(job: Job) -> str:
    """Of an ingest."""
    name: str = job.spec["name"]
    return name


def deployment_name(job: Job) -> str:
    """Of a tuning of engines."""
    name: str = job.spec["deployment"]
    return name
