"""Usage and invoices: checks who may see what, then asks the ledger."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from meuse.api.context import Body, Parts, requires, tenant_scope
from meuse.core.errors import invalid
from meuse.core.nouns import Principal

router = APIRouter(prefix="/api", tags=["money"])
Usage = Annotated[Principal, requires("usage")]
Billing = Annotated[Principal, requires("billing")]

_PERIOD = 'Use "2026-11" or {"from": …, "to": …} in RFC 3339.'


@router.get("/usage")
def usage(
    parts: Parts,
    caller: Usage,
    start: Annotated[str | None, Query(alias="from")] = None,
    to: str | None = None,
    by: str = "day,model,meter",
    tenant: str | None = None,
    fresh: bool = False,
) -> Any:
    """What was used, [from, to) on quarters of an hour, grouped `by` day, model, meter,
    version, key, project, deployment, owner or tier. `fresh=true` reads the journal to its
    end first. An administrator may name a tenant, or `*` for all (then also by=tenant)."""
    everyone = tenant == "*" and "admin" in caller.scopes
    who = "*" if everyone else tenant_scope(caller, tenant).tenant
    params = {"from": start, "to": to, "by": by, "tenant": who, "fresh": str(fresh).lower()}
    if "admin" not in caller.scopes:
        params["project"] = caller.project
    return parts.ledger.call("GET", "/usage", params=params)[1]


@router.post("/invoices", status_code=201)
def make_invoice(parts: Parts, caller: Billing, body: Body) -> JSONResponse:
    """An invoice for {tenant, period: "2026-11" | {from, to}}; an open period gives a draft.

    Only an administrator issues: for others it is a preview, of which nothing is kept.
    """
    for name in body:
        if name not in ("tenant", "period"):
            raise invalid(name, "unknown field", "Known: tenant, period.")
    tenant = body.get("tenant")
    if tenant is not None and not isinstance(tenant, str):
        raise invalid("tenant", f"{tenant!r} is not a tenant")
    who = tenant_scope(caller, tenant).tenant
    period = body.get("period")
    bounds = period.values() if isinstance(period, dict) else [period]
    if not all(isinstance(bound, str) for bound in bounds):
        raise invalid("period", f"{period!r} is not a period", _PERIOD)
    asked = {"tenant": who, "period": period, "issue": "admin" in caller.scopes}
    status, answer = parts.ledger.call("POST", "/invoices", body=asked)
    return JSONResponse(answer, status)


@router.get("/invoices")
def list_invoices(parts: Parts, caller: Billing, tenant: str | None = None) -> Any:
    who = tenant_scope(caller, tenant).tenant
    return parts.ledger.call("GET", "/invoices", params={"tenant": who})[1]


@router.get("/invoices/{invoice_id}")
def one_invoice(parts: Parts, caller: Billing, invoice_id: str, tenant: str | None = None) -> Any:
    who = tenant_scope(caller, tenant).tenant
    return parts.ledger.call(
        "GET", f"/invoices/{quote(invoice_id, safe='')}", params={"tenant": who}
    )[1]
