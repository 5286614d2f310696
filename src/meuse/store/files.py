"""Files of the OpenAI API in SQL: adapter of `core.ports.FileStore`."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.nouns import Scope, StoredFile
from meuse.store.database import Database
from meuse.store.tables import file as table


def _load(row: sa.Row[Any]) -> StoredFile:
    r = row._mapping
    return StoredFile(
        r["id"], Scope(r["tenant_id"], r["project_id"]), r["filename"], r["purpose"], r["digest"],
        r["bytes"], r["created_ms"],
    )  # fmt: skip


def _mine(scope: Scope) -> sa.ColumnElement[bool]:
    return sa.and_(
        table.c.tenant_id == scope.tenant,
        table.c.project_id == scope.project,
        table.c.deleted_ms.is_(None),
    )


class SqlFiles:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, file: StoredFile, most_bytes: int = 0) -> None:
        with self._database.write_alone("file", file.scope.tenant) as connection:
            query = sa.select(table.c.id).where(table.c.id == file.id)
            if connection.execute(query).first() is not None:
                return
            if most_bytes:
                held = connection.execute(
                    sa.select(sa.func.coalesce(sa.func.sum(table.c.bytes), 0)).where(
                        table.c.tenant_id == file.scope.tenant, table.c.deleted_ms.is_(None)
                    )
                ).scalar_one()
                _check_room(int(held), file.bytes, most_bytes)
            connection.execute(
                table.insert().values(
                    tenant_id=file.scope.tenant,
                    project_id=file.scope.project,
                    id=file.id,
                    filename=file.filename,
                    purpose=file.purpose,
                    digest=file.digest,
                    bytes=file.bytes,
                    created_ms=file.created_ms,
                )
            )

    def get(self, scope: Scope, file_id: str) -> StoredFile:
        query = sa.select(table).where(_mine(scope), table.c.id == file_id)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise not_found("file", file_id)
        return _load(row)

    def page(
        self, scope: Scope, limit: int, after: str | None, purpose: str | None, newest_first: bool
    ) -> list[StoredFile]:
        query = sa.select(table).where(_mine(scope))
        if purpose is not None:
            query = query.where(table.c.purpose == purpose)
        if after is not None:
            query = query.where(table.c.id < after if newest_first else table.c.id > after)
        query = query.order_by(table.c.id.desc() if newest_first else table.c.id).limit(limit)
        with self._database.read() as connection:
            return [_load(row) for row in connection.execute(query)]

    def delete(self, scope: Scope, file_id: str, at_ms: int) -> None:
        with self._database.write() as connection:
            done = connection.execute(
                table.update()
                .where(_mine(scope), table.c.id == file_id)
                .values(deleted_ms=at_ms)
            )  # fmt: skip
        if done.rowcount == 0:
            raise not_found("file", file_id)

    def orphans(self) -> list[tuple[str, str, str]]:
        other = table.alias()
        needed = sa.exists().where(
            other.c.tenant_id == table.c.tenant_id,
            other.c.digest == table.c.digest,
            other.c.deleted_ms.is_(None),
        )
        query = sa.select(table, needed.label("needed")).where(table.c.deleted_ms.is_not(None))
        with self._database.read() as connection:
            return [
                (row.id, row.tenant_id, "" if row.needed else row.digest)
                for row in connection.execute(query)
            ]

    def swept(self, file_id: str) -> None:
        with self._database.write() as connection:
            connection.execute(
                table.delete().where(table.c.id == file_id, table.c.deleted_ms.is_not(None))
            )


def _check_room(held: int, more: int, most: int) -> None:
    if held + more > most:
        raise MeuseError(
            Code.LIMIT_EXCEEDED,
            f"the tenant's files have {held:,} bytes; with {more:,} more they would be over the "
            f"{most:,} that a tenant may have",
            field="file",
            hint="Delete some: DELETE /v1/files/{id}; or the operator can raise "
            "max_tenant_file_bytes.",
        )
