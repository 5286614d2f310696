"""Compress jobs of language models: the parent pinned, the held-out texts looked up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from meuse.app import estimates
from meuse.app.kinds.language import find_file
from meuse.app.kinds.shared import Stores
from meuse.compress.language.spec import LanguageCompressSpec
from meuse.compress.spec import parent_of
from meuse.core.errors import invalid
from meuse.core.nouns import (
    GENERATION,
    Artifact,
    Job,
    Lineage,
    ModelVersion,
    NewVersion,
    Scope,
    Signature,
)
from meuse.core.ports import FileStore
from meuse.jobs.kinds import JobKind
from meuse.registry import external, references

LAYOUTS = ("gguf", "hf", "ir")


@dataclass(frozen=True, slots=True)
class LanguageCompress:
    stores: Stores
    files: FileStore

    def check(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        asked = LanguageCompressSpec.from_dict(spec)
        parent = self._parent(scope, asked.model)
        find_file(self.files, scope, asked.data)
        return replace(asked, model=parent.ref).to_dict()

    def prepare(self, job: Job) -> dict[str, Any]:
        parent = self._parent(job.scope, job.spec["model"])
        file = find_file(self.files, job.scope, job.spec["data"])
        return {
            "language": True,
            "tenant": job.scope.tenant,
            "data": file.id,
            "digest": file.digest,
            "manifest": parent.artifacts[0].digest,
        }

    def complete(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        parent = self._parent(job.scope, job.spec["model"])
        made = self.stores.registry.add_version(
            job.scope,
            NewVersion(
                model=parent.model,
                task=GENERATION,
                artifacts=tuple(Artifact(**artifact) for artifact in result["artifacts"]),
                signature=Signature.from_dict(result["signature"]),
                metrics=result["metrics"],
                lineage=Lineage(
                    job=job.id,
                    dataset=job.spec["data"],
                    dataset_digest=result["dataset_digest"],
                    code_digest=result["code_digest"],
                    seed=job.spec["seed"],
                    target="",
                    parent=parent.ref,
                ),
                report=result["report"],
                card=result["card"],
            ),
        )
        return {"model": made.ref, "metrics": made.metrics, "report": made.report}

    def estimate(self, job: Job) -> int | None:
        told = self._parent(job.scope, job.spec["model"]).report["generation"]
        # An IR does not tell its parameters: 8 bits each at least.
        return estimates.of_conversion(told["parameters"] or told["weight_bytes"])

    def _parent(self, scope: Scope, text: str) -> ModelVersion:
        parent = references.resolve(self.stores.registry, scope, text)
        external.check_ours(parent, "model")
        told = parent.report["generation"]
        if told["layout"] not in LAYOUTS:
            raise invalid(
                "model",
                f"{parent.ref} is an adapter: it has no weights of its own to compress",
                f"Compress its base {told.get('base', '')}, which adapters then fit, or train it "
                "with merge: true.",
            )
        return parent


def by_task(others: JobKind, language: LanguageCompress) -> JobKind:
    """Compress jobs of models that take rows, and of language models."""
    registry = language.stores.registry

    def check(scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        parent = references.resolve(registry, scope, parent_of(spec.get("model")))
        if parent.task == GENERATION:
            return language.check(scope, spec)
        return others.check(scope, spec)

    def is_language(job: Job) -> bool:
        return references.resolve(registry, job.scope, job.spec["model"]).task == GENERATION

    def complete(job: Job, result: dict[str, Any]) -> dict[str, Any]:
        made = language.complete if is_language(job) else others.complete
        return made(job, result)

    return JobKind(
        check,
        lambda job: language.prepare(job) if is_language(job) else others.prepare(job),
        complete,
        lambda job: language.estimate(job) if is_language(job) else others.estimate(job),
    )
