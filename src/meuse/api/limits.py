"""Limits and budgets: who may set them on what, how much is left.

A key that is no administrator's limits what is its own: its project's requests, keys and
deployments. What an administrator has set, only an administrator takes away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from meuse.api.context import Body, Control, Parts, requires
from meuse.core.clock import now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid, not_found
from meuse.core.ids import check_name, new_id
from meuse.core.nouns import Deployment, Limit, LimitRecord, Principal, Scope, Spent
from meuse.meter import terms

router = APIRouter(prefix="/api", tags=["limits"])
Keys = Annotated[Principal, requires("keys")]

MOST = 2048
"""Limits and budgets of a platform: half of what a host's file holds, so that those that were
just deleted never stand in the way of new ones."""
MOST_OWN = 256
"""Those that the keys of one tenant make, unless it is an administrator."""

_UNUSED = Spent(0, 0, None)


def _limit(record: LimitRecord) -> dict[str, Any]:
    limit = record.limit
    rule: dict[str, Any] = {"concurrency": limit.amount}
    if limit.kind == "rate":
        rule = {"requests": limit.amount, "per": limit.period, "burst": limit.burst}
    return {"id": limit.id, **_subjects(limit), **rule, "created": to_rfc3339(record.created_ms)}


def _budget(record: LimitRecord, spent: Spent) -> dict[str, Any]:
    limit = record.limit
    return {
        "id": limit.id,
        **_subjects(limit),
        "meter": limit.meter,
        "limit": limit.amount,
        "period": limit.period,
        "hard": limit.hard,
        "used": spent.used,
        "in_flight": spent.reserved,
        "remaining": max(limit.amount - spent.used, 0),
        "resets": None if spent.resets_ms is None else to_rfc3339(spent.resets_ms),
        "created": to_rfc3339(record.created_ms),
    }


def _subjects(limit: Limit) -> dict[str, str | None]:
    return {name: getattr(limit, name) for name in terms.SUBJECTS}


@router.post("/limits", status_code=201)
def make_limit(parts: Parts, caller: Keys, body: Body) -> JSONResponse:
    """Limit the requests of {tenant?, project?, key?, model?} (all that are given must match)
    to {requests, per: second|minute|hour, burst?} or to {concurrency} at once."""
    record = _made(parts, caller, body, "limit", terms.parse_limit(body))
    return JSONResponse({**_limit(record), "published": parts.reconciler.publish()}, 201)


@router.get("/limits")
def list_limits(parts: Parts, caller: Keys) -> dict[str, Any]:
    return {"items": [_limit(r) for r in _seen(parts, caller) if r.limit.kind != "budget"]}


@router.delete("/limits/{limit_id}")
def delete_limit(parts: Parts, caller: Keys, limit_id: str) -> dict[str, Any]:
    _delete(parts, caller, limit_id, "limit")
    return {"id": limit_id, "published": parts.reconciler.publish()}


@router.post("/budgets", status_code=201)
def make_budget(parts: Parts, caller: Keys, body: Body) -> JSONResponse:
    """Give {tenant?, project?, key?, model?} a budget of {limit} units of {meter:
    requests|rows|training_ms} per {period: minute|day|month|total, UTC}, counted from now on.
    Beyond it requests are refused with 402 and jobs stop at a checkpoint, unless {hard: false}.
    Jobs (of no key) spend rows when they predict, and the milliseconds of their training."""
    record = _made(parts, caller, body, "budget", terms.parse_budget(body))
    published = parts.reconciler.publish()
    spent = parts.spent([record.limit])[record.limit.id]
    return JSONResponse({**_budget(record, spent), "published": published}, 201)


@router.get("/budgets")
def list_budgets(parts: Parts, caller: Keys) -> dict[str, Any]:
    """What is used is what this host's workers have counted: ahead of the ledger's usage."""
    records = [r for r in _seen(parts, caller) if r.limit.kind == "budget"]
    spent = parts.spent([r.limit for r in records])
    return {"items": [_budget(r, spent.get(r.limit.id, _UNUSED)) for r in records]}


@router.delete("/budgets/{budget_id}")
def delete_budget(parts: Parts, caller: Keys, budget_id: str) -> dict[str, Any]:
    """Take a budget away; one that is made anew counts from zero."""
    _delete(parts, caller, budget_id, "budget")
    return {"id": budget_id, "published": parts.reconciler.publish()}


def _made(
    parts: Control, caller: Principal, body: Mapping[str, Any], prefix: str, rule: dict[str, Any]
) -> LimitRecord:
    subjects = _resolve(parts, caller, body)
    admin = "admin" in caller.scopes
    limit = Limit(id=new_id(prefix), **rule, **subjects)
    record = LimitRecord(limit, caller.scope, admin, now_ms())
    parts.limits.add(record, MOST, MOST if admin else MOST_OWN)
    return record


def _resolve(parts: Control, caller: Principal, body: Mapping[str, Any]) -> dict[str, Any]:
    """Subjects that exist, agree with each other and are the caller's to limit."""
    admin = "admin" in caller.scopes
    given = {name: body.get(name) for name in terms.SUBJECTS}
    if all(value is None for value in given.values()):
        raise invalid("tenant", "nobody is limited", f"Name one of: {', '.join(terms.SUBJECTS)}.")
    if given["project"] is not None and given["tenant"] is None:
        given["tenant"] = caller.tenant
    for name, mine in (("tenant", caller.tenant), ("project", caller.project)):
        if given[name] is not None and check_name(given[name], name) != mine and not admin:
            raise MeuseError(
                Code.FORBIDDEN, f"only an administrator limits another {name}", field=name
            )
    if given["tenant"] is not None:
        parts.tenancy.store.tenant(given["tenant"])
    own = _check_key(parts, caller, given)
    if given["model"] is not None:
        deployment = _deployment(parts, caller, given)
        given["model"] = deployment.full_name
        own = own or deployment.scope == caller.scope
    if not admin and not own:
        # Of a tenant's requests, or those to a deployment of others, one's own project's.
        given |= {"tenant": caller.tenant, "project": caller.project}
    return given


