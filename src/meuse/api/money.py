"""Usage: checks who may see what, then asks the ledger."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from meuse.api.context import Parts, requires, tenant_scope
from meuse.core.nouns import Principal

router = APIRouter(prefix="/api", tags=["money"])
Usage = Annotated[Principal, requires("usage")]


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
