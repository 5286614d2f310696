"""Dataset versions in SQL: adapter of `core.ports.DatasetStore`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import now_ms
from meuse.core.errors import not_found
from meuse.core.nouns import Column, DatasetVersion, Scope
from meuse.store.database import Database, upsert
from meuse.store.tables import dataset_deleted as deleted
from meuse.store.tables import dataset_profile as profiles
from meuse.store.tables import dataset_version as table


def _mine(scope: Scope, of: sa.Table = table) -> sa.ColumnElement[bool]:
    return sa.and_(of.c.tenant_id == scope.tenant, of.c.project_id == scope.project)


def _one(scope: Scope, name: str, version: int, of: sa.Table = table) -> sa.ColumnElement[bool]:
    return sa.and_(_mine(scope, of), of.c.name == name, of.c.version == version)


def _key(scope: Scope, name: str, version: int) -> dict[str, Any]:
    return {
        "tenant_id": scope.tenant, "project_id": scope.project, "name": name, "version": version
    }  # fmt: skip


def _load(row: sa.Row[tuple[object, ...]]) -> DatasetVersion:
    r = row._mapping
    body = json.loads(r["body"])
    return DatasetVersion(
        name=r["name"],
        version=r["version"],
        digest=r["digest"],
        format=r["format"],
        rows=r["rows"],
        columns=tuple(_column(c) for c in json.loads(r["columns"])),
        bytes=r["bytes"],
        created_ms=r["created_ms"],
        table_digest=r["table_digest"],
        table_bytes=r["table_bytes"],
        options=body.get("options", {}),
        warnings=tuple(body.get("warnings", ())),
        skipped=tuple(body.get("skipped", ())),
    )


def _column(body: dict[str, Any]) -> Column:
    shape = tuple(body.get("shape", ()))
    return Column(body["name"], body["kind"], body.get("missing", 0), shape)


def _reading(options: dict[str, Any]) -> str:
    """The digest of the options; empty without any."""
    text = json.dumps(options, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest() if options else ""


class SqlDatasets:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add_version(self, scope: Scope, draft: DatasetVersion) -> tuple[DatasetVersion, bool]:
        with self._database.write_alone("dataset", scope.tenant) as connection:
            mine = _mine(scope) & (table.c.name == draft.name)
            same = connection.execute(
                sa.select(table).where(
                    mine,
                    table.c.digest == draft.digest,
                    table.c.format == draft.format,
                    table.c.reading == _reading(draft.options),
                )
            ).first()
            if same is not None:
                return _load(same), False
            numbers = (
                sa.select(table.c.version).where(mine),
                sa.select(deleted.c.version).where(
                    _mine(scope, deleted), deleted.c.name == draft.name
                ),
            )
            used = sa.union_all(*numbers).subquery()
            last = connection.execute(sa.select(sa.func.max(used.c.version))).scalar()
            version = replace(draft, version=(last or 0) + 1)
            connection.execute(
                table.insert().values(
                    tenant_id=scope.tenant,
                    project_id=scope.project,
                    name=version.name,
                    version=version.version,
                    digest=version.digest,
                    format=version.format,
                    rows=version.rows,
                    columns=json.dumps([asdict(c) for c in version.columns]),
                    bytes=version.bytes,
                    created_ms=version.created_ms,
                    table_digest=version.table_digest,
                    table_bytes=version.table_bytes,
                    reading=_reading(version.options),
                    body=json.dumps(
                        {
                            "options": version.options,
                            "warnings": version.warnings,
                            "skipped": version.skipped,
                        }
                    ),
                )
            )
        return version, True

    def get(self, scope: Scope, name: str, version: int | None = None) -> DatasetVersion:
        query = sa.select(table).where(_mine(scope), table.c.name == name)
        if version is not None:
            query = query.where(table.c.version == version)
        with self._database.read() as connection:
            row = connection.execute(query.order_by(table.c.version.desc()).limit(1)).first()
        if row is None:
            ref = name if version is None else f"{name}:{version}"
            raise not_found("data", ref, "Upload it with POST /api/datasets?name=….")
        return _load(row)

    def list(self, scope: Scope) -> list[DatasetVersion]:
        latest = (
            sa.select(table.c.name, sa.func.max(table.c.version).label("version"))
            .where(_mine(scope))
            .group_by(table.c.name)
            .subquery()
        )
        query = (
            sa.select(table)
            .join(
                latest,
                (table.c.name == latest.c.name) & (table.c.version == latest.c.version),
            )
            .where(_mine(scope))
            .order_by(table.c.name)
        )
        with self._database.read() as connection:
            return [_load(row) for row in connection.execute(query)]

    def delete(self, scope: Scope, name: str, version: int, at_ms: int) -> None:
        with self._database.write_alone("dataset", scope.tenant) as connection:
            row = connection.execute(sa.select(table).where(_one(scope, name, version))).first()
            if row is None:
                raise not_found("data", f"{name}:{version}")
            found = _load(row)
            mine = _one(scope, name, version, profiles)
            made = connection.execute(sa.select(profiles.c.digest).where(mine)).scalars()
            digests = sorted({d for d in (found.digest, found.table_digest, *made) if d})
            connection.execute(
                deleted.insert().values(
                    **_key(scope, name, version), digests=json.dumps(digests), deleted_ms=at_ms
                )
            )
            connection.execute(profiles.delete().where(mine))
            connection.execute(table.delete().where(_one(scope, name, version)))

    def orphans(self) -> Sequence[tuple[Scope, str, int, Sequence[str]]]:
        found = []
        with self._database.read() as connection:
            for row in connection.execute(sa.select(deleted).where(deleted.c.digests != "[]")):
                needed = {
                    digest
                    for of, column in (
                        (table, table.c.digest),
                        (table, table.c.table_digest),
                        (profiles, profiles.c.digest),
                    )
                    for digest in connection.execute(
                        sa.select(column).where(
                            of.c.tenant_id == row.tenant_id, column.in_(json.loads(row.digests))
                        )
                    ).scalars()
                }
                free = [digest for digest in json.loads(row.digests) if digest not in needed]
                found.append((Scope(row.tenant_id, row.project_id), row.name, row.version, free))
        return found

    def swept(self, scope: Scope, name: str, version: int) -> None:
        with self._database.write() as connection:
            connection.execute(
                deleted.update().where(_one(scope, name, version, deleted)).values(digests="[]")
            )

    def profile(self, scope: Scope, name: str, version: int, asked: str) -> str | None:
        query = sa.select(profiles.c.digest).where(
            _one(scope, name, version, profiles), profiles.c.asked == asked
        )
        with self._database.read() as connection:
            found: str | None = connection.execute(query).scalar()
        return found

    def keep_profile(self, scope: Scope, name: str, version: int, asked: str, digest: str) -> None:
        values = {"asked": asked, "digest": digest, "created_ms": now_ms(), "owner": ""}
        with self._database.write_alone("dataset", scope.tenant) as connection:
            if connection.execute(
                sa.select(table.c.name).where(_one(scope, name, version))
            ).first():
                upsert(connection, profiles, {**_key(scope, name, version), **values})
