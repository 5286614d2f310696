"""Verbs of plans: list, show, put, what-if."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

import typer

from meuse.cli.shared import Json, connect, json_of, say, table

app = typer.Typer(help="What usage costs.", no_args_is_help=True)

LINE = ["kind", "name", "meter", "model", "tier", "quantity", "unit_price", "per", "amount"]
"""The columns of an invoice's lines."""


@app.command("list")
def list_(json_: Json = False) -> None:
    """Every version of the plans."""
    with connect() as client:
        table(client.plans(), ["name", "version", "currency", "prices", "created"], json_)


@app.command()
def show(
    name: Annotated[str, typer.Argument()],
    version: Annotated[int | None, typer.Option(help="By default the latest.")] = None,
) -> None:
    """One plan, as JSON."""
    with connect() as client:
        print(json.dumps(client.plan(name, version), indent=1))


@app.command()
def put(
    name: Annotated[str, typer.Argument()],
    plan: Annotated[str, typer.Argument(help="JSON, or a file whose name ends in .json.")],
    json_: Json = False,
) -> None:
    """Make a plan, or its next version."""
    body = json_of("plan", plan)
    with connect() as client:
        made = client.call("PUT", f"/api/plans/{quote(name)}", json=body)
    say(f"{made['name']}:{made['version']}", made, json_)


@app.command("what-if")
def what_if(
    name: Annotated[str, typer.Argument(help="The plan.")],
    tenant: Annotated[str | None, typer.Option(help="Another tenant (administrator).")] = None,
    period: Annotated[str | None, typer.Option(help="YYYY-MM; by default last month.")] = None,
    version: Annotated[int | None, typer.Option(help="By default the latest.")] = None,
    json_: Json = False,
) -> None:
    """What a month would have come to under a plan."""
    last = datetime.now(UTC).replace(day=1) - timedelta(days=1)
    given: dict[str, Any] = {"tenant": tenant, "version": version}
    with connect() as client:
        told = client.what_if(
            name,
            period or last.strftime("%Y-%m"),
            **{name: value for name, value in given.items() if value is not None},
        )
    if json_:
        print(json.dumps(told, indent=1))
        return
    table(told["what_if"]["lines"], LINE, False)
    for row in told["what_if"]["unrated"]:
        print(f"unrated: {row['quantity']} {row['meter']} of {row['model']}: {row['reason']}")
    actual, other = told["actual"], told["what_if"]
    print(f"as it was        {actual['total']} {actual['currency']}")
    print(f"under {told['plan']:10} {other['total']} {other['currency']}")
    if told["difference"] is not None:
        print(f"difference       {told['difference']} {other['currency']}")
