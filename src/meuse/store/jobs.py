"""Jobs and their events in SQL: adapter of `core.ports.JobStore`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.nouns import Job, JobEvent, QueuedJob, Scope
from meuse.core.states import JOB_TRANSITIONS, JobStatus
from meuse.store.database import Database
from meuse.store.tables import job as table
from meuse.store.tables import job_event


def _load(row: sa.Row[Any]) -> Job:
    r = row._mapping

    def parse(text: str | None) -> Any:
        return None if text is None else json.loads(text)

    return Job(
        id=r["id"],
        scope=Scope(r["tenant_id"], r["project_id"]),
        kind=r["kind"],
        spec=parse(r["spec"]),
        status=JobStatus(r["status"]),
        progress=r["progress"],
        attempt=r["attempt"],
        metrics=parse(r["metrics"]),
        result=parse(r["result"]),
        error=parse(r["error"]),
        cancel_requested=bool(r["cancel_requested"]),
        created_ms=r["created_ms"],
        updated_ms=r["updated_ms"],
        priority=r["priority"],
        pause_requested=bool(r["pause_requested"]),
        started_ms=r["started_ms"],
        ended_ms=r["ended_ms"],
        estimate_bytes=r["estimate_bytes"],
        live=parse(r["live"]) or {},
    )


_WAITING = (str(JobStatus.QUEUED), str(JobStatus.PAUSED))


class SqlJobs:
    """`changed` hears the id of a job after each commit that changed it or gave it events."""

    def __init__(
        self, database: Database, changed: Callable[[str], None] = lambda _job_id: None
    ) -> None:
        self._database = database
        self._changed = changed

    def add(self, job: Job, most_waiting: int = 0) -> None:
        with self._database.write_alone("job", job.scope.tenant) as connection:
            _check_quota(connection, job.scope.tenant, most_waiting)
            connection.execute(
                table.insert().values(
                    tenant_id=job.scope.tenant,
                    project_id=job.scope.project,
                    id=job.id,
                    kind=job.kind,
                    spec=json.dumps(job.spec),
                    status=str(job.status),
                    progress=job.progress,
                    attempt=job.attempt,
                    metrics=json.dumps(job.metrics),
                    cancel_requested=job.cancel_requested,
                    created_ms=job.created_ms,
                    updated_ms=job.updated_ms,
                    priority=job.priority,
                    estimate_bytes=job.estimate_bytes,
                )
            )

    def get(self, scope: Scope | None, job_id: str) -> Job:
        with self._database.read() as connection:
            return _load(_find(connection, scope, job_id))

    def page(
        self,
        scope: Scope,
        limit: int,
        before: str | None,
        kind: str | None = None,
        *,
        saying: Sequence[str] = (),
        lacking: Sequence[str] = (),
    ) -> list[Job]:
        query = sa.select(table).where(
            table.c.tenant_id == scope.tenant, table.c.project_id == scope.project
        )
        if kind is not None:
            query = query.where(table.c.kind == kind)
        query = query.where(
            *(table.c.spec.contains(text, autoescape=True) for text in saying),
            *(~table.c.spec.contains(text, autoescape=True) for text in lacking),
        )
        if before is not None:
            query = query.where(table.c.id < before)  # ids are time-ordered
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(table.c.id.desc()).limit(limit))
            return [_load(row) for row in rows]

    def unfinished(self) -> list[Job]:
        open_states = [str(s) for s in JobStatus if not s.ended]
        query = sa.select(table).where(table.c.status.in_(open_states)).order_by(table.c.id)
        with self._database.read() as connection:
            return [_load(row) for row in connection.execute(query)]

    def queued(self) -> list[QueuedJob]:
        query = (
            sa.select(
                table.c.id,
                table.c.attempt,
                table.c.tenant_id,
                table.c.priority,
                table.c.created_ms,
                table.c.estimate_bytes,
            )
            .where(table.c.status == str(JobStatus.QUEUED))
            .order_by(table.c.id)
        )
        with self._database.read() as connection:
            return [QueuedJob(*row) for row in connection.execute(query)]

    def served(self) -> dict[str, int]:
        last = sa.func.max(table.c.started_ms)
        query = sa.select(table.c.tenant_id, last).group_by(table.c.tenant_id)
        with self._database.read() as connection:
            return {tenant: ms for tenant, ms in connection.execute(query) if ms is not None}

    def update(
        self,
        job_id: str,
        *,
        attempt: int | None = None,
        status: JobStatus | None = None,
        progress: float | None = None,
        metrics: dict[str, float] | None = None,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        live: dict[str, Any] | None = None,
    ) -> Job:
        given: dict[str, Any] = {
            "status": None if status is None else str(status),
            "progress": progress,
            "metrics": None if metrics is None else json.dumps(metrics),
            "result": None if result is None else json.dumps(result),
            "error": None if error is None else json.dumps(error),
            "live": None if live is None else json.dumps(live),
        }
        changes = {key: value for key, value in given.items() if value is not None}
        with self._database.write() as connection:
            before = _load(_find(connection, None, job_id, lock=True))
            if attempt not in (None, before.attempt):
                raise MeuseError(
                    Code.CONFLICT, f"job {job_id} is at attempt {before.attempt}", field="job_id"
                )
            if status is not None:
                changes |= _move(before, status)
            after = _write(connection, before, changes)
        self._changed(job_id)
        return after

    def request_cancel(self, job_id: str) -> Job:
        with self._database.write() as connection:
            before = _load(_find(connection, None, job_id, lock=True))
            changes: dict[str, Any] = {"cancel_requested": True}
            if before.status is not JobStatus.RUNNING:
                stopped = MeuseError(Code.CANCELLED, "the job was cancelled")
                changes |= {**_move(before, JobStatus.CANCELLED), "error": _error(stopped)}
            after = _write(connection, before, changes)
        self._changed(job_id)
        return after

    def request_pause(self, job_id: str) -> Job:
        with self._database.write() as connection:
            before = _load(_find(connection, None, job_id, lock=True))
            if before.status is JobStatus.PAUSED:
                return before
            changes: dict[str, Any] = {"pause_requested": True}
            if before.status is not JobStatus.RUNNING:
                changes |= _move(before, JobStatus.PAUSED)
            after = _write(connection, before, changes)
        self._changed(job_id)
        return after

    def new_attempt(self, job_id: str, most_waiting: int = 0) -> Job:
        tenant = self.get(None, job_id).scope.tenant
        with self._database.write_alone("job", tenant) as connection:
            before = _load(_find(connection, None, job_id, lock=True))
            changes = _move(before, JobStatus.QUEUED)
            if before.status is not JobStatus.PAUSED:  # which has its place already
                _check_quota(connection, tenant, most_waiting)
                changes["progress"] = 0.0
            changes |= {
                "attempt": before.attempt + 1,
                "error": None,
                "result": None,
                "cancel_requested": False,
                "pause_requested": False,
                "started_ms": None,
                "ended_ms": None,
            }
            after = _write(connection, before, changes)
        self._changed(job_id)
        return after

    def add_events(self, job_id: str, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
        if not events:
            return
        with self._database.write() as connection:
            _add_events(connection, _load(_find(connection, None, job_id, lock=True)), events)
        self._changed(job_id)

    def events(self, job_id: str, after: int, limit: int | None = None) -> list[JobEvent]:
        query = (
            sa.select(job_event)
            .where(job_event.c.job_id == job_id, job_event.c.seq > after)
            .order_by(job_event.c.seq)
            .limit(limit)
        )
        return self._events(query)

    def latest(
        self, job_id: str, before: int | None, limit: int, kinds: Sequence[str]
    ) -> list[JobEvent]:
        query = (
            sa.select(job_event)
            .where(job_event.c.job_id == job_id, job_event.c.kind.in_(kinds))
            .order_by(job_event.c.seq.desc())
            .limit(limit)
        )
        return self._events(query if before is None else query.where(job_event.c.seq < before))

    def _events(self, query: sa.Select[Any]) -> list[JobEvent]:
        with self._database.read() as connection:
            return [
                JobEvent(row.seq, row.ts_ms, row.kind, json.loads(row.data))
                for row in connection.execute(query)
            ]


def _find(
    connection: sa.Connection, scope: Scope | None, job_id: str, *, lock: bool = False
) -> sa.Row[Any]:
    query = sa.select(table).where(table.c.id == job_id)
    if scope is not None:
        query = query.where(table.c.tenant_id == scope.tenant, table.c.project_id == scope.project)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise not_found("job", job_id)
    return row


def _move(before: Job, status: JobStatus) -> dict[str, Any]:
    """What a change of status changes; raises `conflict` when there is no such change."""
    if status not in JOB_TRANSITIONS[before.status]:
        raise MeuseError(
            Code.CONFLICT,
            f"job {before.id} is {before.status} and cannot become {status}",
            field="job_id",
        )
    changes: dict[str, Any] = {"status": str(status)}
    if status is JobStatus.RUNNING:
        changes["started_ms"] = before.started_ms or now_ms()
    else:
        changes["live"] = None
    if status.ended:
        changes["ended_ms"] = now_ms()
    return changes


def _write(connection: sa.Connection, before: Job, changes: dict[str, Any]) -> Job:
    connection.execute(
        table.update().where(table.c.id == before.id).values(**changes, updated_ms=now_ms())
    )
    after = _load(_find(connection, None, before.id))
    if after.status is not before.status:
        data: dict[str, Any] = {"status": str(after.status)}
        if after.attempt != before.attempt:
            data["attempt"] = after.attempt
        _add_events(connection, before, [("status", data)])
    return after


def _error(error: MeuseError) -> str:
    return json.dumps(error.to_dict())


def _check_quota(connection: sa.Connection, tenant: str, most_waiting: int) -> None:
    if not most_waiting:
        return
    waiting = connection.execute(
        sa.select(sa.func.count()).where(table.c.tenant_id == tenant, table.c.status.in_(_WAITING))
    ).scalar_one()
    if waiting >= most_waiting:
        raise MeuseError(
            Code.LIMIT_EXCEEDED,
            f"the tenant {tenant!r} has {waiting} jobs queued or paused, and may have "
            f"{most_waiting} (jobs_queued_per_tenant)",
            field="jobs_queued_per_tenant",
            hint="Wait until some have ended, cancel some, or ask the operator for more.",
        )


def _add_events(
    connection: sa.Connection, job: Job, events: Sequence[tuple[str, dict[str, Any]]]
) -> None:
    last = connection.execute(
        sa.select(sa.func.max(job_event.c.seq)).where(job_event.c.job_id == job.id)
    ).scalar()
    now = now_ms()
    connection.execute(
        job_event.insert(),
        [
            {
                "tenant_id": job.scope.tenant,
                "project_id": job.scope.project,
                "job_id": job.id,
                "seq": seq,
                "ts_ms": now,
                "kind": kind,
                "data": json.dumps(data),
            }
            for seq, (kind, data) in enumerate(events, start=(last or 0) + 1)
        ],
    )
