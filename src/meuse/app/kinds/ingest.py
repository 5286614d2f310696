"""Ingest jobs: an upload that is here, or a file at a URL, on its way to a dataset version."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meuse.app.kinds.shared import Stores
from meuse.core.clock import now_ms
from meuse.core.errors import invalid
from meuse.core.fields import known
from meuse.core.ids import check_name
from meuse.core.nouns import PLAIN_PROFILE, Column, DatasetVersion, Job, Scope
from meuse.core.ports import UploadStore
from meuse.data import fetch, formats, hosts
from meuse.data.options import ReadOptions
from meuse.jobs.kinds import JobKind

MEMORY = 600 << 20
"""What reading takes, whatever the size (NPZ may take more: its arrays are held)."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Where uploads wait, and what may be fetched."""

    uploads: UploadStore
    folder: Path
    allowed_hosts: str
    max_bytes: int
    max_seconds: float

    @property
    def hosts(self) -> tuple[hosts.Host, ...]:
        return hosts.parse(self.allowed_hosts)


@dataclass(frozen=True, slots=True)
class Ingest:
    stores: Stores
    intake: Intake

    def kind(self) -> JobKind:
        return JobKind(self._check, self._prepare, self._complete, lambda _job: MEMORY)

    def _check(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        """{name, upload | url, format, options} → the same, checked. An upload says itself how
        it is read."""
        known(spec, ("name", "upload", "url", "format", "options"))
        if (spec.get("upload") is None) == (spec.get("url") is None):
            raise invalid("url", "one of upload and url is needed", "Name where the data is.")
        if spec.get("url") is not None:
            name, format = check_name(spec.get("name")), spec.get("format")
            options = ReadOptions.from_dict(spec.get("options") or {}).to_dict()
            where = {"url": fetch.check_url(spec["url"], self.intake.hosts)}
        else:
            upload = self.intake.uploads.get(scope, str(spec["upload"]))
            name, format, options = upload.name, upload.format, upload.options
            where = {"upload": upload.id}
        if format is not None:
            format = formats.parse(str(format))
        return {"name": name, **where, "format": format, "options": options}

    def _prepare(self, job: Job) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "tenant": job.scope.tenant,
            "hosts": self.intake.allowed_hosts,
            "max_bytes": self.intake.max_bytes,
            "max_seconds": self.intake.max_seconds,
        }
        if "url" in job.spec:
            fetch.check_url(job.spec["url"], self.intake.hosts)  # the operator may have changed it
            return inputs
        upload = self.intake.uploads.get(job.scope, job.spec["upload"])
        return {
            **inputs,
            "parts": str(self.intake.folder / upload.id),
            "bytes": upload.bytes,
            "sha256": upload.sha256,
        }

    def _complete(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        draft = DatasetVersion(
            job.spec["name"],
            0,
            result["digest"],
            result["format"],
            result["rows"],
            tuple(Column(**{**c, "shape": tuple(c["shape"])}) for c in result["columns"]),
            result["bytes"],
            now_ms(),
            result["table_digest"],
            result["table_bytes"],
            job.spec["options"],
            tuple(result["warnings"]),
            tuple(result["skipped"]),
        )
        version, new = self.stores.datasets.add_version(job.scope, draft)
        self.stores.datasets.keep_profile(
            job.scope, version.name, version.version, PLAIN_PROFILE, result["profile_digest"]
        )
        if "upload" in job.spec:
            shutil.rmtree(self.intake.folder / job.spec["upload"], ignore_errors=True)
        return {
            "data": version.ref,
            "name": version.name,
            "version": version.version,
            "new": new,
            "rows": version.rows,
            "columns": len(version.columns),
            "digest": version.digest,
            "warnings": list(version.warnings),
            "metrics": {},
        }
