"""Predict jobs: a version over a dataset; the result is a dataset version, billed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from meuse.app.kinds.budgets import Budgets
from meuse.app.kinds.evaluate import served
from meuse.app.kinds.shared import Stores
from meuse.core.clock import now_ms
from meuse.core.errors import invalid
from meuse.core.fields import integer, known
from meuse.core.ids import check_name
from meuse.core.nouns import Column, DatasetVersion, Job, Scope
from meuse.core.references import parse, parse_data
from meuse.jobs.kinds import JobKind
from meuse.meter.jobs import SOURCE, TIER, JobJournal, record_id
from meuse.meter.record import UsageRecord
from meuse.registry import references

FIELDS = ("model", "deployment", "data", "output", "batch_rows", "keep", "probabilities")
BATCH_ROWS = 4096
MAX_BATCH_ROWS = 100_000
MAX_KEEP = 1000


@dataclass(frozen=True, slots=True)
class Predict:
    """`plan_of`: the plan version that a tenant pays by now ("basic:3"), or None."""

    stores: Stores
    journal: JobJournal
    plan_of: Callable[[str], str | None]
    budgets: Budgets

    def kind(self) -> JobKind:
        return JobKind(self._check, self._prepare, self._complete)

    def _check(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        asked = parse_spec(spec)
        data = self.stores.find_data(scope, asked["data"])
        model = asked["model"]
        if asked["deployment"] is not None:
            # Pinned now: the job answers with one version, whatever is rolled out meanwhile.
            targets = self.stores.deployments.get(scope, asked["deployment"]).targets
            model = max(targets, key=lambda target: target.weight).model
        version = references.of_rows(self.stores.registry, scope, model)
        names = [column.name for column in data.columns]
        for i, name in enumerate(asked["keep"]):
            if name not in names:
                raise invalid(
                    f"keep[{i}]", f"{data.ref} has no column {name!r}", f"It has {names[:50]}."
                )
        served(version)  # refused now when nothing here runs it
        return {**asked, "data": data.ref, "model": version.ref}

    def _prepare(self, job: Job) -> dict[str, Any]:
        data = self.stores.find_data(job.scope, job.spec["data"])
        version = references.resolve(self.stores.registry, job.scope, job.spec["model"])
        return {
            **self.stores.data_inputs(job, job.spec["data"]),
            "columns": [asdict(column) for column in data.columns],
            "version": served(version),
            "plan_version": self.plan_of(job.scope.tenant),
            **self.budgets.inputs(job, "rows", _name(job)),
        }

    def _complete(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        made, used = result["output"], result["usage"]
        columns = tuple(Column(**{**c, "shape": tuple(c["shape"])}) for c in made["columns"])
        draft = DatasetVersion(
            job.spec["output"], 0, made["digest"], made["format"], made["rows"], columns,
            made["bytes"], now_ms(),
        )  # fmt: skip
        version, _ = self.stores.datasets.add_version(job.scope, draft)
        # After the result is kept, and before the job counts as done: this runs again until
        # both are, and the same bytes under the same id bill once.
        self.journal.write(_record(job, used))
        return {
            "data": version.ref,
            "rows": version.rows,
            "model": job.spec["model"],
            "rows_per_s": result["rows_per_s"],
            "usage": {"tier": TIER, **used["quantities"]},
        }


def parse_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The checked spec with defaults. Raises `invalid_field`."""
    known(spec, FIELDS)
    given = {name: value for name, value in spec.items() if value is not None}
    if ("model" in given) == ("deployment" in given):
        raise invalid("model", "name a version (model) or a deployment, one of them")
    keep = given.get("keep", [])
    strings = isinstance(keep, list | tuple) and all(isinstance(name, str) for name in keep)
    if not strings or len(keep) > MAX_KEEP or len(set(keep)) < len(keep):
        raise invalid("keep", "keep is not a list of different columns", 'Such as ["id"].')
    probabilities = given.get("probabilities", True)
    if not isinstance(probabilities, bool):
        raise invalid("probabilities", f"{probabilities!r} is not true or false")
    deployment = given.get("deployment")
    return {
        "model": str(parse(given["model"])) if "model" in given else None,
        "deployment": None if deployment is None else check_name(deployment, "deployment"),
        "data": str(parse_data(given.get("data"))),
        "output": check_name(given.get("output"), "output"),
        "batch_rows": integer("batch_rows", given.get("batch_rows", BATCH_ROWS), 1, MAX_BATCH_ROWS),
        "keep": list(keep),
        "probabilities": probabilities,
    }


def _record(job: Job, used: dict[str, Any]) -> UsageRecord:
    """What the job is billed for. A version that is not deployed is priced under its model's
    name, as a deployment of that name would be."""
    tenant = job.scope.tenant
    return UsageRecord(
        id=record_id(job.id),
        seq=0,
        final=True,
        source=SOURCE,
        tenant=tenant,
        owner=tenant,
        project=job.scope.project,
        key="",
        deployment=f"{tenant}/{_name(job)}",
        version=job.spec["model"],
        plan_version=used["plan_version"],
        tier=TIER,
        protocol="job",
        status="ok",
        ts=used["ts"],
        lease=None,
        quantities=used["quantities"],
    )


def _name(job: Job) -> str:
    """What limits and prices know the answering version by."""
    name: str = job.spec["deployment"] or job.spec["model"].partition(":")[0]
    return name
