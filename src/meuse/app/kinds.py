"""What control does for each kind of job: check the spec, resolve inputs, keep the result.

Here stages meet: data with training, the registry with deployments. Everything a child
produced is in the blobs before `complete` runs, so completing is small and idempotent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from meuse.compress.spec import CompressSpec
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import (
    CUSTOM,
    Artifact,
    DatasetVersion,
    Job,
    Lineage,
    NewVersion,
    Scope,
    Signature,
)
from meuse.core.ports import DatasetStore, DeploymentStore, RegistryStore
from meuse.core.references import parse_data
from meuse.deploy import spec as deployments_spec
from meuse.jobs.kinds import JobKind
from meuse.registry import references
from meuse.train.spec import TrainSpec


@dataclass(frozen=True, slots=True)
class JobKinds:
    """The kinds that this platform runs; `wake` tells the reconciler to look."""

    datasets: DatasetStore
    registry: RegistryStore
    deployments: DeploymentStore
    wake: Callable[[], None]

    def by_name(self) -> dict[str, JobKind]:
        return {
            "train": JobKind(self._check_train, self._prepare_train, self._complete_train),
            "compress": JobKind(
                self._check_compress, self._prepare_compress, self._complete_compress
            ),
        }

    def _find_data(self, scope: Scope, text: str, field: str = "data") -> DatasetVersion:
        reference = parse_data(text, field)
        return self.datasets.get(scope, reference.name, reference.version)

    def _check_train(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        deploy = spec.pop("deploy", False)
        if not isinstance(deploy, bool):
            raise invalid("deploy", f"{deploy!r} is not true or false")
        asked = TrainSpec.from_dict(spec)
        if deploy:
            self.deployments.check_name(scope, asked.model_name)
        data = self._find_data(scope, asked.data)
        names = [column.name for column in data.columns]
        if asked.target is not None and asked.target not in names:
            raise invalid(
                "target", f"{data.ref} has no column {asked.target!r}", f"It has {names[:50]}."
            )
        # Pinned now: what is uploaded later does not change a job that waits.
        pinned = replace(asked, data=data.ref, target=asked.target or names[-1])
        return {**pinned.to_dict(), "deploy": deploy}

    def _data_inputs(self, job: Job, data: str) -> dict[str, Any]:
        version = self._find_data(job.scope, data)
        return {
            "tenant": job.scope.tenant,
            "data": version.ref,
            "digest": version.digest,
            "format": version.format,
        }

    def _prepare_train(self, job: Job) -> dict[str, Any]:
        return self._data_inputs(job, job.spec["data"])

    def _complete_train(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        answer = self._register(
            job, result, job.spec["model_name"], job.spec["data"], job.spec["seed"]
        )
        if job.spec.get("deploy"):
            try:
                self._deploy(job.scope, job.spec["model_name"], answer["model"])
                answer["deployment"] = job.spec["model_name"]
            except MeuseError as error:
                # The model is there all the same: the job has done what cannot be repeated.
                answer["deployment_error"] = error.to_dict()
        return answer

    def _check_compress(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        asked = CompressSpec.from_dict(spec)
        parent = references.resolve(self.registry, scope, asked.model)
        if parent.task == CUSTOM:
            raise invalid(
                "model",
                f"{parent.ref} was uploaded: what it predicts is not known here",
                "Models that were trained here can be compressed.",
            )
        data = self._find_data(scope, asked.data or parent.lineage.dataset)
        return replace(asked, model=parent.ref, data=data.ref).to_dict()

    def _prepare_compress(self, job: Job) -> dict[str, Any]:
        parent = references.resolve(self.registry, job.scope, job.spec["model"])
        return {
            **self._data_inputs(job, job.spec["data"]),
            "parent": {
                "digest": parent.artifacts[0].digest,
                "signature": parent.signature.to_dict(),
                "task": parent.task,
                "target": parent.lineage.target,
                # The parent's split: on its own data the test rows were never trained on.
                "seed": parent.lineage.seed,
            },
        }

    def _complete_compress(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        parent = references.resolve(self.registry, job.scope, job.spec["model"])
        return self._register(
            job, result, parent.model, job.spec["data"], parent.lineage.seed, parent.ref
        )

    def _register(
        self,
        job: Job,
        result: dict[str, Any],
        model: str,
        data: str,
        seed: int,
        parent: str | None = None,
    ) -> dict[str, Any]:
        dataset = self._find_data(job.scope, data)
        version = self.registry.add_version(
            job.scope,
            NewVersion(
                model=model,
                task=result["task"],
                artifacts=tuple(Artifact(**artifact) for artifact in result["artifacts"]),
                signature=Signature.from_dict(result["signature"]),
                metrics=result["metrics"],
                lineage=Lineage(
                    job=job.id,
                    dataset=dataset.ref,
                    dataset_digest=dataset.digest,
                    code_digest=result["code_digest"],
                    seed=seed,
                    target=result["target"],
                    parent=parent,
                ),
                report=result.get("report", {}),
            ),
        )
        answer = {"model": version.ref, "metrics": version.metrics}
        return {**answer, "report": version.report} if version.report else answer

    def _deploy(self, scope: Scope, name: str, model: str) -> None:
        wanted = deployments_spec.parse(scope, name, {"model": model})
        existing = {d.name: d for d in self.deployments.list(scope)}.get(name)
        if existing is not None:
            if existing.targets == wanted.targets:
                return  # this step ran before
            wanted = replace(existing, targets=wanted.targets)
        # Somebody's change of scale or access in between must not be undone.
        self.deployments.put(wanted, existing.generation if existing else 0)
        self.wake()
