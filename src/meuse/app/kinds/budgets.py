"""What jobs use: the budgets that hold for one, and the record of a training's time.

A job belongs to no key: budgets that name one do not hold for it. The budgets are those at the
start of an attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from meuse.app.kinds.records import attempt_record
from meuse.app.work.spending import TOKENS, TRAINING, used_in
from meuse.core.nouns import COST, Job, Limit, PriceTable
from meuse.jobs.kinds import JobKind
from meuse.meter.jobs import JobJournal


@dataclass(frozen=True, slots=True)
class Budgets:
    """All of the platform, counted in the file `cells`; `prices` has the plan version that a
    tenant pays by now, and what it says (None: it has no plan)."""

    limits: Callable[[], Iterable[Limit]]
    cells: Path
    prices: Callable[[str], tuple[str, PriceTable] | None]

    def inputs(self, job: Job, meter: str, name: str) -> dict[str, Any]:
        """What a child needs to count `meter`, and what it costs, for the deployment or model
        `name`."""
        mine = {"tenant": job.scope.tenant, "project": job.scope.project, "key": None,
                "model": f"{job.scope.tenant}/{name}"}  # fmt: skip
        found = [
            asdict(limit)
            for limit in self.limits()
            if limit.kind == "budget" and limit.meter in (meter, COST)
            and all(getattr(limit, who) in (None, is_) for who, is_ in mine.items())
        ]  # fmt: skip
        told = {"meter": meter, "limits": found, "cells": str(self.cells), "model": mine["model"]}
        paid = any(limit["meter"] == COST for limit in found)
        pays = self.prices(job.scope.tenant) if paid else None
        return {"budgets": {**told, "prices": pays and [pays[0], asdict(pays[1])]}}


@dataclass(frozen=True, slots=True)
class TrainingTime:
    """Trainings, searches and compressions are metered by the time that they run."""

    budgets: Budgets
    journal: JobJournal
    plan_of: Callable[[str], str | None]

    def metered(self, kind: JobKind) -> JobKind:
        def prepare(job: Job) -> dict[str, Any]:
            how = {"attempt": job.attempt, "plan_version": self.plan_of(job.scope.tenant)}
            told = self.budgets.inputs(job, TRAINING, _model(job))
            tokens = self.budgets.inputs(job, TOKENS, _model(job))["budgets"]
            return {**kind.prepare(job), **told, "token_budgets": tokens, **how}

        return replace(kind, prepare=prepare, ended=self._record)

    def _record(self, job: Job, folder: Path, ok: bool) -> None:
        """One record an attempt, whose bytes follow from what its process has left."""
        used = used_in(folder, job.attempt)
        if used is None:
            return
        meters = (TRAINING, TOKENS)
        self.journal.write(attempt_record(job, "attempt", _model(job), used, meters, ok))


def _model(job: Job) -> str:
    """The name of what is trained; of a compression, what it starts from."""
    name: str = job.spec.get("model_name") or job.spec["model"].partition(":")[0]
    return name
