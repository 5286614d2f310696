"""What kinds of jobs share in control: the stores, references to data, how versions are kept.

Everything a child produced is in the blobs before `complete` runs, so completing is small and
idempotent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meuse.app import estimates
from meuse.core.errors import invalid
from meuse.core.nouns import (
    ENCODER,
    Artifact,
    DatasetVersion,
    Job,
    Lineage,
    ModelVersion,
    NewVersion,
    Scope,
    Signature,
)
from meuse.core.ports import DatasetStore, DeploymentStore, RegistryStore
from meuse.core.references import parse_data
from meuse.registry import references


@dataclass(frozen=True, slots=True)
class Stores:
    """What kinds of jobs read and write; `wake` tells the reconciler to look."""

    datasets: DatasetStore
    registry: RegistryStore
    deployments: DeploymentStore
    wake: Callable[[], None]

    def find_data(self, scope: Scope, text: str, field: str = "data") -> DatasetVersion:
        reference = parse_data(text, field)
        return self.datasets.get(scope, reference.name, reference.version)

    def data_inputs(self, job: Job, data: str) -> dict[str, Any]:
        version = self.find_data(job.scope, data)
        return {
            "tenant": job.scope.tenant,
            "data": version.ref,
            "dataset_digest": version.digest,
            # Versions from before the canonical form are read from what was uploaded.
            "digest": version.table_digest or version.digest,
            "format": "table" if version.table_digest else version.format,
        }

    def find_encoder(self, scope: Scope, text: str) -> tuple[ModelVersion, Artifact]:
        """The version that a text classifier is to start from, and its encoder. Raises
        `not_found` or `invalid_field` at `config.encoder`."""
        field = "config.encoder"
        version = references.resolve(self.registry, scope, text, field)
        for artifact in version.artifacts:
            if artifact.format == ENCODER:
                return version, artifact
        family = version.report.get("imported", {}).get("architecture")
        what = f"is a {family}" if family else "was not imported as one"
        raise invalid(
            field,
            f"{version.ref} holds no encoder to start from: it {what}",
            'Import a BERT or DistilBERT checkpoint without a head (format "huggingface").',
        )

    def estimate(self, job: Job) -> int:
        """The memory (bytes) of work on the data of a job's spec."""
        data = self.find_data(job.scope, job.spec["data"])
        given = (job.spec.get("config") or {}).get("encoder")
        parameters = self.find_encoder(job.scope, given)[1].bytes // 4 if given else 0
        return estimates.of_training(data.rows, len(data.columns), parameters)

    def register(
        self,
        job: Job,
        result: dict[str, Any],
        model: str,
        data: str,
        seed: int,
        parent: str | None = None,
        part: int = 0,
    ) -> dict[str, Any]:
        dataset = self.find_data(job.scope, data)
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
                    split=result.get("split", {}),
                ),
                report=result.get("report", {}),
                card=result.get("card", {}),
                part=part,
            ),
        )
        if "evaluation" in result:
            self.registry.add_evaluation(
                job.scope, version.model, version.version, job.id, result["evaluation"]
            )
        answer = {"model": version.ref, "metrics": version.metrics}
        return {**answer, "report": version.report} if version.report else answer
