"""Batches of the OpenAI API in SQL: adapter of `core.ports.BatchStore`."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from meuse.core.errors import not_found
from meuse.core.nouns import Batch, Scope
from meuse.store.database import Database
from meuse.store.tables import batch as table


def _load(row: sa.Row[Any]) -> Batch:
    r, body = row._mapping, json.loads(row._mapping["body"])
    return Batch(
        id=r["id"],
        scope=Scope(r["tenant_id"], r["project_id"]),
        key=body["key"],
        job=r["job_id"],
        input_file=r["input_file"],
        endpoint=body["endpoint"],
        metadata=body["metadata"],
        created_ms=r["created_ms"],
        expires_ms=body["expires_ms"],
        cancelling_ms=r["cancelling_ms"],
        outcome=None if r["outcome"] is None else json.loads(r["outcome"]),
    )


def _mine(scope: Scope) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.tenant_id == scope.tenant, table.c.project_id == scope.project)


class SqlBatches:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, batch: Batch) -> None:
        body = {
            "key": batch.key,
            "endpoint": batch.endpoint,
            "metadata": batch.metadata,
            "expires_ms": batch.expires_ms,
        }
        with self._database.write() as connection:
            connection.execute(
                table.insert().values(
                    tenant_id=batch.scope.tenant,
                    project_id=batch.scope.project,
                    id=batch.id,
                    job_id=batch.job,
                    input_file=batch.input_file,
                    body=json.dumps(body),
                    created_ms=batch.created_ms,
                )
            )

    def get(self, scope: Scope | None, batch_id: str) -> Batch:
        query = sa.select(table).where(table.c.id == batch_id)
        if scope is not None:
            query = query.where(_mine(scope))
        with self._database.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise not_found("batch", batch_id)
        return _load(row)

    def page(self, scope: Scope, limit: int, after: str | None) -> list[Batch]:
        query = sa.select(table).where(_mine(scope))
        if after is not None:
            query = query.where(table.c.id < after)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(table.c.id.desc()).limit(limit))
            return [_load(row) for row in rows]

    def reading(self, scope: Scope, file_id: str) -> list[Batch]:
        query = sa.select(table).where(
            _mine(scope), table.c.input_file == file_id, table.c.outcome.is_(None)
        )
        with self._database.read() as connection:
            return [_load(row) for row in connection.execute(query.order_by(table.c.id))]

    def cancel(self, batch_id: str, at_ms: int) -> Batch:
        with self._database.write() as connection:
            connection.execute(
                table.update()
                .where(table.c.id == batch_id, table.c.cancelling_ms.is_(None))
                .values(cancelling_ms=at_ms)
            )
        return self.get(None, batch_id)

    def conclude(self, batch_id: str, outcome: dict[str, Any]) -> None:
        with self._database.write() as connection:
            connection.execute(
                table.update()
                .where(table.c.id == batch_id)
                .values(outcome=json.dumps(outcome))
            )  # fmt: skip

    def delete(self, batch_id: str) -> None:
        with self._database.write() as connection:
            connection.execute(table.delete().where(table.c.id == batch_id))
