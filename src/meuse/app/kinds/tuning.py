"""What fine-tuning jobs have beside other training: OpenAI's words in the spec, a file of
results, and an adapter that is attached to a deployment."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from meuse.api import tuning_objects
from meuse.core.clock import now_ms
from meuse.core.errors import invalid
from meuse.core.nouns import Job, Scope, StoredFile
from meuse.core.ports import Blobs, FileStore, JobStore
from meuse.core.tuning import FIELD, FineTuning
from meuse.jobs.kinds import JobKind
from meuse.meter.jobs import record_id
from meuse.train.llm.spec import is_tuning

PURPOSE = "fine-tune-results"
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Tunings:
    """`jobs` has what a job said, of which its file of results is made."""

    jobs: JobStore
    files: FileStore
    blobs: Blobs

    def around(self, kind: JobKind) -> JobKind:
        """The kind `train`, which knows of fine-tuning."""

        def check(scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
            return _check(kind.check, scope, spec)

        def complete(job: Job, result: dict[str, Any]) -> dict[str, Any]:
            answer = kind.complete(job, result)
            if not is_tuning(job.spec.get("recipe")) or "model" not in answer:
                return answer
            return {**answer, "result_file": self._results(job)}

        return replace(kind, check=check, complete=complete)

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
