"""The verbs of who may call and what it costs: keys, limits, usage, invoices."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from meuse.cli import plans
from meuse.cli.shared import (
    Json,
    connect,
    say,
    table,
)


def usage(
    start: Annotated[str | None, typer.Option("--from", help="RFC 3339, inclusive.")] = None,
    to: Annotated[str | None, typer.Option(help="RFC 3339, exclusive.")] = None,
    by: Annotated[str, typer.Option(help="Grouping.")] = "day,model,meter",
    tenant: Annotated[str | None, typer.Option(help="Another tenant (administrator).")] = None,
    json_: Json = False,
) -> None:
    """What was used."""
    given = {"from": start, "to": to, "by": by, "tenant": tenant}
    query = {name: value for name, value in given.items() if value is not None}
    with connect() as client:
        answer = client.usage(fresh=True, **query)
    if json_:
        print(json.dumps(answer, indent=1))
    else:
        table(answer["rows"], [*by.split(","), "quantity"], False)
        print(f"complete to {answer['complete_to']}")


def invoice(
    tenant: Annotated[str, typer.Argument(help="Who pays.")],
    period: Annotated[str | None, typer.Option(help="YYYY-MM; by default this month.")] = None,
    unrated_as: Annotated[
        str | None, typer.Option(help="Plan version that rates usage without a price: basic:2.")
    ] = None,
    json_: Json = False,
) -> None:
    """Make the invoice of a tenant (a draft, rated anew each time, while the period is open)."""
    with connect() as client:
        wanted = period or datetime.now(UTC).strftime("%Y-%m")
        made = client.invoice(tenant, wanted, unrated_as)
    if json_:
        print(json.dumps(made, indent=1))
        return
    print(f"{made['status']} {made['number'] or made['id']} for {tenant}")
    table(made["lines"], plans.LINE, False)
    print(f"total {made['total']} {made['currency']}")
    for row in made["unrated"]:
        print(f"unrated: {row['quantity']} {row['meter']} of {row['model']}: {row['reason']}")
    for reason in made["draft_because"]:
        print(f"a draft: {reason}")


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


def limits(
    requests: Annotated[int | None, typer.Option(help="Limit to so many per --per.")] = None,
    per: Annotated[str, typer.Option(help="second, minute or hour.")] = "minute",
    burst: Annotated[int | None, typer.Option(help="At most so many at once.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Limit to so many in flight.")] = None,
    budget: Annotated[int | None, typer.Option(help="Units of --meter per --period.")] = None,
    meter: Annotated[str, typer.Option(help="requests or rows.")] = "requests",
    period: Annotated[str, typer.Option(help="minute, day, month or total.")] = "month",
    hard: Annotated[bool, typer.Option(help="Refuse what is beyond the budget.")] = True,
    tenant: Annotated[str | None, typer.Option(help="Whose requests.")] = None,
    project: Annotated[str | None, typer.Option(help="Of which project.")] = None,
    key: Annotated[str | None, typer.Option(help="By which key (its id).")] = None,
    model: Annotated[str | None, typer.Option(help="To which deployment.")] = None,
    remove: Annotated[str | None, typer.Option(help="Take away the one of this id.")] = None,
    json_: Json = False,
) -> None:
    """List limits and budgets; set or remove one."""
    named = {"tenant": tenant, "project": project, "key": key, "model": model}
    whom: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    with connect() as client:
        if remove is not None:
            say(f"{remove} is gone", client.remove_limit(remove), json_)
        elif budget is not None:
            made = client.budget(**whom, meter=meter, limit=budget, period=period, hard=hard)
            span = "in total" if period == "total" else f"per {period}"
            say(f"{made['id']}: {budget} {meter} {span}", made, json_)
        elif concurrency is not None:
            made = client.limit(**whom, concurrency=concurrency)
            say(f"{made['id']}: {concurrency} at once", made, json_)
        elif requests is not None:
            made = client.limit(**whom, requests=requests, per=per, burst=burst)
            say(f"{made['id']}: {requests} requests per {per}", made, json_)
        else:
            found = client.limits() + client.budgets()
            rule = ["requests", "per", "burst", "concurrency", "limit", "meter", "period", "used"]
            table(found, ["id", *named, *rule], json_)
