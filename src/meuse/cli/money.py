"""The verbs of who may call and what it costs: keys, usage, invoices."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

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
