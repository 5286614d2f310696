"""Keys and tenants."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from meuse.api.context import Body, Parts, requires
from meuse.core.billing import details_body
from meuse.core.clock import to_rfc3339
from meuse.core.nouns import KeyRecord, Principal, Tenant

router = APIRouter(prefix="/api", tags=["access"])
Keys = Annotated[Principal, requires("keys")]
Admin = Annotated[Principal, requires("admin")]


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


@router.put("/tenants/{tenant}/billing")
def put_billing(parts: Parts, caller: Admin, tenant: str, body: Body) -> dict[str, Any]:
    """How a tenant is invoiced: {name, address?: [lines], tax_id?, email?, tax?: {name, percent,
    text?}, due_days?}. `tax` takes the place of its plan's. Issued invoices stay as they are."""
    return details_body(parts.tenancy.put_billing(tenant, body))


@router.get("/tenants/{tenant}/billing")
def get_billing(parts: Parts, caller: Admin, tenant: str) -> dict[str, Any]:
    return details_body(parts.tenancy.billing(tenant))


@router.get("/tenants")
def list_tenants(parts: Parts, caller: Admin) -> dict[str, Any]:
    return {"items": [_tenant(tenant) for tenant in parts.tenancy.store.tenants()]}


@router.get("/tenants/{tenant}")
def one_tenant(parts: Parts, caller: Admin, tenant: str) -> dict[str, Any]:
    return _tenant(parts.tenancy.store.tenant(tenant))
