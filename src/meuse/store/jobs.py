"""Jobs and their events in SQL: adapter of `core.ports.JobStore`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.nouns import Job, JobEvent, Scope
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
    )


class SqlJobs:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, job: Job) -> None:
        with self._database.write() as connection:
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
                )
            )

    def get(self, scope: Scope | None, job_id: str) -> Job:
        with self._database.read() as connection:
            return _load(_find(connection, scope, job_id))

    def page(self, scope: Scope, limit: int, before: str | None) -> list[Job]:
        query = sa.select(table).where(
            table.c.tenant_id == scope.tenant, table.c.project_id == scope.project
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

    def update(
        self,
        job_id: str,
        *,
        status: JobStatus | None = None,
        progress: float | None = None,
        metrics: dict[str, float] | None = None,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        cancel_requested: bool | None = None,
    ) -> Job:
        given: dict[str, Any] = {
            "status": None if status is None else str(status),
            "progress": progress,
            "metrics": None if metrics is None else json.dumps(metrics),
            "result": None if result is None else json.dumps(result),
            "error": None if error is None else json.dumps(error),
            "cancel_requested": cancel_requested,
        }
        changes = {key: value for key, value in given.items() if value is not None}
        with self._database.write() as connection:
            before = _load(_find(connection, None, job_id, lock=True))
            if status is not None and status not in JOB_TRANSITIONS[before.status]:
                raise MeuseError(
                    Code.CONFLICT, f"job {job_id} is {before.status} and cannot become {status}"
                )
            connection.execute(
                table.update().where(table.c.id == job_id).values(**changes, updated_ms=now_ms())
            )
            if status is not None and status != before.status:
                _add_events(connection, before, [("status", {"status": str(status)})])
            return _load(_find(connection, None, job_id))

    def add_events(self, job_id: str, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
        if not events:
            return
        with self._database.write() as connection:
            _add_events(connection, _load(_find(connection, None, job_id, lock=True)), events)

    def events(self, job_id: str, after: int) -> list[JobEvent]:
        query = (
            sa.select(job_event)
            .where(job_event.c.job_id == job_id, job_event.c.seq > after)
            .order_by(job_event.c.seq)
        )
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
