"""What a compression has measured: of a version that it made, or of a job, also a refused one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from meuse.api.context import Control, Number, Parts, requires
from meuse.compress.page import drawings, page
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Principal

router = APIRouter(prefix="/api", tags=["models"])
Models = Annotated[Principal, requires("models")]
Jobs = Annotated[Principal, requires("train")]
Plot = Literal["pareto", "latency", "sensitivity"]

_HEADERS = {
    # No script and nothing from elsewhere, whatever stands in the report.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "vary": "accept",
}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "text/html": {}}}
}


def _of_version(parts: Control, caller: Principal, name: str, version: int) -> tuple[Any, str]:
    found = parts.registry.get_version(caller.scope, name, version)
    return _compression(found.report, found.ref), found.ref


def _of_job(parts: Control, caller: Principal, job_id: str) -> tuple[Any, str]:
    found = parts.jobs.get(caller.scope, job_id)
    return _compression((found.result or {}).get("report") or {}, found.id), found.id


def _compression(report: dict[str, Any], ref: str) -> dict[str, Any]:
    """Raises `not_found` when the report is of something else, or there is none."""
    if "method" in report and ("after" in report or "verdict" in report):
        return report
    raise MeuseError(
        Code.NOT_FOUND,
        f"{ref} has no report of a compression",
        field="report",
        hint="Versions that a compress job has made have one, and such jobs when they have ended.",
    )


def _answer(request: Request, report: dict[str, Any], ref: str) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(page(report, ref), headers=_HEADERS)
    return JSONResponse(report, headers={"vary": "accept"})


@router.get("/models/{name}/versions/{version}/report", responses=_CONTENT)
def version_report(
    request: Request, parts: Parts, caller: Models, name: str, version: Number
) -> Response:
    """What the compression that made this version has measured. JSON (docs/compression.md), or
    with `Accept: text/html` a page."""
    return _answer(request, *_of_version(parts, caller, name, version))


@router.get("/models/{name}/versions/{version}/report.html")
def version_page(parts: Parts, caller: Models, name: str, version: Number) -> HTMLResponse:
    """The report as a page that loads nothing from elsewhere."""
    return HTMLResponse(page(*_of_version(parts, caller, name, version)), headers=_HEADERS)


@router.get("/models/{name}/versions/{version}/report/{plot}.svg")
def version_plot(parts: Parts, caller: Models, name: str, version: Number, plot: Plot) -> Response:
    """A plot of the report: `pareto` (bytes against the metric), `latency` (before, after) or
    `sensitivity` (how far the metric falls when one layer alone is changed)."""
    report, ref = _of_version(parts, caller, name, version)
    drawn = drawings(report).get(plot)
    if not drawn:
        raise MeuseError(
            Code.NOT_FOUND, f"the report of {ref} has nothing to draw there", field="plot"
        )
    return Response(drawn, media_type="image/svg+xml", headers=_HEADERS)


@router.get("/jobs/{job_id}/report", responses=_CONTENT)
def job_report(request: Request, parts: Parts, caller: Jobs, job_id: str) -> Response:
    """What a compress job has measured, also when its gate refused the result."""
    return _answer(request, *_of_job(parts, caller, job_id))


@router.get("/jobs/{job_id}/report.html")
def job_page(parts: Parts, caller: Jobs, job_id: str) -> HTMLResponse:
    """The same as a page."""
    return HTMLResponse(page(*_of_job(parts, caller, job_id)), headers=_HEADERS)
