"""Usage, forecasts, reconciliations: checks who may see what, then asks the ledger."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from meuse.api.context import Body, Parts, requires, tenant_scope
from meuse.api.ledger import RECOUNT_S
from meuse.api.plans import checked_period
from meuse.core.errors import Code, MeuseError
from meuse.core.fields import known
from meuse.core.nouns import Principal

router = APIRouter(prefix="/api", tags=["money"])
Usage = Annotated[Principal, requires("usage")]
Billing = Annotated[Principal, requires("billing")]
Admin = Annotated[Principal, requires("admin")]


@router.get("/usage")
def usage(
    parts: Parts,
    caller: Usage,
    start: Annotated[str | None, Query(alias="from")] = None,
    to: str | None = None,
    by: str = "day,model,meter",
    tenant: str | None = None,
    fresh: bool = False,
    cost: bool = False,
) -> Any:
    """What was used, [from, to) on quarters of an hour, grouped `by` hour, day, week, month
    (of UTC), model, meter, version, key, project, deployment, owner or tier. `cost=true` says
    what it cost as well, unrounded, and `owed`: what the period comes to by kind of line.
    `fresh=true` reads the journal to its end first. An administrator may name a tenant, or `*`
    for all (then also by=tenant)."""
    if cost and not caller.may("billing"):
        raise MeuseError(
            Code.FORBIDDEN, "costs need the scope 'billing'", field="cost",
            hint="Without cost=true the answer has quantities alone.",
        )  # fmt: skip
    everyone = tenant == "*" and "admin" in caller.scopes
    who = "*" if everyone else tenant_scope(caller, tenant).tenant
    params = {"from": start, "to": to, "by": by, "tenant": who, "fresh": str(fresh).lower(),
              "cost": str(cost).lower()}  # fmt: skip
    if "admin" not in caller.scopes:
        params["project"] = caller.project
    return parts.ledger.call("GET", "/usage", params=params)[1]


@router.get("/forecast")
def forecast(parts: Parts, caller: Billing, tenant: str | None = None) -> Any:
    """What the present month is likely to come to: {so_far, expected, low, high, confidence, days,
    currency, lines}. low and high hold 80 of 100 months; null when fewer than two days were
    seen."""
    who = tenant_scope(caller, tenant).tenant
    return parts.ledger.call("GET", "/forecast", params={"tenant": who})[1]


@router.post("/reconciliations", status_code=201)
def reconcile(parts: Parts, caller: Admin, body: Body) -> Any:
    """Compare records, invoices and ledger now: {period?: "2026-11" | {from, to}}, by default from
    last month on. Answers with every difference and its numbers; each raises an alarm."""
    known(body, ("period",))
    period = body.get("period")
    asked = {} if period is None else {"period": checked_period(period)}
    return parts.ledger.call("POST", "/reconciliations", body=asked, timeout_s=RECOUNT_S)[1]


@router.get("/reconciliations")
def reconciliations(parts: Parts, caller: Admin) -> Any:
    """The last thirty comparisons, newest first."""
    return parts.ledger.call("GET", "/reconciliations")[1]
