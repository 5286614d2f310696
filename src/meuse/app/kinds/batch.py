"""Batch jobs: requests of a file against the data plane; the results are files.

The gateway meters each request, at the batch tier: the job has no record of its own. The spec
names the batch alone; whose key it infers with stands in the batch, which only `/v1/batches`
makes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meuse.core.errors import Code, MeuseError
from meuse.core.fields import known
from meuse.core.nouns import Batch, Job, Scope, StoredFile
from meuse.core.ports import BatchStore, FileStore
from meuse.jobs.kinds import JobKind
from meuse.meter.jobs import record_id

PURPOSE = "batch_output"
MEMORY_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Batches:
    """`pass_for` (key id, until ms): what the data plane lets it in with; `url`: the platform's."""

    batches: BatchStore
    files: FileStore
    pass_for: Callable[[str, int], str]
    url: str

    def kind(self) -> JobKind:
        return JobKind(self._check, self._prepare, self._complete, lambda _job: MEMORY_BYTES)

    def _check(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        known(spec, ("batch",))
        return {"batch": self.batches.get(scope, str(spec.get("batch"))).id}

    def _of(self, job: Job) -> Batch:
        batch = self.batches.get(job.scope, job.spec["batch"])
        if batch.job != job.id:
            raise MeuseError(
                Code.CONFLICT, f"the batch {batch.id} is worked on by {batch.job}", field="batch"
            )
        return batch

    def _prepare(self, job: Job) -> dict[str, Any]:
        batch = self._of(job)
        file = self.files.get(batch.scope, batch.input_file)
        return {
            "tenant": batch.scope.tenant,
            "digest": file.digest,
            "endpoint": batch.endpoint,
            "until_ms": batch.expires_ms,
            "cancelled": batch.cancelling_ms is not None,
            "pass": self.pass_for(batch.key, batch.expires_ms),
            "url": self.url,
        }

    def _complete(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        batch = self._of(job)
        outcome = {**result}
        for name in ("output", "error"):
            made = result[name]
            outcome[name] = None if made is None else self._keep(job, batch, name, made, result)
        self.batches.conclude(batch.id, outcome)
        if result["status"] == "failed":
            first = result["errors"][0]
            code = Code.INVALID_DATA if result["counts"]["total"] == 0 else Code.BUDGET_EXCEEDED
            if first["code"] == "invalid_api_key":
                code = Code.UNAUTHENTICATED
            where = "" if first["line"] is None else f"line {first['line']}: "
            raise MeuseError(code, f"{where}{first['message']}", field=first["param"])
        return {"batch": batch.id, "status": result["status"], **result["counts"]}

    def _keep(
        self, job: Job, batch: Batch, name: str, made: dict[str, Any], result: dict[str, Any]
    ) -> str:
        """The id of a file of results; the same however often an attempt is completed."""
        file = StoredFile(
            f"file-{record_id(job.id, f'{name}-{job.attempt}').hex()}", batch.scope,
            f"{batch.id}_{name}.jsonl", PURPOSE, made["digest"], made["bytes"], result["at_ms"],
        )  # fmt: skip
        self.files.add(file)
        return file.id
