"""Jobs: make, follow, pause, cancel, try again; and `/train_model`, the shortest way to a
model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse

from meuse.api import stories
from meuse.api.context import Body, Control, Parts, error_response, requires
from meuse.core.clock import now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.ids import new_id
from meuse.core.nouns import PRIORITIES, Job, Principal
from meuse.core.states import JobStatus
from meuse.core.tuning import FIELD

router = APIRouter(tags=["jobs"])
Caller = Annotated[Principal, requires("train")]

WAIT_S = 600.0
LOOK_S = 5.0
Seq = Annotated[int, Query(ge=0, lt=2**63)]


def describe(job: Job, positions: Mapping[str, int]) -> dict[str, Any]:
    """`positions`: places in the queue, of this job among others."""
    ends_ms = job.live.get("ends_ms")
    return {
        "id": job.id,
        "kind": job.kind,
        "status": job.status,
        "attempt": job.attempt,
        "priority": job.priority,
        "queue_position": positions.get(job.id),
        "progress": round(job.progress, 4),
        "rate": job.live.get("rate"),
        "unit": job.live.get("unit"),
        "note": job.live.get("note"),
        "eta_s": None if ends_ms is None else max(0.0, round((ends_ms - now_ms()) / 1000, 1)),
        "memory_bytes": job.estimate_bytes,
        "metrics": job.metrics,
        "result": job.result,
        "error": job.error,
        "spec": job.spec,
        "created": to_rfc3339(job.created_ms),
        "updated": to_rfc3339(job.updated_ms),
        "started": None if job.started_ms is None else to_rfc3339(job.started_ms),
        "ended": None if job.ended_ms is None else to_rfc3339(job.ended_ms),
    }


def _described(parts: Control, job: Job) -> dict[str, Any]:
    queued = job.status is JobStatus.QUEUED
    return describe(job, parts.queue.positions() if queued else {})


def submit(
    parts: Control,
    caller: Principal,
    kind: str,
    spec: dict[str, Any],
    priority: str = "normal",
    job_id: str | None = None,
) -> Job:
    """Check the spec, write the row, enqueue. Nothing is written when the check fails."""
    if kind not in parts.kinds:
        raise invalid("kind", f"{kind!r} is not a kind of job", f"Known: {sorted(parts.kinds)}.")
    if priority not in PRIORITIES:
        raise invalid("priority", f"{priority!r} is not a priority", f"Known: {list(PRIORITIES)}.")
    check_deploy(caller, spec)
    if kind == "ingest" and not caller.may("data"):
        raise MeuseError(Code.FORBIDDEN, "this key lacks the scope 'data'", field="kind")
    now = now_ms()
    job = Job(
        id=job_id or new_id("job"),
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
        priority=priority,
    )
    return parts.queue.submit(job)


def check_deploy(caller: Principal, spec: Mapping[str, Any]) -> None:
    """Whoever asks for more than a model, or figures, may do so. Raises `forbidden`."""
    tuning = spec.get(FIELD)
    attaches = isinstance(tuning, Mapping) and tuning.get("deployment") is not None
    for field, asked in (("deploy", spec.get("deploy") or attaches), ("apply", spec.get("apply"))):
        if asked and not caller.may("deploy"):
            raise MeuseError(Code.FORBIDDEN, "this key lacks the scope 'deploy'", field=field)


@router.post("/train_model", status_code=202)
async def train_model(request: Request, parts: Parts, caller: Caller, body: Body) -> JSONResponse:
    """Train a model: `model_name, data, optimizer, learning_rate, epochs` and what
    `POST /api/jobs` takes for `train`, as query parameters or JSON.

    202 with the job. `wait=true` answers when it has ended (at most 600 s, then 202);
    `deploy=true` deploys the result under the model's name; `priority` as for jobs.
    """
    spec: dict[str, Any] = {**request.query_params, **body}
    wait = _flag(spec.pop("wait", False), "wait")
    spec["deploy"] = _flag(spec.get("deploy", False), "deploy")
    priority = str(spec.pop("priority", "normal"))
    job = await run_in_threadpool(submit, parts, caller, "train", spec, priority)
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
    """Make a job from {kind, spec, priority}. `priority` (high, normal, low) orders the
    tenant's own jobs; between tenants the queue is fair."""
    for name in body:
        if name not in ("kind", "spec", "priority"):
            raise invalid(name, "unknown field", "Known: kind, spec, priority.")
    spec = body.get("spec")
    if not isinstance(spec, dict):
        raise invalid("spec", "a spec is missing", 'Send {"kind": "train", "spec": {…}}.')
    priority = str(body.get("priority", "normal"))
    if body.get("kind") == "batch":
        raise invalid("kind", "a batch makes its job itself", "Use POST /v1/batches.")
    job = submit(parts, caller, str(body.get("kind")), dict(spec), priority)
    return _described(parts, job)


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
    queued = any(job.status is JobStatus.QUEUED for job in jobs)
    positions = parts.queue.positions() if queued else {}
    return {"items": [describe(job, positions) for job in jobs], "next": following}


