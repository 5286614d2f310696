"""Durable work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from meuse.core.nouns.who import Scope
from meuse.core.states import JobStatus

PRIORITIES = ("high", "normal", "low")
"""In which order a tenant's own jobs start. No priority overtakes another tenant's jobs."""


@dataclass(frozen=True, slots=True)
class Job:
    """Durable work. `result` is set on success, `error` (an error dict) on failure.

    `started_ms` and `ended_ms` are of the present attempt. `live` is what a running job last
    said of its pace: any of rate (per second), unit, note, and ends_ms, when it will end if it
    goes on like that. `estimate_bytes` is the memory that it will need; None: not known.
    """

    id: str
    scope: Scope
    kind: str
    spec: dict[str, Any]
    status: JobStatus
    progress: float
    attempt: int
    metrics: dict[str, float]
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    cancel_requested: bool
    created_ms: int
    updated_ms: int
    priority: str = "normal"
    pause_requested: bool = False
    started_ms: int | None = None
    ended_ms: int | None = None
    estimate_bytes: int | None = None
    live: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """What decides when a job starts: of a queued job, or of one that runs."""

    id: str
    attempt: int
    tenant: str
    priority: str
    created_ms: int
    estimate_bytes: int | None

    @classmethod
    def of(cls, job: Job) -> QueuedJob:
        return cls(
            job.id, job.attempt, job.scope.tenant, job.priority, job.created_ms, job.estimate_bytes
        )


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of a job's story. `kind`: status, progress, metrics or log."""

    seq: int
    ts_ms: int
    kind: str
    data: dict[str, Any]
