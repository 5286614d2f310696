"""Datasets: upload, bring by URL, list, look, profile, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile

from meuse.api.context import Control, Number, Parts, error_response, json_body, requires
from meuse.api.intake import SYNC_BYTES, accepted, describe, flag, keep, keep_later
from meuse.api.jobs import submit
from meuse.api.profiles import profile_of
from meuse.api.uploads import arriving, content_type, save, size_of
from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.fields import known
from meuse.core.ids import check_name
from meuse.core.nouns import DatasetVersion, Principal, Scope
from meuse.data import formats
from meuse.data.options import OPTIONS, ReadOptions
from meuse.data.profile_page import page

router = APIRouter(prefix="/api/datasets", tags=["datasets"])
Caller = Annotated[Principal, requires("data")]
Column = Annotated[str | None, Query(max_length=256)]
Split = Annotated[str | None, Query(max_length=2048)]

_IN_PARTS = "Send it in parts: POST /api/datasets/uploads; or the operator can raise "


@router.post(
    "",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "content": {
                "text/csv": {},
                "application/vnd.apache.parquet": {},
                "application/x-npz": {},
                "application/octet-stream": {},
                "multipart/form-data": {},
                "application/json": {},
            }
        }
    },
)
async def upload(
    request: Request,
    parts: Parts,
    caller: Caller,
    name: str | None = None,
    format: str | None = None,
) -> JSONResponse:
    """Store a table, images or texts: CSV, TSV, JSON lines, Parquet, Arrow, NPZ, zip, tar, text.

    The body is the file, or a multipart form with one file; query parameters say how it is to
    be read (`kinds`, `missing`, `encoding`, `delimiter`, `on_error`, `manifest`). 201 with the
    new version; the same bytes under the same name again give 200 and the version that has
    them. Over 64 MiB, or with `async=true`: 202 with {id} of an ingest job.

    A JSON body {name, url} (or `?name=&url=`) fetches the file from a host that the operator
    allows: 202 with {id}.
    """
    query = request.query_params
    kind_of_body, limit = content_type(request.headers.get("content-type")), parts.max_upload_bytes
    if "url" in query or (name is None and kind_of_body == "application/json"):
        given = {k: v for k, v in query.items() if k != "async"}
        if kind_of_body == "application/json":
            given |= await json_body(request)
        return await run_in_threadpool(_by_url, parts, caller, given)
    if name is None:
        raise invalid("name", "the dataset needs a name", "POST /api/datasets?name=….")
    check_name(name)
    later = flag(query.get("async", "false"), "async")
    options = {k: v for k, v in query.items() if k in OPTIONS}
    ReadOptions.from_dict(options)  # before anything is received
    if format is not None:
        formats.parse(format)
    with arriving(parts.uploads) as path:
        if kind_of_body == "multipart/form-data":
            async with request.form(max_files=1, max_fields=8) as form:
                sent = next((v for v in form.values() if isinstance(v, UploadFile)), None)
                if sent is None:
                    raise invalid("file", "the form has no file")
                kind_of_body = (sent.content_type or "").lower()
                format = format or Path(sent.filename or "").suffix.lstrip(".").lower() or None
                await save(_pieces(sent), path, limit, "", f"{_IN_PARTS}max_upload_bytes.")
        else:
            await save(request.stream(), path, limit, "", f"{_IN_PARTS}max_upload_bytes.")
        kind = _format(format, kind_of_body, path)
        if later or await run_in_threadpool(size_of, path) > SYNC_BYTES:
            told = await run_in_threadpool(keep_later, parts, caller, name, kind, path, options)
            return JSONResponse(told, 202)
        scope = caller.scope
        version, new = await run_in_threadpool(keep, parts, scope, name, kind, path, options)
    return JSONResponse(describe(version), 201 if new else 200)


def _by_url(parts: Control, caller: Principal, given: dict[str, Any]) -> JSONResponse:
    known(given, ("name", "url", "format", *OPTIONS))
    spec = {k: given[k] for k in ("name", "url", "format") if given.get(k) is not None}
    if "url" not in spec:
        raise invalid("url", "a URL is missing", 'Send {"name": …, "url": "https://…"}.')
    spec["options"] = {k: v for k, v in given.items() if k in OPTIONS}
    return JSONResponse(accepted(submit(parts, caller, "ingest", spec), None), 202)


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


@router.get("/{name}/versions/{version}/profile")
def profile(
    request: Request,
    parts: Parts,
    caller: Caller,
    name: str,
    version: Number,
    target: Column = None,
    split: Split = None,
) -> Response:
    """Figures of every column, and warnings: duplicates, constants, suspected identifiers and
    dates. With `target` also classes and features that predict it alone; with `split` (JSON as
    in a train job, or `ratio`, `time:day`, …) rows that splits share.

    JSON, or with `Accept: text/html` a page. Made when it is first asked for, then kept.
    """
    found = parts.datasets.get(caller.scope, name, version)
    told = profile_of(parts, caller.scope, found, target, split)
    if "text/html" in request.headers.get("accept", ""):
        return _page(told, found)
    return JSONResponse({"ref": found.ref, **told})


@router.get("/{name}/versions/{version}/profile.html")
def profile_page(
    parts: Parts,
    caller: Caller,
    name: str,
    version: Number,
    target: Column = None,
    split: Split = None,
) -> HTMLResponse:
    """The profile as a page that loads nothing from elsewhere."""
    found = parts.datasets.get(caller.scope, name, version)
    return _page(profile_of(parts, caller.scope, found, target, split), found)


def _page(told: dict[str, Any], version: DatasetVersion) -> HTMLResponse:
    headers = {
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
        "frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    return HTMLResponse(page(told, version.ref), headers=headers)


@router.delete("/{name}/versions/{version}", status_code=204)
def delete(request: Request, parts: Parts, caller: Caller, name: str, version: Number) -> Response:
    """Delete a version for good; its number is not given again. 409 with `users` when a model
    came from it or a job that has not ended reads it."""
    found = parts.datasets.get(caller.scope, name, version)
    users = _users(parts, caller.scope, found.ref)
    if users:
        error = MeuseError(
            Code.CONFLICT,
            f"{found.ref} is used by {', '.join(users[:20])}{', …' if len(users) > 20 else ''}",
            field="version",
            hint="Its models' lineage needs it; jobs can be cancelled.",
        )
        return error_response(request, error, users=users)
    parts.datasets.delete(caller.scope, name, version, now_ms())
    return Response(status_code=204)


def _users(parts: Control, scope: Scope, ref: str) -> list[str]:
    """Models whose lineage names the version, and jobs that have not ended whose spec does."""
    models = [
        f"model {made.ref}"
        for model in parts.registry.models(scope)
        for made in parts.registry.versions(scope, model)
        if made.lineage.dataset == ref
    ]
    jobs = [
        f"job {job.id}"
        for job in parts.jobs.unfinished()
        if job.scope == scope and _names(job.spec, ref)
    ]
    return models + jobs


def _names(value: Any, ref: str) -> bool:
    """Whether a spec has this text anywhere."""
    if isinstance(value, dict):
        return any(_names(inner, ref) for inner in value.values())
    if isinstance(value, list):
        return any(_names(inner, ref) for inner in value)
    return bool(value == ref)


async def _pieces(file: UploadFile) -> AsyncIterator[bytes]:
    while piece := await file.read(1 << 20):
        yield piece


def _format(given: str | None, content_type: str, path: Path) -> str:
    if given is not None:
        return formats.parse(given)
    if content_type in formats.SNIFFED:
        return formats.sniff(path)
    if content_type not in formats.CONTENT_TYPES:
        raise MeuseError(
            Code.UNSUPPORTED_MEDIA_TYPE,
            f"{content_type} is not a format of data",
            field="Content-Type",
            hint="Send text/csv or application/x-npz, or name it: ?format=csv.",
        )
    return formats.CONTENT_TYPES[content_type]