@router.get("/api/jobs/{job_id}")
def one(parts: Parts, caller: Caller, job_id: str) -> dict[str, Any]:
    return _described(parts, parts.jobs.get(caller.scope, job_id))


@router.post("/api/jobs/{job_id}/cancel", status_code=202)
def cancel(parts: Parts, caller: Caller, job_id: str) -> dict[str, Any]:
    """Ask a job to stop for good. 409 when it has ended."""
    return _asked(parts, caller, job_id, parts.queue.cancel)


@router.post("/api/jobs/{job_id}/pause", status_code=202)
def pause(parts: Parts, caller: Caller, job_id: str) -> dict[str, Any]:
    """Ask a job to keep a checkpoint and stop for now. 409 when it has ended.

    Its process has `job_pause_grace_s` seconds to do so; then it is ended, and the job goes on
    from the checkpoint before that.
    """
    return _asked(parts, caller, job_id, parts.queue.pause)


@router.post("/api/jobs/{job_id}/resume", status_code=202)
def resume(parts: Parts, caller: Caller, job_id: str) -> dict[str, Any]:
    """Queue a paused job again: it goes on from its checkpoint. 409 while it is still pausing,
    and when it has ended."""
    return _asked(parts, caller, job_id, parts.queue.resume, deploys=True)


@router.post("/api/jobs/{job_id}/retry", status_code=202)
def retry(parts: Parts, caller: Caller, job_id: str) -> dict[str, Any]:
    """Queue a failed or cancelled job again, as it was asked for. It goes on from its last
    checkpoint, which is kept for a day. 409 in any other state."""
    return _asked(parts, caller, job_id, parts.queue.retry, deploys=True)


def _asked(
    parts: Control,
    caller: Principal,
    job_id: str,
    ask: Callable[[Job], Job],
    deploys: bool = False,
) -> dict[str, Any]:
    job = parts.jobs.get(caller.scope, job_id)
    if deploys:
        check_deploy(caller, job.spec)
    return _described(parts, ask(job))


@router.get("/api/jobs/{job_id}/events")
async def events(
    parts: Parts,
    caller: Caller,
    job_id: str,
    after: Seq = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The job's story as server-sent events, from the start to the end of the job: status,
    progress, metrics and log lines.

    It begins after event `after`, or after the one that `Last-Event-ID` names; a client that
    comes again when all has been said gets 204.
    """
    job = await run_in_threadpool(parts.jobs.get, caller.scope, job_id)
    if last_event_id:
        if not last_event_id.isdecimal() or int(last_event_id) >= 2**63:
            raise invalid("last-event-id", f"{last_event_id[:40]!r} is not the id of an event")
        after = int(last_event_id)
        more = await run_in_threadpool(parts.jobs.events, job_id, after, 1)
        if job.status.ended and not more:
            return Response(status_code=204)
    return StreamingResponse(
        stories.follow(parts.jobs, parts.bell, job_id, after),
        media_type="text/event-stream",
        headers={"cache-control": "no-store"},
    )


@router.get("/api/jobs/{job_id}/log")
def log(
    parts: Parts,
    caller: Caller,
    job_id: str,
    tail: Annotated[int | None, Query(ge=0, le=1_000_000)] = None,
    download: bool = False,
) -> StreamingResponse:
    """What the job has said and what its process has written, as text; `tail`: the last lines
    of it; `download`: as a file."""
    job = parts.jobs.get(caller.scope, job_id)
    headers = {"cache-control": "no-store"}
    if download:
        headers["content-disposition"] = f'attachment; filename="{job.id}.log"'
    return StreamingResponse(
        stories.tail(parts.queue.folder_of(job) / "log.txt", tail),
        media_type="text/plain; charset=utf-8",
        headers=headers,
    )


def _flag(value: Any, field: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in known:
        raise invalid(field, f"{value!r} is not true or false")
    return known[str(value).lower()]


async def _ended(parts: Control, job: Job, patience_s: float) -> Job:
    deadline = time.monotonic() + patience_s
    with parts.bell.listen(job.id) as news:
        while not job.status.ended and (left := deadline - time.monotonic()) > 0:
            await news.wait(min(left, LOOK_S))
            job = await run_in_threadpool(parts.jobs.get, None, job.id)
    return job
