"""`/v1/batches` as OpenAI has it: many requests in a file, answered in idle capacity.

A batch is worked on by a job of its own; as long as that has come to nothing, how the batch
stands is how the job stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query

from meuse.api.context import Body, Control, Parts, requires
from meuse.api.jobs import submit
from meuse.api.openai_files import After, page
from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.ids import new_id, uuid7_bytes
from meuse.core.nouns import Batch, Job, Principal
from meuse.core.states import JobStatus
from meuse.gateway.openai import parameters

router = APIRouter(prefix="/v1/batches", tags=["openai"])
Caller = Annotated[Principal, requires("infer")]

WINDOW = "24h"
WINDOW_MS = 24 * 3600 * 1000
CANCEL = "cancel"
"""The file in a job's folder that its process looks for."""


@router.post("")
def create(parts: Parts, caller: Caller, body: Body) -> dict[str, Any]:
    """Answer the requests of a file: {input_file_id, endpoint, completion_window, metadata}.

    They are sent in the name of this key, and stop when it is revoked.
    """
    given = parameters.read(parameters.BATCHES, body)
    file_id = given["input_file_id"]
    try:
        file = parts.files.get(caller.scope, file_id)
    except MeuseError as error:
        raise MeuseError(error.code, error.message, field="input_file_id") from None
    if file.purpose != "batch":
        raise invalid("input_file_id", f"the file's purpose is {file.purpose!r}, not 'batch'")
    now = now_ms()
    batch = Batch(
        f"batch_{uuid7_bytes().hex()}", caller.scope, caller.key, new_id("job"), file.id,
        given["endpoint"], given.get("metadata"), now, now + WINDOW_MS,
    )  # fmt: skip
    parts.batches.add(batch)
    try:
        job = submit(parts, caller, "batch", {"batch": batch.id}, "low", batch.job)
    except BaseException:
        parts.batches.delete(batch.id)
        raise
    return describe(batch, job)


@router.get("")
def listing(
    parts: Parts,
    caller: Caller,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """The project's batches, newest first; `after` is the last id of the page before."""
    found = parts.batches.page(caller.scope, limit + 1, after)
    return page([describe(batch, _job_of(parts, batch)) for batch in found], limit)


@router.get("/{batch_id}")
def one(parts: Parts, caller: Caller, batch_id: str) -> dict[str, Any]:
    batch = parts.batches.get(caller.scope, batch_id)
    return describe(batch, _job_of(parts, batch))


@router.post("/{batch_id}/cancel")
def cancel(parts: Parts, caller: Caller, batch_id: str) -> dict[str, Any]:
    """Ask a batch to stop; what was answered until then is kept. 409 when it has ended."""
    batch = parts.batches.get(caller.scope, batch_id)
    job = _job_of(parts, batch)
    if job is None or job.status.ended:
        raise MeuseError(
            Code.CONFLICT,
            f"the batch {batch_id} is {describe(batch, job)['status']} and cannot be cancelled",
            field="batch_id",
        )
    batch = parts.batches.cancel(batch.id, now_ms())
    if job.attempt == 1 and job.status is JobStatus.QUEUED:
        # Nothing was asked: nothing is to be kept. A process that starts now has asked nothing
        # either, before it is ended.
        parts.queue.cancel(job)
    elif job.status is JobStatus.PAUSED:
        _tell(parts, job)
        parts.queue.resume(job)
    else:
        _tell(parts, job)
    return describe(batch, _job_of(parts, batch))


def _tell(parts: Control, job: Job) -> None:
    folder = parts.queue.folder_of(job)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / CANCEL).touch()


def _job_of(parts: Control, batch: Batch) -> Job | None:
    """None: control was ended between the two rows."""
    try:
        return parts.jobs.get(None, batch.job)
    except MeuseError:
        return None


def describe(batch: Batch, job: Job | None) -> dict[str, Any]:
    """The batch as OpenAI shows it."""
    ended = job is None or job.status.ended
    outcome = batch.outcome if ended and batch.outcome is not None else _standing(batch, job)
    status, at = outcome["status"], outcome["at_ms"]
    prompt, cached, completion = outcome["used"]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": None,
        "errors": {"object": "list", "data": outcome["errors"]} if outcome["errors"] else None,
        "input_file_id": batch.input_file,
        "completion_window": WINDOW,
        "status": status,
        "output_file_id": outcome["output"],
        "error_file_id": outcome["error"],
        "created_at": batch.created_ms // 1000,
        "in_progress_at": _seconds(outcome["in_progress_ms"]),
        "expires_at": batch.expires_ms // 1000,
        "finalizing_at": _seconds(outcome["finalizing_ms"]),
        **{f"{end}_at": _seconds(at) if status == end else None for end in _ENDS},
        "cancelling_at": _seconds(batch.cancelling_ms),
        "request_counts": outcome["counts"],
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        },
        "metadata": batch.metadata,
    }


_ENDS = ("completed", "failed", "expired", "cancelled")


def _seconds(ms: float | None) -> int | None:
    return None if ms is None else int(ms) // 1000


def _standing(batch: Batch, job: Job | None) -> dict[str, Any]:
    """What can be said of a batch that has come to nothing yet."""
    figures: Mapping[str, float] = {} if job is None else job.metrics
    status, errors = _status(batch, job)
    return {
        "status": status,
        "errors": errors,
        "counts": {n: int(figures.get(n, 0)) for n in ("total", "completed", "failed")},
        "output": None,
        "error": None,
        "used": (0, 0, 0),
        "in_progress_ms": figures.get("in_progress_ms"),
        "finalizing_ms": None,
        "at_ms": batch.created_ms if job is None else job.updated_ms,
    }


def _status(batch: Batch, job: Job | None) -> tuple[str, list[dict[str, Any]]]:
    if job is None:
        lost = {"code": "internal", "message": "The batch was not begun.", "param": None}
        return "failed", [{**lost, "line": None}]
    if job.status is JobStatus.FAILED:
        told = job.error or {}
        error = {"code": told.get("code"), "message": told.get("message"), "param": None}
        return "failed", [{**error, "line": None}]
    if job.status is JobStatus.CANCELLED:
        return "cancelled", []
    if batch.cancelling_ms is not None:
        return "cancelling", []
    if job.status is JobStatus.RUNNING and job.live.get("note") == "finalizing":
        return "finalizing", []
    return ("in_progress" if "in_progress_ms" in job.metrics else "validating"), []
