"""Jobs: make, follow, cancel; and `/train_model`, the shortest way to a model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse

from meuse.api.context import Body, Control, Parts, error_response, requires
from meuse.core.clock import now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.ids import new_id
from meuse.core.nouns import Job, Principal
from meuse.core.states import JobStatus

router = APIRouter(tags=["jobs"])
Caller = Annotated[Principal, requires("train")]

WAIT_S = 600.0
Seq = Annotated[int, Query(ge=0, lt=2**63)]


def describe(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "status": job.status,
        "progress": round(job.progress, 4),
        "metrics": job.metrics,
        "result": job.result,
        "error": job.error,
        "spec": job.spec,
        "created": to_rfc3339(job.created_ms),
        "updated": to_rfc3339(job.updated_ms),
    }


def submit(parts: Control, caller: Principal, kind: str, spec: dict[str, Any]) -> Job:
    """Check the spec, write the row, enqueue. Nothing is written when the check fails."""
    if kind not in parts.kinds:
        raise invalid("kind", f"{kind!r} is not a kind of job", f"Known: {sorted(parts.kinds)}.")
    if spec.get("deploy") and not caller.may("deploy"):
        raise MeuseError(Code.FORBIDDEN, "this key lacks the scope 'deploy'", field="deploy")
    now = now_ms()
    job = Job(
        id=new_id("job"),
        scope=caller.scope,
        kind=kind,
        spec=parts.kinds[kind].check(caller.scope, spec),
        status=JobStatus.QUEUED,
        progress=0.0,
        attempt=1,
        metrics={},
        result=None,
        error=None,
        cancel_requested=False,
        created_ms=now,
        updated_ms=now,
    )
    parts.jobs.add(job)
    parts.queue.submit(job)
    return job


@router.post("/train_model", status_code=202)
async def train_model(request: Request, parts: Parts, caller: Caller, body: Body) -> JSONResponse:
    """Train a model: `model_name, data, optimizer, learning_rate, epochs` and what
    `POST /api/jobs` takes for `train`, as query parameters or JSON.

    202 with the job. `wait=true` answers when it has ended (at most 600 s, then 202);
    `deploy=true` deploys the result under the model's name.
    """
    spec: dict[str, Any] = {**request.query_params, **body}
    wait = _flag(spec.pop("wait", False), "wait")
    spec["deploy"] = _flag(spec.get("deploy", False), "deploy")
    job = await run_in_threadpool(submit, parts, caller, "train", spec)
    if wait:
        job = await _ended(parts, job, WAIT_S)
    answer = {"job_id": job.id, "status": job.status, "model_name": job.spec["model_name"]}
    if job.status is JobStatus.SUCCEEDED:
        return JSONResponse({**answer, **(job.result or {})}, 200)
    if job.status.ended:
        error = MeuseError.from_dict(job.error or {})
        return error_response(request, error, job_id=job.id, status=job.status)
    return JSONResponse(answer, 202)


@router.post("/api/jobs", status_code=202)
def create(parts: Parts, caller: Caller, body: Body) -> dict[str, Any]:
    """Make a job from {kind, spec}. Kinds: train, compress."""
    for name in body:
        if name not in ("kind", "spec"):
            raise invalid(name, "unknown field", "Known: kind, spec.")
    spec = body.get("spec")
    if not isinstance(spec, dict):
        raise invalid("spec", "a spec is missing", 'Send {"kind": "train", "spec": {…}}.')
    return describe(submit(parts, caller, str(body.get("kind")), dict(spec)))


@router.get("/api/jobs")
def listing(
    parts: Parts,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: str | None = None,
) -> dict[str, Any]:
    """Newest first. `next` is the cursor of the following page, null at the end."""
    jobs = parts.jobs.page(caller.scope, limit, cursor)
    following = jobs[-1].id if len(jobs) == limit else None
    return {"items": [describe(job) for job in jobs], "next": following}


@router.get("/api/jobs/{job_id}")
def one(parts: Parts, caller: Caller, job_id: str) -> dict[str, Any]:
    return describe(parts.jobs.get(caller.scope, job_id))


@router.post("/api/jobs/{job_id}/cancel", status_code=202)
def cancel(parts: Parts, caller: Caller, job_id: str) -> dict[str, Any]:
    """Ask a job to stop. 409 when it has ended."""
    job = parts.jobs.get(caller.scope, job_id)
    if job.status.ended:
        raise MeuseError(Code.CONFLICT, f"job {job_id} is {job.status} already", field="job_id")
    parts.queue.cancel(job)
    return describe(parts.jobs.get(caller.scope, job_id))


@router.get("/api/jobs/{job_id}/events")
async def events(parts: Parts, caller: Caller, job_id: str, after: Seq = 0) -> StreamingResponse:
    """The job's story as server-sent events, from the start (or after event `after`) to the
    end of the job: status, progress, metrics and log lines."""
    await run_in_threadpool(parts.jobs.get, caller.scope, job_id)

    async def stream() -> AsyncIterator[str]:
        last = after
        while True:
            job = await run_in_threadpool(parts.jobs.get, caller.scope, job_id)
            for event in await run_in_threadpool(parts.jobs.events, job_id, last):
                last = event.seq
                data = json.dumps({"ts": to_rfc3339(event.ts_ms), **event.data})
                yield f"id: {event.seq}\nevent: {event.kind}\ndata: {data}\n\n"
            if job.status.ended:
                return
            await asyncio.sleep(0.25)

    return StreamingResponse(stream(), media_type="text/event-stream")


def _flag(value: Any, field: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in known:
        raise invalid(field, f"{value!r} is not true or false")
    return known[str(value).lower()]


async def _ended(parts: Control, job: Job, patience_s: float) -> Job:
    deadline = time.monotonic() + patience_s
    while not job.status.ended and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        job = await run_in_threadpool(parts.jobs.get, None, job.id)
    return job
