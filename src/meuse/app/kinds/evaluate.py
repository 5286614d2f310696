"""Evaluate jobs: versions and data pinned at submission, a record kept with each version."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from meuse.app.kinds import language
from meuse.app.kinds.shared import Stores
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import CUSTOM, EngineOptions, Job, ModelVersion, Scope
from meuse.core.ports import FileStore
from meuse.core.references import is_file
from meuse.deploy.spec import artifact_for
from meuse.evaluate.spec import EvaluateSpec
from meuse.jobs.kinds import JobKind
from meuse.registry import references

MAX_ANCESTORS = 50


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Versions that take rows, on a dataset; language models, on the lines of a file."""

    stores: Stores
    files: FileStore

    def kind(self) -> JobKind:
        return JobKind(self._check, self._prepare, self._complete, self._estimate)

    def _check(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        if is_file(spec.get("data")) or spec.keys() & language.ONLY:
            return language.check(self.stores, self.files, scope, spec)
        asked = EvaluateSpec.from_dict(spec)
        data = self.stores.find_data(scope, asked.data)
        versions = [
            references.of_rows(self.stores.registry, scope, text, f"models[{i}]")
            for i, text in enumerate(asked.models)
        ]
        refs = tuple(version.ref for version in versions)
        if len(set(refs)) < len(refs):
            raise invalid("models", f"two of {', '.join(asked.models)} are the same version")
        names = [column.name for column in data.columns]
        target = asked.target or _target(versions)
        for field, name in [("target", target), *(("slices", name) for name in asked.slices)]:
            if name not in names:
                raise invalid(field, f"{data.ref} has no column {name!r}", f"It has {names[:50]}.")
        task = _task(versions, asked.task)
        return replace(asked, models=refs, data=data.ref, target=target, task=task).to_dict()

    def _prepare(self, job: Job) -> dict[str, Any]:
        if is_file(job.spec["data"]):
            return language.prepare(self.stores, self.files, job)
        versions = [
            references.resolve(self.stores.registry, job.scope, ref) for ref in job.spec["models"]
        ]
        data = self.stores.find_data(job.scope, job.spec["data"])
        return {
            **self.stores.data_inputs(job, job.spec["data"]),
            "columns": [asdict(column) for column in data.columns],
            "versions": [
                {**served(version), "trained_on": self._trained_on(job.scope, version)}
                for version in versions
            ],
        }

    def _estimate(self, job: Job) -> int | None:
        return language.estimate(self.stores, job) if is_file(job.spec["data"]) else None

    def _trained_on(self, scope: Scope, version: ModelVersion) -> list[dict[str, Any]]:
        """The data, and its split, of this version and of those it was made from."""
        found: list[dict[str, Any]] = []
        while len(found) < MAX_ANCESTORS:
            lineage = version.lineage
            if lineage.dataset_digest:
                found.append(
                    {
                        "digest": lineage.dataset_digest,
                        "seed": lineage.seed,
                        "target": lineage.target,
                        "task": version.task,
                        "split": getattr(lineage, "split", {}),
                    }
                )
            if lineage.parent is None:
                break
            try:
                version = references.resolve(self.stores.registry, scope, lineage.parent)
            except MeuseError:
                break  # it was deleted; what it was trained on is not known any more
        return found

    def _complete(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        for ref, body in result["evaluations"].items():
            model, _, number = ref.partition(":")
            self.stores.registry.add_evaluation(job.scope, model, int(number), job.id, body)
        return {name: part for name, part in result.items() if name != "evaluations"}


def served(version: ModelVersion) -> dict[str, Any]:
    """What a job child needs to run a version as a replica would."""
    artifact = artifact_for(version, EngineOptions())
    return {
        "ref": version.ref,
        "digest": artifact.digest,
        "format": artifact.format,
        "signature": version.signature.to_dict(),
        "task": version.task,
        "target": version.lineage.target,
        "features": version.card.get("data", {}).get("features"),
    }


def _target(versions: list[ModelVersion]) -> str:
    """What all of them predict. Raises `invalid_field` when that is not one column."""
    targets = sorted({v.lineage.target for v in versions if v.lineage.target})
    if len(targets) != 1:
        told = f"they predict {targets}" if targets else "they were uploaded"
        raise invalid("target", f"which column is the truth is not clear: {told}", "Name it.")
    return targets[0]


def _task(versions: list[ModelVersion], asked: str | None) -> str:
    """The one task of all. Raises `invalid_field`."""
    known = sorted({v.task for v in versions if v.task != CUSTOM})
    if len(known) > 1:
        raise invalid("models", f"they are for different tasks: {', '.join(known)}")
    if known and asked not in (None, known[0]):
        raise invalid("task", f"the versions are for {known[0]}, not {asked}")
    task = known[0] if known else asked
    if task is None:
        uploaded = next(v.ref for v in versions if v.task == CUSTOM)
        raise invalid(
            "task",
            f"{uploaded} was uploaded: what it predicts is not known here",
            "Name it: classification, multilabel or regression.",
        )
    return task
