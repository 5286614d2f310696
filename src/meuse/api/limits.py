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
from meuse.core.micros import money_text
from meuse.core.nouns import COST, Deployment, Limit, LimitRecord, Principal, Scope, Spent
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
        rule = {limit.meter: limit.amount, "per": limit.period, "burst": limit.burst}
    return {"id": limit.id, **_subjects(limit), **rule, "created": to_rfc3339(record.created_ms)}


def _budget(limit: Limit, spent: Spent) -> dict[str, Any]:
    """Money is decimal text in `currency`; `set_aside` of it is for what the plan owes beside the
    price of units. A prepaid one has as `limit` what was paid in since it began."""
    is_money = limit.meter == COST
    currency = {"currency": limit.currency} if is_money else {}
    aside = {"set_aside": _amount(limit, limit.aside)} if is_money and not limit.moves else {}
    return {
        "id": limit.id,
        **_subjects(limit),
        "meter": limit.meter,
        "limit": _amount(limit, spent.most if limit.moves else limit.amount),
        **currency,
        **aside,
        "period": limit.period,
        "hard": limit.hard,
        "prepaid": limit.moves,
        "used": _amount(limit, spent.used),
        "in_flight": _amount(limit, spent.reserved),
        "remaining": _amount(limit, max(_most(limit, spent) - spent.used, 0)),
        "resets": None if spent.resets_ms is None else to_rfc3339(spent.resets_ms),
        "created": to_rfc3339(limit.since_ms),
    }


def _most(limit: Limit, spent: Spent) -> int:
    return spent.most if limit.moves else limit.amount - limit.aside


def _amount(limit: Limit, units: int) -> int | str:
    return money_text(units, limit.currency) if limit.meter == COST else units


def _subjects(limit: Limit) -> dict[str, str | None]:
    return {name: getattr(limit, name) for name in terms.SUBJECTS}


@router.post("/limits", status_code=201)
def make_limit(parts: Parts, caller: Keys, body: Body) -> JSONResponse:
    """Limit the requests of {tenant?, project?, key?, model?} (all that are given must match)
    to {requests | tokens, per: second|minute|hour, burst?} or to {concurrency} at once. Tokens
    are those of prompt and answer: reserved at the door, corrected by what was used."""
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
    """Give {tenant?, project?, key?, model?} a budget of {limit} units of {meter: requests|rows|
    prompt_tokens|completion_tokens|training_ms|training_tokens}, or of money {meter: "cost",
    limit: "12.50", currency}, per {period: minute|day|month|total, UTC}, counted from now on.
    Beyond it requests are refused with 402 and jobs stop at a checkpoint, unless {hard: false}.
    Jobs (of no key) spend rows when they predict, and the time and tokens of their training.
    Money counts the highest price of the payer's plan; work without a price is refused."""
    rule = terms.parse_budget(body)
    record = _made(parts, caller, body, "budget", rule)
    published = parts.reconciler.publish()
    limit = next(one for one in parts.budgets() if one.id == record.limit.id)
    spent = parts.spent([limit])[limit.id]
    return JSONResponse({**_budget(limit, spent), "published": published}, 201)


@router.get("/budgets")
def list_budgets(parts: Parts, caller: Keys) -> dict[str, Any]:
    """What is used is what this host's workers have counted: ahead of the ledger's usage. The
    prepaid balance of a tenant is one of them, which nobody makes or deletes."""
    found = seen_budgets(parts, caller)
    spent = parts.spent(found)
    return {"items": [_budget(limit, spent.get(limit.id, _UNUSED)) for limit in found]}


@router.get("/budgets/{budget_id}/recount")
def recount(parts: Parts, caller: Keys, budget_id: str) -> dict[str, Any]:
    """A budget as its host has it, and beside it what it comes to by the ledger's records:
    `remaining` is limit - used - in_flight, on both sides. `difference` is what the host has
    counted more; it is 0 when nothing is in flight, but for lines of batches that were asked
    twice, the fraction of a millionth per process, and usage within milliseconds of a period's
    end. `unrated` is usage that a budget of money cannot count."""
    limit = next((one for one in seen_budgets(parts, caller) if one.id == budget_id), None)
    if limit is None:
        raise not_found("budget", budget_id)
    told = parts.ledger.call("GET", f"/budgets/{budget_id}")[1]
    spent = parts.spent([limit])[limit.id]
    most = _most(limit, spent)
    by_records = {
        "used": _amount(limit, told["used"]),
        "remaining": _amount(limit, max(most - told["used"] - spent.reserved, 0)),
        "from": to_rfc3339(told["start_ms"]),
        "complete_to": to_rfc3339(told["complete_to_ms"]),
        "unrated": told["unrated"],
    }
    host = _budget(limit, spent)
    host["remaining"] = _amount(limit, max(most - spent.used - spent.reserved, 0))
    difference = _amount(limit, spent.used - told["used"])
    return {**host, "recounted": by_records, "difference": difference}


@router.delete("/budgets/{budget_id}")
def delete_budget(parts: Parts, caller: Keys, budget_id: str) -> dict[str, Any]:
    """Take a budget away; one that is made anew counts from zero."""
    _delete(parts, caller, budget_id, "budget")
    return {"id": budget_id, "published": parts.reconciler.publish()}


def seen_budgets(parts: Control, caller: Principal) -> list[Limit]:
    """Those that the caller made or meets; all for an administrator."""
    seen = {r.limit.id for r in _seen(parts, caller)}
    admin = "admin" in caller.scopes
    return [
        limit
        for limit in parts.budgets()
        if limit.kind == "budget"
        and (limit.id in seen or (limit.moves and (admin or limit.tenant == caller.tenant)))
    ]


def _made(
    parts: Control, caller: Principal, body: Mapping[str, Any], prefix: str, rule: dict[str, Any]
) -> LimitRecord:
    subjects = _resolve(parts, caller, body)
    _check_currency(parts, subjects, rule.get("currency", ""))
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


def _check_currency(parts: Control, subjects: Mapping[str, Any], currency: str) -> None:
    """A budget of money that its payer could never be counted by is refused."""
    payer = subjects["tenant"]
    if payer is None and subjects["key"] is not None:
        key = parts.tenancy.store.key(subjects["key"])
        payer = None if key is None else key.scope.tenant
    plan = None if payer is None or not currency else parts.tenancy.plan_of(payer)
    if plan is not None and plan.currency != currency:
        raise invalid(
            "currency",
            f"tenant {payer!r} pays by plan {plan.name!r} in {plan.currency}",
            f"Use {plan.currency}.",
        )


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