def _check_key(parts: Control, caller: Principal, given: Mapping[str, Any]) -> bool:
    """Whether a key is named; it must exist, be of that tenant and project, and be seen."""
    if given["key"] is None:
        return False
    key = parts.tenancy.store.key(given["key"]) if isinstance(given["key"], str) else None
    if key is None or ("admin" not in caller.scopes and key.scope != caller.scope):
        raise not_found("key", str(given["key"]))
    for name, its in (("tenant", key.scope.tenant), ("project", key.scope.project)):
        if given[name] not in (None, its):
            raise invalid(name, f"the key is of the {name} {its!r}", "Leave it out.")
    return True


def _deployment(parts: Control, caller: Principal, given: Mapping[str, Any]) -> Deployment:
    """A deployment by its name: the limited tenant's, else the caller's, or "owner/name"."""
    model = given["model"]
    if not isinstance(model, str):
        raise invalid("model", f"{model!r} is not a deployment")
    names = [model]
    if "/" not in model:
        names = [f"{owner}/{model}" for owner in (given["tenant"], caller.tenant) if owner]
    by_name = {d.full_name: d for d in parts.deployments.list(None)}
    for name in names:
        found = by_name.get(name)
        if found is not None and (
            "admin" in caller.scopes
            or found.scope.tenant == caller.tenant
            or not {caller.tenant, "*"}.isdisjoint(found.access)
        ):
            return found
    raise not_found("model", model, "Name a deployment of yours, or owner/name.")


def _seen(parts: Control, caller: Principal) -> list[LimitRecord]:
    """Those the caller made or meets; all for an administrator."""
    records = parts.limits.list()
    if "admin" in caller.scopes:
        return records
    keys = {key.id for key in parts.tenancy.store.keys(caller.scope)}
    return [r for r in records if r.scope == caller.scope or _meets(r.limit, caller.scope, keys)]


def _meets(limit: Limit, scope: Scope, keys: set[str]) -> bool:
    if limit.tenant is None and limit.key is None:  # all callers of a deployment: its owner's
        return limit.model is not None and limit.model.startswith(f"{scope.tenant}/")
    return (
        limit.tenant in (None, scope.tenant)
        and limit.project in (None, scope.project)
        and (limit.key is None or limit.key in keys)
    )


def _delete(parts: Control, caller: Principal, limit_id: str, kind: str) -> None:
    found = next((r for r in _seen(parts, caller) if r.limit.id == limit_id), None)
    if found is None or (found.limit.kind == "budget") != (kind == "budget"):
        raise not_found(kind, limit_id)
    if "admin" not in caller.scopes and (found.by_admin or found.scope != caller.scope):
        raise MeuseError(
            Code.FORBIDDEN,
            f"this {kind} was set by somebody else",
            field=kind,
            hint="Ask an administrator.",
        )
    parts.limits.delete(limit_id)
