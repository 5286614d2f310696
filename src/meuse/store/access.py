"""Keys, tenants and plans in SQL: adapters of `core.ports.AccessStore` and `PlanStore`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import now_ms
from meuse.core.errors import not_found
from meuse.core.nouns import KeyRecord, PlanVersion, Price, Scope, Tenant
from meuse.store.database import Database
from meuse.store.tables import api_key, plan_version
from meuse.store.tables import tenant as tenant_table


class SqlAccess:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add_key(self, key: KeyRecord) -> None:
        with self._database.write() as connection:
            connection.execute(
                api_key.insert().values(
                    tenant_id=key.scope.tenant,
                    project_id=key.scope.project,
                    id=key.id,
                    hash=key.hash,
                    name=key.name,
                    scopes=json.dumps(sorted(key.scopes)),
                    created_ms=key.created_ms,
                    expires_ms=key.expires_ms,
                )
            )

    def keys(self, scope: Scope | None) -> list[KeyRecord]:
        if scope is None:
            return self._keys(sa.true())
        return self._keys(
            (api_key.c.tenant_id == scope.tenant) & (api_key.c.project_id == scope.project)
        )

    def key(self, key_id: str) -> KeyRecord | None:
        found = self._keys(api_key.c.id == key_id)
        return found[0] if found else None

    def _keys(self, where: sa.ColumnElement[bool]) -> list[KeyRecord]:
        query = (
            sa.select(api_key)
            .where(where, api_key.c.revoked_ms.is_(None))
            .order_by(api_key.c.created_ms, api_key.c.id)
        )
        with self._database.read() as connection:
            return [
                KeyRecord(
                    id=row.id,
                    hash=bytes(row.hash),
                    name=row.name,
                    scope=Scope(row.tenant_id, row.project_id),
                    scopes=frozenset(json.loads(row.scopes)),
                    created_ms=row.created_ms,
                    expires_ms=row.expires_ms,
                    revoked_ms=row.revoked_ms,
                )
                for row in connection.execute(query)
            ]

    def revoke_key(self, scope: Scope | None, key_id: str, at_ms: int) -> None:
        statement = api_key.update().where(api_key.c.id == key_id, api_key.c.revoked_ms.is_(None))
        if scope is not None:
            statement = statement.where(
                api_key.c.tenant_id == scope.tenant, api_key.c.project_id == scope.project
            )
        with self._database.write() as connection:
            if connection.execute(statement.values(revoked_ms=at_ms)).rowcount == 0:
                raise not_found("key", key_id)

    def put_tenant(self, name: str, plan: str | None) -> Tenant:
        with self._database.write_alone("tenant", name) as connection:
            row = connection.execute(
                sa.select(tenant_table).where(tenant_table.c.tenant_id == name)
            ).first()
            if row is None:
                tenant = Tenant(name, plan, now_ms())
                connection.execute(
                    tenant_table.insert().values(
                        tenant_id=name, plan=plan, created_ms=tenant.created_ms
                    )
                )
                return tenant
            connection.execute(
                tenant_table.update().where(tenant_table.c.tenant_id == name).values(plan=plan)
            )
            return Tenant(name, plan, row.created_ms)

    def tenant(self, name: str) -> Tenant:
        for tenant in self._tenants(tenant_table.c.tenant_id == name):
            return tenant
        raise not_found("tenant", name, "Make it with PUT /api/tenants/{name}.")

    def tenants(self) -> list[Tenant]:
        return self._tenants(sa.true())

    def _tenants(self, where: sa.ColumnElement[bool]) -> list[Tenant]:
        query = sa.select(tenant_table).where(where).order_by(tenant_table.c.tenant_id)
        with self._database.read() as connection:
            return [
                Tenant(row.tenant_id, row.plan, row.created_ms) for row in connection.execute(query)
            ]


class SqlPlans:
    def __init__(self, database: Database) -> None:
        self._database = database

    def put_plan(self, name: str, currency: str, prices: Sequence[dict[str, Any]]) -> PlanVersion:
        """The next version; the same prices again give the version that has them."""
        rows = tuple(Price(**price) for price in prices)
        text = json.dumps([asdict(price) for price in rows])
        with self._database.write_alone("plan", name) as connection:
            last = connection.execute(
                sa.select(plan_version)
                .where(plan_version.c.name == name)
                .order_by(plan_version.c.version.desc())
                .limit(1)
            ).first()
            if last is not None and (last.currency, last.prices) == (currency, text):
                return _plan(last)
            plan = PlanVersion(name, (last.version if last else 0) + 1, currency, rows, now_ms())
            connection.execute(
                plan_version.insert().values(
                    name=name,
                    version=plan.version,
                    currency=currency,
                    prices=text,
                    created_ms=plan.created_ms,
                )
            )
        return plan

    def plan(self, name: str, version: int | None = None) -> PlanVersion:
        query = sa.select(plan_version).where(plan_version.c.name == name)
        if version is not None:
            query = query.where(plan_version.c.version == version)
        with self._database.read() as connection:
            row = connection.execute(query.order_by(plan_version.c.version.desc())).first()
        if row is None:
            raise not_found("plan", name, "Make it with PUT /api/plans/{name}.")
        return _plan(row)

    def plans(self) -> list[PlanVersion]:
        query = sa.select(plan_version).order_by(plan_version.c.name, plan_version.c.version)
        with self._database.read() as connection:
            return [_plan(row) for row in connection.execute(query)]


def _plan(row: sa.Row[Any]) -> PlanVersion:
    prices = tuple(Price(**price) for price in json.loads(row.prices))
    return PlanVersion(row.name, row.version, row.currency, prices, row.created_ms)
