"""How rollouts stand, in SQL: adapter of `core.ports.RolloutStore`. Knows no state of one."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import now_ms
from meuse.core.nouns import Scope
from meuse.store.database import Database, upsert
from meuse.store.tables import rollout as table


class SqlRollouts:
    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[tuple[Scope, str], dict[str, Any]]:
        with self._database.read() as connection:
            return {
                (Scope(row.tenant_id, row.project_id), row.name): json.loads(row.body)
                for row in connection.execute(sa.select(table))
            }

    def put(self, scope: Scope, name: str, state: dict[str, Any]) -> None:
        with self._database.write() as connection:
            upsert(
                connection,
                table,
                {
                    "tenant_id": scope.tenant,
                    "project_id": scope.project,
                    "name": name,
                    "body": json.dumps(state),
                    "updated_ms": now_ms(),
                    "owner": "",
                },
            )

    def delete(self, scope: Scope, name: str) -> None:
        with self._database.write() as connection:
            connection.execute(
                table.delete().where(
                    table.c.tenant_id == scope.tenant,
                    table.c.project_id == scope.project,
                    table.c.name == name,
                )
            )
