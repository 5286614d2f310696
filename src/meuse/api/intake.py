"""From a file that arrived to a dataset version: at once, or by an ingest job."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meuse.api.context import Control
from meuse.api.jobs import submit
from meuse.core.clock import now_ms, to_rfc3339
from meuse.core.errors import invalid
from meuse.core.ids import new_id
from meuse.core.nouns import DatasetVersion, Job, Principal, Scope, Upload
from meuse.data import parts as parting
from meuse.data.options import ReadOptions

SYNC_BYTES = 64 << 20
"""Larger uploads are read by a job."""


def describe(version: DatasetVersion) -> dict[str, Any]:
    body = asdict(version)
    del body["created_ms"]
    return body | {"ref": version.ref, "created": to_rfc3339(version.created_ms)}


def accepted(job: Job, upload: Upload | None) -> dict[str, Any]:
    """The answer 202; the upload tells of the job to keys without the scope `train` too."""
    told = {"id": job.id, "kind": job.kind, "status": job.status, "name": job.spec["name"]}
    return told if upload is None else {**told, "upload": upload.id}


def flag(value: str, field: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if value.lower() not in known:
        raise invalid(field, f"{value!r} is not true or false")
    return known[value.lower()]


def keep(
    parts: Control,
    scope: Scope,
    name: str,
    format: str,
    path: Path,
    options: Mapping[str, Any],
    progress: Callable[[float], None] = lambda part: None,
) -> tuple[DatasetVersion, bool]:
    """Read the upload at `path` and keep it and its rows; (version, whether it is new)."""
    said = ReadOptions.from_dict(options).to_dict()
    with tempfile.TemporaryDirectory(dir=parts.uploads, prefix="table-") as folder:
        found = parts.inspect(path, format, Path(folder) / "table", said, progress)
        with path.open("rb") as file:
            digest, size = parts.blobs.put(scope.tenant, file)
        with found.table.open("rb") as file:
            table_digest, table_size = parts.blobs.put(scope.tenant, file)
    draft = DatasetVersion(
        name,
        0,
        digest,
        format,
        found.rows,
        found.columns,
        size,
        now_ms(),
        table_digest,
        table_size,
        said,
        found.warnings,
        found.skipped,
    )
    return parts.datasets.add_version(scope, draft)


def keep_later(
    parts: Control,
    caller: Principal,
    name: str,
    format: str,
    path: Path,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Take the file at `path` over, to be read by a job; the answer 202."""
    now, size = now_ms(), path.stat().st_size
    said = ReadOptions.from_dict(options).to_dict()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    upload = Upload(
        new_id("upl"), caller.scope, name, format, size, max(1, size), digest, said, now, now,
        job=new_id("job"),
    )  # fmt: skip
    folder = parts.uploads / upload.id
    folder.mkdir(parents=True, mode=0o700)
    parting.add(folder, 1, path, digest)
    parts.upload_store.open(upload, parts.max_open_uploads, 2 * parts.max_dataset_bytes)
    try:
        job = _submit(parts, caller, upload, upload.job)
    except BaseException:
        parts.upload_store.delete(upload.id)
        raise
    return accepted(job, upload)


def enqueue(parts: Control, caller: Principal, upload: Upload) -> Job:
    """The job that reads an upload whose parts are all there. Raises `conflict` when another
    call was faster."""
    job_id = new_id("job")
    parts.upload_store.take(upload.id, job_id, now_ms(), instead_of=upload.job)
    try:
        return _submit(parts, caller, upload, job_id)
    except BaseException:
        parts.upload_store.take(upload.id, "", now_ms(), instead_of=job_id)
        raise


def _submit(parts: Control, caller: Principal, upload: Upload, job_id: str) -> Job:
    return submit(parts, caller, "ingest", {"upload": upload.id}, job_id=job_id)
