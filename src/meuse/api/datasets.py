"""Datasets: upload, list, look."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile

from meuse.api.context import Control, Number, Parts, requires
from meuse.api.uploads import content_type, save
from meuse.core.clock import now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.ids import check_name
from meuse.core.nouns import DatasetVersion, Principal

router = APIRouter(prefix="/api/datasets", tags=["datasets"])
Caller = Annotated[Principal, requires("data")]

_BY_TYPE = {
    "text/csv": "csv",
    "application/csv": "csv",
    "application/x-npz": "npz",
    "application/zip": "npz",
    "application/octet-stream": None,
    "": None,
}


def describe(version: DatasetVersion) -> dict[str, Any]:
    body = asdict(version)
    del body["created_ms"]
    return body | {"ref": version.ref, "created": to_rfc3339(version.created_ms)}


@router.post(
    "",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "content": {
                "text/csv": {},
                "application/x-npz": {},
                "multipart/form-data": {},
            }
        }
    },
)
async def upload(
    request: Request, parts: Parts, caller: Caller, name: str, format: str | None = None
) -> JSONResponse:
    """Store a CSV file with a header line, or an NPZ file of arrays with equally many rows.

    The body is the file, or a multipart form with one file. 201 with the new version; the
    same bytes under the same name again give 200 and the version that has them.
    """
    check_name(name)
    parts.uploads.mkdir(parents=True, exist_ok=True)
    kind_of_body, limit = content_type(request.headers.get("content-type")), parts.max_upload_bytes
    with tempfile.NamedTemporaryFile(dir=parts.uploads, prefix="upload-") as file:
        path = Path(file.name)
        if kind_of_body == "multipart/form-data":
            async with request.form(max_files=1, max_fields=8) as form:
                sent = next((v for v in form.values() if isinstance(v, UploadFile)), None)
                if sent is None:
                    raise invalid("file", "the form has no file")
                kind_of_body = (sent.content_type or "").lower()
                format = format or Path(sent.filename or "").suffix.lstrip(".").lower() or None
                await save(_pieces(sent), path, limit, "max_upload_bytes")
        else:
            await save(request.stream(), path, limit, "max_upload_bytes")
        kind = _format(format, kind_of_body, path)
        version, new = await run_in_threadpool(_keep, parts, caller, name, kind, path)
    return JSONResponse(describe(version), 201 if new else 200)


@router.get("")
def listing(parts: Parts, caller: Caller) -> dict[str, Any]:
    """The latest version of every dataset; `columns` is their number here."""
    items = []
    for version in parts.datasets.list(caller.scope):
        columns = len(version.columns)
        items.append({**describe(replace(version, columns=())), "columns": columns})
    return {"items": items}


@router.get("/{name}")
def latest(parts: Parts, caller: Caller, name: str) -> dict[str, Any]:
    return describe(parts.datasets.get(caller.scope, name))


@router.get("/{name}/versions/{version}")
def one(parts: Parts, caller: Caller, name: str, version: Number) -> dict[str, Any]:
    return describe(parts.datasets.get(caller.scope, name, version))


async def _pieces(file: UploadFile) -> AsyncIterator[bytes]:
    while piece := await file.read(1 << 20):
        yield piece


def _format(given: str | None, content_type: str, path: Path) -> str:
    if given is None:
        if content_type not in _BY_TYPE:
            raise MeuseError(
                Code.UNSUPPORTED_MEDIA_TYPE,
                f"{content_type} is not a format of data",
                field="Content-Type",
                hint="Send text/csv or application/x-npz, or name it: ?format=csv.",
            )
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        given = _BY_TYPE[content_type] or ("npz" if zipped else "csv")
    if given not in ("csv", "npz"):
        raise invalid("format", f"{given!r} is not a known format", "Use csv or npz.")
    return given


def _keep(
    parts: Control, caller: Principal, name: str, kind: str, path: Path
) -> tuple[DatasetVersion, bool]:
    rows, columns = parts.inspect(path, kind)
    with path.open("rb") as file:
        digest, size = parts.blobs.put(caller.tenant, file)
    draft = DatasetVersion(name, 0, digest, kind, rows, columns, size, now_ms())
    return parts.datasets.add_version(caller.scope, draft)
