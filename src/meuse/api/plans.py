"""Plans: what is paid for, and what usage would have come to under another one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from meuse.access import plan_body
from meuse.api.context import Body, Control, Parts, requires, tenant_scope
from meuse.core.clock import to_rfc3339
from meuse.core.errors import invalid, not_found
from meuse.core.fields import integer, known
from meuse.core.nouns import PlanVersion, Principal
from meuse.core.plans import price_body, terms_body

router = APIRouter(prefix="/api/plans", tags=["money"])
Admin = Annotated[Principal, requires("admin")]
Billing = Annotated[Principal, requires("billing")]


def _plan(plan: PlanVersion) -> dict[str, Any]:
    return {
        "name": plan.name,
        "version": plan.version,
        "currency": plan.currency,
        "prices": [price_body(price) for price in plan.prices],
        **terms_body(plan),
        "created": to_rfc3339(plan.created_ms),
    }


def _check_visible(parts: Control, caller: Principal, name: str) -> None:
    """Raises `not_found` for a plan that does not concern the caller."""
    if "admin" not in caller.scopes and parts.tenancy.store.tenant(caller.tenant).plan != name:
        raise not_found("plan", name)


@router.put("/{name}")
def put_plan(parts: Parts, caller: Admin, name: str, body: Body) -> dict[str, Any]:
    """A plan {currency, prices: [{meter, model?, per?, amount}], …} by the schema that
    `GET /api/plans` shows; changed, it becomes the next version. Usage is rated by the version
    that held when it was recorded."""
    made = parts.tenancy.put_plan(name, body)
    return _plan(made) | {"published": parts.reconciler.publish()}


@router.get("")
def list_plans(parts: Parts, caller: Billing) -> dict[str, Any]:
    """Every version of the plans that concern the caller: all for an administrator, the
    tenant's own for others. `schema` is the JSON schema of a plan's body."""
    shown = parts.tenancy.plans.plans()
    if "admin" not in caller.scopes:
        mine = parts.tenancy.store.tenant(caller.tenant).plan
        shown = [plan for plan in shown if plan.name == mine]
    return {"items": [_plan(plan) for plan in shown], "schema": plan_body.schema()}


@router.get("/{name}")
def one_plan(
    parts: Parts,
    caller: Billing,
    name: str,
    version: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
) -> dict[str, Any]:
    """The latest version, or the one asked for."""
    _check_visible(parts, caller, name)
    return _plan(parts.tenancy.plans.plan(name, version))


@router.post("/{name}/what-if")
def what_if(parts: Parts, caller: Billing, name: str, body: Body) -> Any:
    """What {tenant?, period: "2026-11" | {from, to}} would have come to under this plan (its
    `version`, or the latest), beside what it came to. Nothing is stored."""
    _check_visible(parts, caller, name)
    known(body, ("tenant", "period", "version"))
    tenant = body.get("tenant")
    if tenant is not None and not isinstance(tenant, str):
        raise invalid("tenant", f"{tenant!r} is not a tenant")
    who = tenant_scope(caller, tenant).tenant
    version = body.get("version")
    number = None if version is None else integer("version", version, 1, 2**31 - 1)
    plan = parts.tenancy.plans.plan(name, number)
    asked = {"tenant": who, "plan": plan.ref, "period": checked_period(body.get("period"))}
    return parts.ledger.call("POST", "/what-if", body=asked)[1]


def checked_period(period: object) -> Any:
    """A period that the ledger can parse. Raises `invalid_field`."""
    bounds = list(period.values()) if isinstance(period, dict) else [period]
    if not all(isinstance(bound, str) for bound in bounds):
        told = 'Use "2026-11" or {"from": …, "to": …} in RFC 3339.'
        raise invalid("period", f"{period!r} is not a period", told)
    return period
