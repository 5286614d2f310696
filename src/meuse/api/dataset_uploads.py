"""Datasets in parts: begin, send the parts in any order, complete. An upload that was broken off
goes on where it was, also after a restart of the platform."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from meuse.api.context import Body, Control, Parts, requires
from meuse.api.intake import SYNC_BYTES, accepted, describe, enqueue, flag, keep
from meuse.api.uploads import arriving, save
from meuse.core.clock import now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.fields import integer, known
from meuse.core.ids import check_name, new_id
from meuse.core.nouns import Job, Principal, Upload
from meuse.data import formats
from meuse.data import parts as parting
from meuse.data.options import OPTIONS, ReadOptions

router = APIRouter(prefix="/api/datasets/uploads", tags=["datasets"])
Caller = Annotated[Principal, requires("data")]

PART_BYTES = 16 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]{44}):")


def _told(parts: Control, upload: Upload, with_parts: bool = True) -> dict[str, Any]:
    folder = parts.uploads / upload.id
    body: dict[str, Any] = {
        "id": upload.id,
        "name": upload.name,
        "format": upload.format,
        "bytes": upload.bytes,
        "sha256": upload.sha256 or None,
        "part_size": upload.part_bytes,
        "part_count": parting.part_count(upload.bytes, upload.part_bytes),
        "created": to_rfc3339(upload.created_ms),
        "status": "open",
        "job": None,
    }
    job = _job_of(parts, upload)
    if job is not None:
        body["status"] = job.status
        body["job"] = {
            "id": job.id, "status": job.status, "progress": round(job.progress, 4),
            "rate": job.live.get("rate"), "unit": job.live.get("unit"),
            "note": job.live.get("note"), "metrics": job.metrics, "result": job.result,
            "error": job.error,
        }  # fmt: skip
    if with_parts:
        body["parts"] = [
            {"number": part.number, "bytes": part.bytes, "sha256": part.sha256}
            for part in parting.there(folder)
        ]
    return body


def _job_of(parts: Control, upload: Upload) -> Job | None:
    """The job that reads it; None while it is open (or its job never came to be)."""
    if not upload.job:
        return None
    try:
        return parts.jobs.get(upload.scope, upload.job)
    except MeuseError:
        return None


def _open(parts: Control, caller: Principal, upload_id: str) -> Upload:
    upload = parts.upload_store.get(caller.scope, upload_id)
    job = _job_of(parts, upload)
    if job is not None:
        raise MeuseError(
            Code.CONFLICT,
            f"the upload is complete: the job {job.id} reads it",
            field="upload",
            hint="Begin another one.",
        )
    return upload


@router.post("", status_code=201)
def begin(parts: Parts, caller: Caller, body: Body) -> JSONResponse:
    """Begin an upload of `bytes` bytes as `name`: {name, bytes, format?, sha256?} and how it is
    to be read (kinds, missing, encoding, delimiter, on_error, manifest).

    201 with {id, part_size, part_count, parts: [], …}. An announcement with a `sha256` that is
    like an open one gives 200 and that one: send the parts that it has not.
    """
    known(body, ("name", "bytes", "format", "sha256", *OPTIONS))
    name = check_name(body.get("name"))
    total = integer("bytes", body.get("bytes"), 0, 1 << 60)
    if total == 0:
        raise invalid("bytes", "an empty file holds no data", "Say how many bytes there are.")
    if total > parts.max_dataset_bytes:
        raise MeuseError(
            Code.TOO_LARGE,
            f"{total:,} bytes are more than the {parts.max_dataset_bytes:,} of a dataset",
            field="bytes",
            hint="The operator can raise max_dataset_bytes.",
        )
    format = body.get("format")
    digest = body.get("sha256") or ""
    if not isinstance(digest, str) or (digest and not _SHA256.fullmatch(digest)):
        raise invalid("sha256", "this is not a SHA-256", "Send 64 hexadecimal digits, lower case.")
    options = {key: value for key, value in body.items() if key in OPTIONS}
    now = now_ms()
    upload = Upload(
        new_id("upl"),
        caller.scope,
        name,
        None if format is None else formats.parse(str(format)),
        total,
        min(PART_BYTES, parts.max_upload_bytes),
        digest,
        ReadOptions.from_dict(options).to_dict(),
        now,
        now,
    )
    made, new = parts.upload_store.open(upload, parts.max_open_uploads, 2 * parts.max_dataset_bytes)
    (parts.uploads / made.id).mkdir(parents=True, exist_ok=True, mode=0o700)
    return JSONResponse(_told(parts, made), 201 if new else 200)


@router.get("/{upload_id}")
def one(parts: Parts, caller: Caller, upload_id: str) -> dict[str, Any]:
    """How it stands: the parts that are there, or the job that reads it."""
    return _told(parts, parts.upload_store.get(caller.scope, upload_id))


@router.put("/{upload_id}/parts/{number}")
async def put_part(
    request: Request,
    parts: Parts,
    caller: Caller,
    upload_id: str,
    number: int,
    content_digest: Annotated[str | None, Header()] = None,
) -> dict[str, Any]:
    """Send a part (numbered from 1; all have `part_size` bytes but the last). In any order, and
    again at will: the last one counts. `Content-Digest: sha-256=:…:` (RFC 9530) is checked.

    200 with {number, bytes, sha256}; the part is on the disk by then.
    """
    wanted = _content_digest(content_digest)
    upload = await run_in_threadpool(_open, parts, caller, upload_id)
    size = parting.size_of(upload.bytes, upload.part_bytes, number)
    with arriving(parts.uploads) as path:
        await save(request.stream(), path, size, "", "Send part_size bytes in each part.")
        found = await run_in_threadpool(_kept, path, size, wanted)
        await run_in_threadpool(_place, parts, caller, upload, number, path, found)
    return {"number": number, "bytes": size, "sha256": found}


def _kept(path: Path, size: int, wanted: str | None) -> str:
    """The SHA-256 of a part that arrived whole. Raises `invalid_request`."""
    there = path.stat().st_size
    if there != size:
        raise MeuseError(
            Code.INVALID_REQUEST,
            f"the part has {there:,} bytes, it must have {size:,}",
            field="body",
            hint="Send part_size bytes; the last part has what is left.",
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    if wanted is not None and found != wanted:
        raise MeuseError(
            Code.INVALID_REQUEST,
            f"the part's SHA-256 is {found}, announced was {wanted}",
            field="Content-Digest",
            hint="It was damaged on its way: send it again.",
        )
    return found


def _place(
    parts: Control, caller: Principal, upload: Upload, number: int, path: Path, digest: str
) -> None:
    _open(parts, caller, upload.id)  # it may have been completed or deleted meanwhile
    try:
        parting.add(parts.uploads / upload.id, number, path, digest)
    except FileNotFoundError:
        _open(parts, caller, upload.id)
        raise
    parts.upload_store.touch(upload.id, now_ms())


def _content_digest(header: str | None) -> str | None:
    if header is None:
        return None
    match = _DIGEST.search(header)
    try:
        return base64.b64decode(match[1], validate=True).hex() if match else _no_digest()
    except binascii.Error:
        return _no_digest()


def _no_digest() -> str:
    raise invalid(
        "Content-Digest", "this is not a digest", "Send sha-256=:<base64>:, or leave it out."
    )


@router.post("/{upload_id}/complete")
async def complete(request: Request, parts: Parts, caller: Caller, upload_id: str) -> JSONResponse:
    """All parts are there: read them. As for an upload in one request: 201 (200) with the
    version, or, over 64 MiB or with `async=true`, 202 with {id} of an ingest job. Again: the
    same job. 409 with the parts that are missing."""
    later = flag(request.query_params.get("async", "false"), "async")
    return await run_in_threadpool(_complete, parts, caller, upload_id, later)


def _complete(parts: Control, caller: Principal, upload_id: str, later: bool) -> JSONResponse:
    upload = parts.upload_store.get(caller.scope, upload_id)
    job = _job_of(parts, upload)
    if job is not None:
        return JSONResponse(accepted(job, upload), 202)
    folder = parts.uploads / upload.id
    parting.check_all(folder, upload.bytes, upload.part_bytes)
    if later or upload.bytes > SYNC_BYTES:
        return JSONResponse(accepted(enqueue(parts, caller, upload), upload), 202)
    with arriving(parts.uploads) as path:
        parting.assemble(folder, path, upload.sha256)
        format = upload.format or formats.sniff(path)
        version, new = keep(parts, caller.scope, upload.name, format, path, upload.options)
    parts.upload_store.delete(upload.id)
    shutil.rmtree(folder, ignore_errors=True)
    return JSONResponse(describe(version), 201 if new else 200)


@router.delete("/{upload_id}", status_code=204)
def delete(parts: Parts, caller: Caller, upload_id: str) -> Response:
    """Throw away what has arrived. 409 while a job reads it."""
    upload = parts.upload_store.get(caller.scope, upload_id)
    job = _job_of(parts, upload)
    if job is not None and not job.status.ended:
        raise MeuseError(
            Code.CONFLICT,
            f"the job {job.id} reads this upload",
            field="upload",
            hint="Cancel the job first.",
        )
    parts.upload_store.delete(upload.id)
    shutil.rmtree(parts.uploads / upload.id, ignore_errors=True)
    return Response(status_code=204)
