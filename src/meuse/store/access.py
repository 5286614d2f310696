"""Keys, tenants and plans in SQL: adapters of `core.ports.AccessStore` and `PlanStore`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.nouns import KeyRecord, PlanVersion, Scope, Tenant
from meuse.core.plans import plan_of, price_body, terms_body
from meuse.store.database import Database, upsert
from meuse.store.tables import api_key, plan_version, tenant_billing, tenant_plan
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
        now = now_ms()
        with self._database.write_alone("tenant", name) as connection:
            row = connection.execute(
                sa.select(tenant_table).where(tenant_table.c.tenant_id == name)
            ).first()
            if row is None:
                connection.execute(
                    tenant_table.insert().values(tenant_id=name, plan=plan, created_ms=now)
                )
                _note_plan(connection, name, plan, now)
                return Tenant(name, plan, now)
            if row.plan != plan:
                connection.execute(
                    tenant_table.update().where(tenant_table.c.tenant_id == name).values(plan=plan)
                )
                _note_plan(connection, name, plan, now)
            return Tenant(name, plan, row.created_ms)

    def plan_changes(self, tenant: str) -> list[tuple[int, str | None]]:
        p = tenant_plan.c
        query = sa.select(p.from_ms, p.plan).where(p.tenant_id == tenant).order_by(p.from_ms)
        with self._database.read() as connection:
            return [(row.from_ms, row.plan) for row in connection.execute(query)]

    def put_billing(self, tenant: str, body: Mapping[str, Any]) -> None:
        row = {"tenant_id": tenant, "body": json.dumps(body), "updated_ms": now_ms()}
        with self._database.write() as connection:
            upsert(connection, tenant_billing, row)

    def billing(self, tenant: str) -> dict[str, Any] | None:
        query = sa.select(tenant_billing.c.body).where(tenant_billing.c.tenant_id == tenant)
        with self._database.read() as connection:
            body = connection.execute(query).scalar_one_or_none()
        return None if body is None else dict(json.loads(body))

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

    def put_plan(self, plan: PlanVersion) -> PlanVersion:
        """The next version; what says the same again gives the version that there is.

        Raises `conflict` for another currency, once a tenant has had the plan: its usage of one
        quarter of an hour would be in two.
        """
        name = plan.name
        with self._database.write_alone("plan", name) as connection:
            last = connection.execute(
                sa.select(plan_version)
                .where(plan_version.c.name == name)
                .order_by(plan_version.c.version.desc())
                .limit(1)
            ).first()
            if last is not None:
                kept = _plan(last)
                if replace(plan, version=kept.version, created_ms=kept.created_ms) == kept:
                    return kept
                if plan.currency != kept.currency and _is_had(connection, name):
                    raise MeuseError(
                        Code.CONFLICT,
                        f"tenants have had plan {name!r} in {kept.currency}: its currency stays",
                        field="currency",
                        hint="Make a plan of another name, and give tenants that one.",
                    )
            version, made = (last.version, last.created_ms) if last else (0, 0)
            # A clock that went back does not put a version before the one that it follows.
            plan = replace(plan, version=version + 1, created_ms=max(now_ms(), made + 1))
            connection.execute(
                plan_version.insert().values(
                    name=name,
                    version=plan.version,
                    currency=plan.currency,
                    prices=json.dumps([price_body(price) for price in plan.prices]),
                    terms=json.dumps(terms_body(plan)),
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

    def versions(self, name: str) -> list[PlanVersion]:
        """All versions of one plan, oldest first; none when there is no such plan."""
        p = plan_version.c
        query = sa.select(plan_version).where(p.name == name).order_by(p.version)
        with self._database.read() as connection:
            return [_plan(row) for row in connection.execute(query)]

    def plans(self) -> list[PlanVersion]:
        query = sa.select(plan_version).order_by(plan_version.c.name, plan_version.c.version)
        with self._database.read() as connection:
            return [_plan(row) for row in connection.execute(query)]


def _is_had(connection: sa.Connection, plan: str) -> bool:
    """Whether a tenant has a plan, or had it."""
    query = sa.select(sa.literal(1)).where(tenant_plan.c.plan == plan).limit(1)
    return connection.execute(query).first() is not None


def _note_plan(connection: sa.Connection, tenant: str, plan: str | None, now: int) -> None:
    """From now on it has this plan; a clock that went back does not reorder what was before."""
    p = tenant_plan.c
    latest = connection.execute(
        sa.select(sa.func.max(p.from_ms)).where(p.tenant_id == tenant)
    ).scalar_one()
    start = now if latest is None else max(now, latest + 1)
    connection.execute(tenant_plan.insert().values(tenant_id=tenant, from_ms=start, plan=plan))


def _plan(row: sa.Row[Any]) -> PlanVersion:
    prices, terms = json.loads(row.prices), json.loads(row.terms or "{}")
    return plan_of(row.name, row.version, row.created_ms, row.currency, prices, terms)
