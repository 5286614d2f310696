"""Usage and invoices: checks who may see what, then asks the ledger."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from meuse.api.context import Body, Parts, requires, tenant_scope
from meuse.api.plans import checked_period
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.fields import known
from meuse.core.nouns import Principal

router = APIRouter(prefix="/api", tags=["money"])
Usage = Annotated[Principal, requires("usage")]
Billing = Annotated[Principal, requires("billing")]


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

    Only an administrator issues: for others it is a preview, of which nothing is kept. A draft
    is rated anew each time; with `unrated_as`, a plan version ("basic:2"), an administrator has
    usage without a price rated by that.
    """
    known(body, ("tenant", "period", "unrated_as"))
    tenant = body.get("tenant")
    if tenant is not None and not isinstance(tenant, str):
        raise invalid("tenant", f"{tenant!r} is not a tenant")
    who = tenant_scope(caller, tenant).tenant
    admin = "admin" in caller.scopes
    asked = {"tenant": who, "period": checked_period(body.get("period")), "issue": admin}
    if body.get("unrated_as") is not None:
        asked["unrated_as"] = _plan_ref(body["unrated_as"], admin)
    status, answer = parts.ledger.call("POST", "/invoices", body=asked)
    return JSONResponse(answer, status)


def _plan_ref(ref: object, admin: bool) -> str:
    if not admin:
        raise MeuseError(
            Code.FORBIDDEN,
            "only an administrator says how usage without a price is rated",
            field="unrated_as",
        )
    if not isinstance(ref, str):
        raise invalid("unrated_as", f"{ref!r} is not a plan", 'Name one, such as "basic:2".')
    return ref


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
