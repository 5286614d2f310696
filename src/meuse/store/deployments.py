"""Deployment specs in SQL: adapter of `core.ports.DeploymentStore`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any, TypeVar

import sqlalchemy as sa

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.nouns import (
    Adapter,
    Batching,
    Cache,
    Canary,
    Deployment,
    DeploymentTarget,
    Draft,
    EngineOptions,
    PromptLookup,
    Scale,
    Scope,
    Shadow,
)
from meuse.store.database import Database, upsert
from meuse.store.tables import deployment as table
from meuse.store.tables import rollout

T = TypeVar("T")


def _is(scope: Scope, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        table.c.tenant_id == scope.tenant,
        table.c.project_id == scope.project,
        table.c.name == name,
    )


def _load(row: sa.Row[Any]) -> Deployment:
    r, body = row._mapping, json.loads(row._mapping["body"])
    return Deployment(
        name=r["name"],
        scope=Scope(r["tenant_id"], r["project_id"]),
        generation=r["generation"],
        targets=tuple(DeploymentTarget(**t) for t in body["targets"]),
        scale=Scale(**body["scale"]),
        access=tuple(body["access"]),
        timeout_ms=body["timeout_ms"],
        updated_ms=r["updated_ms"],
        # What follows came later: rows from before have none of it.
        objective_ms=body.get("objective_ms"),
        batching=Batching(**body.get("batching", {})),
        sticky=body.get("sticky"),
        shadow=_optional(Shadow, body.get("shadow")),
        canary=_canary(body.get("canary")),
        cache=_optional(Cache, body.get("cache")),
        engine=_engine(body.get("engine", {})),
        adapters=tuple(
            Adapter(a["name"], a["model"], tuple(a.get("layers", ())))
            for a in body.get("adapters", [])
        ),
    )


def _optional(kind: type[T], body: dict[str, Any] | None) -> T | None:
    return None if body is None else kind(**body)


def _engine(body: dict[str, Any]) -> EngineOptions:
    nested = {
        "prompt_lookup": _optional(PromptLookup, body.get("prompt_lookup")),
        "draft_model": _optional(Draft, body.get("draft_model")),
    }
    return EngineOptions(**{**body, **nested})


def _canary(body: dict[str, Any] | None) -> Canary | None:
    return None if body is None else Canary(**{**body, "steps": tuple(body["steps"])})


class SqlDeployments:
    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, deployment: Deployment, if_match: int | None = None) -> Deployment:
        scope = deployment.scope
        with self._database.write_alone("deployment", scope.tenant) as connection:
            query = sa.select(table.c.generation).where(_is(scope, deployment.name))
            current = connection.execute(query).scalar()
            if if_match is not None and if_match != (current or 0):
                raise MeuseError(
                    Code.PRECONDITION_FAILED,
                    f"generation is {current or 0}, not {if_match}",
                    field="If-Match",
                    hint="Read the deployment again and repeat the change.",
                )
            _check_name(connection, scope, deployment.name)
            new = replace(deployment, generation=(current or 0) + 1, updated_ms=now_ms())
            body = {
                "targets": [asdict(t) for t in new.targets],
                "scale": asdict(new.scale),
                "access": list(new.access),
                "timeout_ms": new.timeout_ms,
                "objective_ms": new.objective_ms,
                "batching": asdict(new.batching),
                "sticky": new.sticky,
                "shadow": new.shadow and asdict(new.shadow),
                "canary": new.canary and asdict(new.canary),
                "cache": new.cache and asdict(new.cache),
                "engine": asdict(new.engine),
                "adapters": [asdict(a) for a in new.adapters],
            }
            upsert(
                connection,
                table,
                {
                    "tenant_id": scope.tenant,
                    "project_id": scope.project,
                    "name": new.name,
                    "generation": new.generation,
                    "body": json.dumps(body),
                    "updated_ms": new.updated_ms,
                    "owner": "",
                },
            )
        return new

    def check_name(self, scope: Scope, name: str) -> None:
        with self._database.read() as connection:
            _check_name(connection, scope, name)

    def get(self, scope: Scope, name: str) -> Deployment:
        with self._database.read() as connection:
            row = connection.execute(sa.select(table).where(_is(scope, name))).first()
        if row is None:
            raise not_found("deployment", name)
        return _load(row)

    def list(self, scope: Scope | None) -> list[Deployment]:
        query = sa.select(table).order_by(table.c.tenant_id, table.c.name)
        if scope is not None:
            query = query.where(
                table.c.tenant_id == scope.tenant, table.c.project_id == scope.project
            )
        with self._database.read() as connection:
            return [_load(row) for row in connection.execute(query)]

    def delete(self, scope: Scope, name: str) -> None:
        with self._database.write() as connection:
            done = connection.execute(table.delete().where(_is(scope, name)))
            if done.rowcount == 0:
                raise not_found("deployment", name)
            connection.execute(
                rollout.delete().where(
                    rollout.c.tenant_id == scope.tenant,
                    rollout.c.project_id == scope.project,
                    rollout.c.name == name,
                )
            )


def _check_name(connection: sa.Connection, scope: Scope, name: str) -> None:
    elsewhere = connection.execute(
        sa.select(table.c.project_id).where(
            table.c.tenant_id == scope.tenant,
            table.c.name == name,
            table.c.project_id != scope.project,
        )
    ).scalar()
    if elsewhere is not None:
        # Clients call `owner/name`: a name is one deployment for the whole tenant.
        raise MeuseError(
            Code.CONFLICT,
            f"project {elsewhere!r} has a deployment of this name",
            field="name",
            hint="Use another name.",
        )
