"""The verbs of who may call and what it costs: keys, usage, forecasts."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Annotated

import typer

from meuse.cli.shared import (
    Json,
    connect,
    say,
    table,
)

_COST = ["cost", "currency"]
_BY = "hour, day, week, month, model, meter, version, key, project, deployment, owner, tier."


def usage(
    start: Annotated[str | None, typer.Option("--from", help="RFC 3339, inclusive.")] = None,
    to: Annotated[str | None, typer.Option(help="RFC 3339, exclusive.")] = None,
    by: Annotated[str, typer.Option(help=_BY)] = "day,model,meter",
    tenant: Annotated[str | None, typer.Option(help="Another tenant (administrator).")] = None,
    cost: Annotated[bool, typer.Option("--cost", help="What it cost as well.")] = False,
    json_: Json = False,
) -> None:
    """What was used, and what it cost."""
    given = {"from": start, "to": to, "by": by, "tenant": tenant, "cost": cost or None}
    query = {name: value for name, value in given.items() if value is not None}
    with connect() as client:
        answer = client.usage(fresh=True, **query)
    if json_:
        print(json.dumps(answer, indent=1))
    else:
        table(answer["rows"], [*by.split(","), "quantity", *_COST[: 2 * cost]], False)
        for kind, amount in answer.get("owed", {}).items():
            print(f"{kind:9} {amount or '-'}")
        print(f"complete to {answer['complete_to']}")


def forecast(
    tenant: Annotated[str | None, typer.Option(help="Another tenant (administrator).")] = None,
    json_: Json = False,
) -> None:
    """What this month is likely to come to."""
    with connect() as client:
        told = client.billing.forecast(tenant)
    if json_:
        print(json.dumps(told, indent=1))
        return
    currency = told["currency"] or ""
    print(f"so far    {told['so_far'] or '-'} {currency}")
    print(f"expected  {told['expected'] or '-'} {currency}")
    if told["low"] is not None:
        share = int(Decimal(told["confidence"]) * 100)
        print(f"{share} of 100 months like this  {told['low']} to {told['high']} {currency}")
    print(f"of {told['days']} whole days")


def reconcile(
    period: Annotated[str | None, typer.Option(help="YYYY-MM; by default last month on.")] = None,
    json_: Json = False,
) -> None:
    """Compare records, invoices and ledger; exit status 1 when they differ."""
    with connect() as client:
        told = client.billing.reconcile(period)
    if json_:
        print(json.dumps(told, indent=1))
    else:
        rows = [{**one, **one.pop("where")} for one in told["differences"]]
        where = ["invoice", "line", "what", "meter", "model", "version", "tier", "plan"]
        columns = ["check", "tenant", *(n for n in where if any(n in row for row in rows))]
        if rows:
            table(rows, [*columns, "found", "expected"], False)
        for one in told["unrated"]:
            print(f"unrated: {one['quantity']} {one['meter']} of {one['model']} ({one['tenant']})")
        for name in told["skipped"]:
            print(f"not compared: {name}")
        print(f"{told['compared']['invoices']} invoices, {told['count']} differences")
    if told["count"]:
        raise typer.Exit(1)


def keys(
    new: Annotated[str | None, typer.Option(help="Make a key of this name.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="What it may do.")] = None,
    tenant: Annotated[str | None, typer.Option(help="For another tenant.")] = None,
    expires: Annotated[str | None, typer.Option(help="RFC 3339.")] = None,
    revoke: Annotated[str | None, typer.Option(help="Revoke the key of this id.")] = None,
    json_: Json = False,
) -> None:
    """List keys; make or revoke one."""
    with connect() as client:
        if revoke is not None:
            say(f"{revoke} is revoked", client.revoke_key(revoke), json_)
        elif new is not None:
            given = {"tenant": tenant, "expires": expires}
            more = {name: value for name, value in given.items() if value is not None}
            made = client.make_key(new, scope or ["infer"], **more)
            say(f"{made['key']}\nIt is shown this once.", made, json_)
        else:
            table(client.keys(), ["id", "name", "tenant", "scopes", "expires"], json_)
