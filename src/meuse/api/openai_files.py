"""`/v1/files` as OpenAI has it: what batches read and give, and what fine-tuning learns from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.datastructures import UploadFile

from meuse.api.context import Control, Parts, requires
from meuse.api.uploads import arriving, save
from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.ids import new_id
from meuse.core.nouns import Principal, StoredFile
from meuse.gateway.openai import parameters

router = APIRouter(prefix="/v1/files", tags=["openai"])
Caller = Annotated[Principal, requires("data")]
After = Annotated[str | None, Query(max_length=63)]

MAX_NAME = 255
_PIECE = 1 << 20


def describe(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_ms // 1000,
        "expires_at": None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


@router.post(
    "", openapi_extra={"requestBody": {"content": {"multipart/form-data": {}}, "required": True}}
)
async def upload(request: Request, parts: Parts, caller: Caller) -> dict[str, Any]:
    """Keep a file: a form with `purpose` (batch, fine-tune) and `file`."""
    with arriving(parts.uploads) as path:
        async with request.form(max_files=1, max_fields=8) as form:
            # A client sends an object as fields of its own: expires_after[anchor].
            fields = {name.partition("[")[0]: value for name, value in form.items()}
            given = parameters.read(parameters.FILES, fields)
            sent = given["file"]
            if not isinstance(sent, UploadFile):
                raise invalid("file", "it is a field, not a file", "Send a file name with it.")
            limit = parts.max_file_bytes
            await save(_pieces(sent), path, limit, "max_file_bytes")
            name = (sent.filename or "file").replace("\0", "")[:MAX_NAME]
        return await run_in_threadpool(_keep, parts, caller, given["purpose"], name, path)


async def _pieces(file: UploadFile) -> AsyncIterator[bytes]:
    while piece := await file.read(_PIECE):
        yield piece


def _keep(parts: Control, caller: Principal, purpose: str, name: str, path: Path) -> dict[str, Any]:
    if not path.stat().st_size:
        raise invalid("file", "the file is empty")
    with path.open("rb") as source:
        digest, size = parts.file_blobs.put(caller.tenant, source)
    text = name.encode("utf-8", "replace").decode()
    file = StoredFile(new_id("file"), caller.scope, text, purpose, digest, size, now_ms())
    parts.files.add(file, parts.max_tenant_file_bytes)
    return describe(file)


def page(items: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page as OpenAI lists things; `items` has one more than `limit` where more follow."""
    shown = items[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > limit,
    }


@router.get("")
def listing(
    parts: Parts,
    caller: Caller,
    purpose: Annotated[str | None, Query(max_length=32)] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """The project's files, newest first; `after` is the last id of the page before."""
    found = parts.files.page(caller.scope, limit + 1, after, purpose, order == "desc")
    return page([describe(file) for file in found], limit)


@router.get("/{file_id}")
def one(parts: Parts, caller: Caller, file_id: str) -> dict[str, Any]:
    return describe(parts.files.get(caller.scope, file_id))


@router.get("/{file_id}/content")
def content(parts: Parts, caller: Caller, file_id: str) -> StreamingResponse:
    """The bytes, verified before the first is sent."""
    file = parts.files.get(caller.scope, file_id)
    with arriving(parts.uploads) as path:
        parts.file_blobs.copy_to(caller.tenant, file.digest, path)
        source = path.open("rb")  # which stays readable when the name is gone

    def pieces() -> Iterator[bytes]:
        with source:
            while piece := source.read(_PIECE):
                yield piece

    headers = {"content-length": str(file.bytes), "cache-control": "no-store"}
    return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)


@router.delete("/{file_id}")
def delete(parts: Parts, caller: Caller, file_id: str) -> dict[str, Any]:
    """Delete a file for good. 409 while a batch or a job reads it."""
    parts.files.get(caller.scope, file_id)
    users = [
        b.id for b in parts.batches.reading(caller.scope, file_id) if _is_running(parts, b.job)
    ] + [
        job.id
        for job in parts.jobs.unfinished()
        if job.scope == caller.scope
        and file_id in (job.spec.get("data"), job.spec.get("validation"))
    ]
    if users:
        raise MeuseError(
            Code.CONFLICT,
            f"the file {file_id!r} is read by {', '.join(users[:20])}",
            field="file",
            hint="Cancel it, or wait for its end.",
        )
    parts.files.delete(caller.scope, file_id, now_ms())
    return {"id": file_id, "object": "file", "deleted": True}


def _is_running(parts: Control, job: str) -> bool:
    try:
        return not parts.jobs.get(None, job).status.ended
    except MeuseError:
        return False
