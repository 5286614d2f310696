"""Jobs that compute and neither train nor answer rows are metered by the time that they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meuse.app.work.worktime import METER, worked_in
from meuse.core.nouns import Job
from meuse.jobs.kinds import JobKind
from meuse.meter.jobs import SOURCE, TIER, JobJournal, record_id
from meuse.meter.record import UsageRecord


@dataclass(frozen=True, slots=True)
class WorkTime:
    """`plan_of`: the plan version that a tenant pays by now, or None."""

    journal: JobJournal
    plan_of: Callable[[str], str | None]

    def metered(self, kind: JobKind, about: Callable[[Job], str]) -> JobKind:
        """The kind, whose attempts leave a record each. `about`: a version ("digits:2") or name
        under whose name it is priced."""

        def prepare(job: Job) -> dict[str, Any]:
            told = {"attempt": job.attempt, "plan_version": self.plan_of(job.scope.tenant)}
            return {**kind.prepare(job), "worked": told}

        def ended(job: Job, folder: Path, ok: bool) -> None:
            used = worked_in(folder, job.attempt)
            if used is None:
                return
            tenant, what = job.scope.tenant, about(job)
            self.journal.write(
                UsageRecord(
                    id=record_id(job.id, f"worked:{job.attempt}"),
                    seq=0,
                    final=True,
                    source=SOURCE,
                    tenant=tenant,
                    owner=tenant,
                    project=job.scope.project,
                    key="",
                    deployment=f"{tenant}/{what.partition(':')[0]}",
                    version=what,
                    plan_version=used["plan_version"],
                    tier=TIER,
                    protocol="job",
                    status="ok" if ok else "error",
                    ts=used["ts"],
                    lease=None,
                    quantities={METER: used[METER]},
                )
            )

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
