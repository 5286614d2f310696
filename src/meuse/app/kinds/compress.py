"""Compress jobs: the parent and its data pinned, the smaller version registered beneath it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meuse.app.kinds import distill
from meuse.app.kinds.import_ import Foreign
from meuse.app.kinds.shared import Stores
from meuse.compress import order
from meuse.compress.spec import CompressSpec
from meuse.core.errors import invalid
from meuse.core.nouns import CUSTOM, Job, Scope
from meuse.jobs.kinds import JobKind
from meuse.registry import references
from meuse.runtime import toolchains


@dataclass(frozen=True, slots=True)
class Compress:
    stores: Stores
    foreign: Foreign

    def kind(self) -> JobKind:
        return JobKind(self._check, self._prepare, self._complete, self.stores.estimate)

    def _check(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        asked = CompressSpec.from_dict(spec)
        for index, step in enumerate(asked.steps):
            chain = getattr(step.config, "toolchain", None)
            if chain is not None:
                folder = Path(self.foreign.toolchains)
                toolchains.need(chain, folder, f"steps.{index}.to")
        parent = references.of_rows(self.stores.registry, scope, asked.model)
        if parent.task == CUSTOM:
            raise invalid(
                "model",
                f"{parent.ref} was uploaded: what it predicts is not known here",
                "Models that were trained here can be compressed.",
            )
        if not parent.lineage.target:
            raise invalid(
                "model",
                f"{parent.ref} was imported: which column it predicts is not known here, so there "
                "is nothing to judge it by",
                "Models that were trained here can be compressed.",
            )
        formats = [artifact.format for artifact in parent.artifacts]
        order.check_parent(
            asked.steps, parent.ref, formats[0], has_weights="safetensors" in formats
        )
        data = self.stores.find_data(scope, asked.data or parent.lineage.dataset)
        asked = distill.pinned(self.stores, scope, asked, parent, data)
        return replace(asked, model=parent.ref, data=data.ref).to_dict()

    def _prepare(self, job: Job) -> dict[str, Any]:
        parent = references.resolve(self.stores.registry, job.scope, job.spec["model"])
        return {
            **self.stores.data_inputs(job, job.spec["data"]),
            **distill.inputs_of(self.stores, job, CompressSpec.from_dict(job.spec)),
            "sandbox": self.foreign.to_dict(),
            "parent": {
                "digest": parent.artifacts[0].digest,
                "format": parent.artifacts[0].format,
                "weights": next(
                    (a.digest for a in parent.artifacts if a.format == "safetensors"), None
                ),
                "training": parent.card.get("training", {}),
                "signature": parent.signature.to_dict(),
                "task": parent.task,
                "target": parent.lineage.target,
                # The parent's split: on its own data the test rows were never trained on.
                "seed": parent.lineage.seed,
                "split": parent.lineage.split,
                "features": parent.card.get("data", {}).get("features"),
                "given": parent.card.get("given"),  # its licence holds for what is made of it
            },
        }

    def _complete(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        parent = references.resolve(self.stores.registry, job.scope, job.spec["model"])
        data, seed = job.spec["data"], parent.lineage.seed
        if "versions" not in result:
            return self.stores.register(job, result, parent.model, data, seed, parent.ref)
        # Of a search: the recommended one comes first, and stands for the job's result.
        made = [
            self.stores.register(job, each, parent.model, data, seed, parent.ref, part)
            for part, each in enumerate(result["versions"])
        ]
        versions = [
            {"model": each["model"], "metrics": each["metrics"], "recommended": part == 0}
            for part, each in enumerate(made)
        ]
        return {**made[0], "versions": versions}
