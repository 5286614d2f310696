"""Dataset versions in SQL: adapter of `core.ports.DatasetStore`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import sqlalchemy as sa

from meuse.core.errors import not_found
from meuse.core.nouns import Column, DatasetVersion, Scope
from meuse.store.database import Database
from meuse.store.tables import dataset_version as table


def _mine(scope: Scope) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.tenant_id == scope.tenant, table.c.project_id == scope.project)


def _load(row: sa.Row[tuple[object, ...]]) -> DatasetVersion:
    r = row._mapping
    return DatasetVersion(
        name=r["name"],
        version=r["version"],
        digest=r["digest"],
        format=r["format"],
        rows=r["rows"],
        columns=tuple(Column(**c) for c in json.loads(r["columns"])),
        bytes=r["bytes"],
        created_ms=r["created_ms"],
    )


class SqlDatasets:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add_version(self, scope: Scope, draft: DatasetVersion) -> tuple[DatasetVersion, bool]:
        with self._database.write_alone("dataset", scope.tenant) as connection:
            mine = _mine(scope) & (table.c.name == draft.name)
            same = connection.execute(
                sa.select(table).where(mine, table.c.digest == draft.digest)
            ).first()
            if same is not None:
                return _load(same), False
            last = connection.execute(sa.select(sa.func.max(table.c.version)).where(mine)).scalar()
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
