"""Keys, tenants and plans."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from meuse.api.context import Body, Parts, requires
from meuse.core.clock import to_rfc3339
from meuse.core.errors import not_found
from meuse.core.nouns import KeyRecord, PlanVersion, Principal, Tenant

router = APIRouter(prefix="/api", tags=["access"])
Keys = Annotated[Principal, requires("keys")]
Admin = Annotated[Principal, requires("admin")]
Billing = Annotated[Principal, requires("billing")]


def _key(record: KeyRecord) -> dict[str, Any]:
    expires = record.expires_ms
    return {
        "id": record.id,
        "name": record.name,
        "tenant": record.scope.tenant,
        "project": record.scope.project,
        "scopes": sorted(record.scopes),
        "created": to_rfc3339(record.created_ms),
        "expires": None if expires is None else to_rfc3339(expires),
    }


def _tenant(tenant: Tenant) -> dict[str, Any]:
    return {"name": tenant.name, "plan": tenant.plan, "created": to_rfc3339(tenant.created_ms)}


def _plan(plan: PlanVersion) -> dict[str, Any]:
    return {
        "name": plan.name,
        "version": plan.version,
        "currency": plan.currency,
        "prices": [asdict(price) for price in plan.prices],
        "created": to_rfc3339(plan.created_ms),
    }


@router.post("/keys", status_code=201)
def make_key(parts: Parts, caller: Keys, body: Body) -> JSONResponse:
    """Make a key from {name, scopes, tenant?, project?, expires?}. It is shown this once."""
    record, key = parts.tenancy.make_key(caller, body)
    published = parts.reconciler.publish()
    return JSONResponse({**_key(record), "key": key, "published": published}, 201)


@router.get("/keys")
def list_keys(parts: Parts, caller: Keys) -> dict[str, Any]:
    scope = None if "admin" in caller.scopes else caller.scope
    return {"items": [_key(record) for record in parts.tenancy.store.keys(scope)]}


@router.delete("/keys/{key_id}")
def revoke_key(parts: Parts, caller: Keys, key_id: str) -> dict[str, Any]:
    """Revoke a key; when `published` is true no worker takes it any more."""
    parts.tenancy.revoke_key(caller, key_id)
    return {"id": key_id, "published": parts.reconciler.publish()}


@router.put("/tenants/{tenant}")
def put_tenant(parts: Parts, caller: Admin, tenant: str, body: Body) -> dict[str, Any]:
    """Make a tenant, or change its plan: {plan}."""
    made = parts.tenancy.put_tenant(tenant, body)
    return _tenant(made) | {"published": parts.reconciler.publish()}


@router.get("/tenants")
def list_tenants(parts: Parts, caller: Admin) -> dict[str, Any]:
    return {"items": [_tenant(tenant) for tenant in parts.tenancy.store.tenants()]}


@router.get("/tenants/{tenant}")
def one_tenant(parts: Parts, caller: Admin, tenant: str) -> dict[str, Any]:
    return _tenant(parts.tenancy.store.tenant(tenant))


@router.put("/plans/{name}")
def put_plan(parts: Parts, caller: Admin, name: str, body: Body) -> dict[str, Any]:
    """A price list {currency, prices: [{meter, model?, per?, amount}]}; changed, it becomes
    the next version. Usage is rated by the version that held when it was recorded."""
    made = parts.tenancy.put_plan(name, body)
    return _plan(made) | {"published": parts.reconciler.publish()}


@router.get("/plans")
def list_plans(parts: Parts, caller: Billing) -> dict[str, Any]:
    """Every version of the price lists that concern the caller: all for an administrator,
    the tenant's own for others."""
    shown = parts.tenancy.plans.plans()
    if "admin" not in caller.scopes:
        mine = parts.tenancy.store.tenant(caller.tenant).plan
        shown = [plan for plan in shown if plan.name == mine]
    return {"items": [_plan(plan) for plan in shown]}


@router.get("/plans/{name}")
def one_plan(parts: Parts, caller: Billing, name: str) -> dict[str, Any]:
    if "admin" not in caller.scopes and parts.tenancy.store.tenant(caller.tenant).plan != name:
        raise not_found("plan", name)
    return _plan(parts.tenancy.plans.plan(name))
