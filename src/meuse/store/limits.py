"""Limits and budgets in SQL: adapter of `core.ports.LimitStore`."""

from __future__ import annotations

import json
from dataclasses import asdict

import sqlalchemy as sa

from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.nouns import Limit, LimitRecord, Scope
from meuse.store.database import Database
from meuse.store.tables import request_limit


class SqlLimits:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: LimitRecord, most: int, most_own: int) -> None:
        own = request_limit.c.tenant_id == record.scope.tenant
        bounds = ((sa.true(), most, "the platform"), (own, most_own, "a tenant"))
        with self._database.write_alone("request_limit") as connection:
            for which, bound, who in bounds:
                count = sa.select(sa.func.count()).select_from(request_limit).where(which)
                if connection.execute(count).scalar_one() >= bound:
                    raise MeuseError(
                        Code.CONFLICT,
                        f"{who} makes at most {bound} limits and budgets",
                        hint="Delete those that are not needed any more.",
                    )
            connection.execute(
                request_limit.insert().values(
                    tenant_id=record.scope.tenant,
                    project_id=record.scope.project,
                    id=record.limit.id,
                    kind=record.limit.kind,
                    by_admin=record.by_admin,
                    body=json.dumps(asdict(record.limit)),
                    created_ms=record.created_ms,
                )
            )

    def list(self) -> list[LimitRecord]:
        query = sa.select(request_limit).order_by(request_limit.c.created_ms, request_limit.c.id)
        with self._database.read() as connection:
            return [
                LimitRecord(
                    Limit(**json.loads(row.body)),
                    Scope(row.tenant_id, row.project_id),
                    row.by_admin,
                    row.created_ms,
                )
                for row in connection.execute(query)
            ]

    def delete(self, limit_id: str) -> None:
        statement = request_limit.delete().where(request_limit.c.id == limit_id)
        with self._database.write() as connection:
            if connection.execute(statement).rowcount == 0:
                raise not_found("limit", limit_id)
