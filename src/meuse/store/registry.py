"""Models, versions and aliases in SQL: adapter of `core.ports.RegistryStore`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.nouns import (
    Artifact,
    Lineage,
    ModelVersion,
    NewVersion,
    Scope,
    Signature,
    StoredEvaluation,
)
from meuse.store.database import Database, upsert
from meuse.store.tables import alias as alias_table
from meuse.store.tables import evaluation as evaluation_table
from meuse.store.tables import model_version as table


def _mine(t: sa.Table, scope: Scope) -> sa.ColumnElement[bool]:
    return sa.and_(t.c.tenant_id == scope.tenant, t.c.project_id == scope.project)


def _load(row: sa.Row[Any]) -> ModelVersion:
    r, body = row._mapping, json.loads(row._mapping["body"])
    return ModelVersion(
        model=r["model"],
        version=r["version"],
        task=body["task"],
        artifacts=tuple(Artifact(**a) for a in body["artifacts"]),
        signature=Signature.from_dict(body["signature"]),
        metrics=body["metrics"],
        lineage=Lineage(**body["lineage"]),
        created_ms=r["created_ms"],
        report=body["report"],
        card=body.get("card", {}),  # versions of earlier releases have none
    )


class SqlRegistry:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add_version(self, scope: Scope, new: NewVersion) -> ModelVersion:
        job = new.lineage.job if new.part == 0 else f"{new.lineage.job}.{new.part}"
        with self._database.write_alone("model", scope.tenant) as connection:
            mine = _mine(table, scope)
            done = connection.execute(sa.select(table).where(mine, table.c.job_id == job)).first()
            if done is not None:
                return _load(done)
            last = connection.execute(
                sa.select(sa.func.max(table.c.version)).where(mine, table.c.model == new.model)
            ).scalar()
            body = asdict(new)
            del body["model"], body["part"]
            connection.execute(
                table.insert().values(
                    tenant_id=scope.tenant,
                    project_id=scope.project,
                    model=new.model,
                    version=(last or 0) + 1,
                    job_id=job,
                    body=json.dumps(body),
                    created_ms=now_ms(),
                )
            )
            row = connection.execute(sa.select(table).where(mine, table.c.job_id == job)).one()
            return _load(row)

    def get_version(self, scope: Scope, model: str, version: int) -> ModelVersion:
        query = sa.select(table).where(
            _mine(table, scope), table.c.model == model, table.c.version == version
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise not_found("model", f"{model}:{version}")
        return _load(row)

    def versions(self, scope: Scope, model: str) -> list[ModelVersion]:
        query = sa.select(table).where(_mine(table, scope), table.c.model == model)
        with self._database.read() as connection:
            return [_load(row) for row in connection.execute(query.order_by(table.c.version))]

    def models(self, scope: Scope) -> list[str]:
        query = sa.select(table.c.model).where(_mine(table, scope)).distinct()
        with self._database.read() as connection:
            names: Sequence[str] = connection.execute(query.order_by(table.c.model)).scalars().all()
        return list(names)

    def set_alias(
        self, scope: Scope, model: str, alias: str, version: int, was: int | None = 0
    ) -> None:
        self.get_version(scope, model, version)
        with self._database.write_alone("alias", scope.tenant) as connection:
            kept = connection.execute(
                sa.select(alias_table.c.version, alias_table.c.gate).where(
                    _mine(alias_table, scope),
                    alias_table.c.model == model,
                    alias_table.c.alias == alias,
                )
            ).first()
            now = None if kept is None else kept.version
            if was not in (0, now):
                raise MeuseError(
                    Code.CONFLICT,
                    f"{model}@{alias} has been moved to version {now} meanwhile",
                    field="alias",
                    hint="Ask again.",
                )
            upsert(
                connection,
                alias_table,
                {
                    "tenant_id": scope.tenant,
                    "project_id": scope.project,
                    "model": model,
                    "alias": alias,
                    "version": version,
                    "updated_ms": now_ms(),
                    "gate": None if kept is None else kept.gate,
                    "owner": "",
                },
            )

    def aliases(self, scope: Scope, model: str) -> dict[str, int]:
        query = sa.select(alias_table.c.alias, alias_table.c.version).where(
            _mine(alias_table, scope), alias_table.c.model == model
        )
        with self._database.read() as connection:
            return {row.alias: row.version for row in connection.execute(query)}

    def delete_alias(self, scope: Scope, model: str, alias: str) -> None:
        with self._database.write() as connection:
            done = connection.execute(
                alias_table.delete().where(
                    _mine(alias_table, scope),
                    alias_table.c.model == model,
                    alias_table.c.alias == alias,
                )
            )
            if done.rowcount == 0:
                raise not_found("alias", f"{model}@{alias}")

    def set_gate(self, scope: Scope, model: str, alias: str, gate: dict[str, Any] | None) -> None:
        change = (
            alias_table.update()
            .where(
                _mine(alias_table, scope),
                alias_table.c.model == model,
                alias_table.c.alias == alias,
            )
            .values(gate=None if gate is None else json.dumps(gate))
        )
        with self._database.write() as connection:
            if connection.execute(change).rowcount == 0:
                raise not_found("alias", f"{model}@{alias}")

    def gates(self, scope: Scope, model: str) -> dict[str, dict[str, Any]]:
        query = sa.select(alias_table.c.alias, alias_table.c.gate).where(
            _mine(alias_table, scope),
            alias_table.c.model == model,
            alias_table.c.gate.is_not(None),
        )
        with self._database.read() as connection:
            return {row.alias: json.loads(row.gate) for row in connection.execute(query)}

    def add_evaluation(
        self, scope: Scope, model: str, version: int, job: str, body: dict[str, Any]
    ) -> None:
        self.get_version(scope, model, version)
        t = evaluation_table.c
        with self._database.write_alone("evaluation", scope.tenant) as connection:
            done = connection.execute(
                sa.select(t.job_id).where(
                    _mine(evaluation_table, scope),
                    t.model == model,
                    t.version == version,
                    t.job_id == job,
                )
            ).first()
            if done is not None:
                return
            connection.execute(
                evaluation_table.insert().values(
                    tenant_id=scope.tenant,
                    project_id=scope.project,
                    model=model,
                    version=version,
                    job_id=job,
                    body=json.dumps(body, allow_nan=False),
                    created_ms=now_ms(),
                )
            )

    def evaluations(
        self, scope: Scope, model: str, version: int, limit: int = 100
    ) -> list[StoredEvaluation]:
        t = evaluation_table.c
        query = (
            sa.select(evaluation_table)
            .where(_mine(evaluation_table, scope), t.model == model, t.version == version)
            .order_by(t.created_ms.desc(), t.job_id.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                StoredEvaluation(r.model, r.version, r.job_id, json.loads(r.body), r.created_ms)
                for r in connection.execute(query)
            ]
