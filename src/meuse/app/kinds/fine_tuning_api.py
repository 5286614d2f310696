"""What fine-tuning jobs have beside other training: OpenAI's words in the spec, a file of
results, and an adapter that is attached to a deployment."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from meuse.api import tuning_objects
from meuse.app.kinds.shared import Stores
from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.nouns import Adapter, Job, Scope, StoredFile
from meuse.core.ports import Blobs, FileStore, JobStore
from meuse.core.tuning import FIELD, FineTuning
from meuse.deploy.completion import completed
from meuse.deploy.spec import MAX_ADAPTERS
from meuse.jobs.kinds import JobKind
from meuse.meter.jobs import record_id
from meuse.train.llm.spec import is_tuning

PURPOSE = "fine-tune-results"
_PAGE = 1000
_TRIES = 3
_SAID = ("targets", "timeout_ms")
"""What of a deployment stays as it is."""


@dataclass(frozen=True, slots=True)
class FineTunings:
    """`jobs` has what a job said, of which its file of results is made; `budget` is the bytes of
    memory that all replicas may have."""

    stores: Stores
    jobs: JobStore
    files: FileStore
    blobs: Blobs
    budget: Callable[[], int]

    def around(self, kind: JobKind) -> JobKind:
        """The kind `train`, which knows of fine-tuning."""

        def check(scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
            return _check(kind.check, scope, spec)

        def complete(job: Job, result: dict[str, Any]) -> dict[str, Any]:
            answer = kind.complete(job, result)
            if not is_tuning(job.spec.get("recipe")) or "model" not in answer:
                return answer
            return {**answer, "result_file": self._results(job), **self._attached(job, answer)}

        return replace(kind, check=check, complete=complete)

    def _attached(self, job: Job, answer: Mapping[str, Any]) -> dict[str, Any]:
        """What the job's result says of the adapter on its deployment, if it was to be there."""
        tuning = FineTuning.from_dict(job.spec.get(FIELD) or {})
        if tuning.deployment is None or tuning.adapter is None:
            return {}
        adapter = Adapter(tuning.adapter, answer["model"])
        for left in reversed(range(_TRIES)):
            try:
                self._attach(job.scope, tuning.deployment, adapter)
                break
            except MeuseError as error:
                if error.code is Code.PRECONDITION_FAILED and left:
                    continue  # somebody was faster
                # The adapter is there all the same: the job has done what cannot be repeated.
                return {"deployment_error": error.to_dict()}
        return {"fine_tuned_model": f"{tuning.deployment}:{tuning.adapter}"}

    def _attach(self, scope: Scope, name: str, adapter: Adapter) -> None:
        """In the place of one of the same name; somebody's change in between is not undone."""
        store = self.stores.deployments
        existing = store.get(scope, name)
        if adapter in existing.adapters:
            return  # this step ran before
        others = [each for each in existing.adapters if each.name != adapter.name]
        if len(others) >= MAX_ADAPTERS:
            raise invalid("adapters", f"{name} has {len(others)} adapters, and may have no more")
        named = sorted([*others, adapter], key=lambda each: each.name)
        wanted = replace(existing, adapters=tuple(named))
        wanted = completed(self.stores.registry, wanted, _SAID, self.budget())
        store.put(wanted, existing.generation)
        self.stores.wake()

    def _results(self, job: Job) -> str:
        """The id of the file; the same however often an attempt is completed.

        Its content is base64, as OpenAI's is.
        """
        content = base64.b64encode(tuning_objects.table(self._metrics(job)).encode())
        digest, size = self.blobs.put(job.scope.tenant, io.BytesIO(content))
        file = StoredFile(
            f"file-{record_id(job.id, f'results-{job.attempt}').hex()}", job.scope,
            "step_metrics.csv", PURPOSE, digest, size, now_ms(),
        )  # fmt: skip
        self.files.add(file)
        return file.id

    def _metrics(self, job: Job) -> Iterator[Mapping[str, Any]]:
        after = 0
        while found := self.jobs.events(job.id, after, _PAGE):
            yield from (event.data for event in found if event.kind == "metrics")
            after = found[-1].seq


Check = Callable[[Scope, dict[str, Any]], dict[str, Any]]


def _check(check: Check, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in spec.items() if name != FIELD}
    if FIELD not in spec:
        return check(scope, rest)
    if not is_tuning(spec.get("recipe")):
        raise invalid(FIELD, "only recipes of language models have it", "Leave it out.")
    tuning = FineTuning.from_dict(spec[FIELD])
    return {**check(scope, rest), FIELD: tuning.to_dict()}
