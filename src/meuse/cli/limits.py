"""The verbs of limits, budgets, and who is told when one nears its end."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meuse.cli.shared import Json, connect, say, table
from meuse.core.errors import invalid


def limits(
    requests: Annotated[int | None, typer.Option(help="Limit to so many per --per.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Limit to so many per --per.")] = None,
    per: Annotated[str, typer.Option(help="second, minute or hour.")] = "minute",
    burst: Annotated[int | None, typer.Option(help="At most so many at once.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Limit to so many in flight.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Units of --meter per --period; of cost an amount: 12.50.")
    ] = None,
    meter: Annotated[
        str, typer.Option(help="requests, rows, prompt_tokens, …, or cost.")
    ] = "requests",
    currency: Annotated[str | None, typer.Option(help="Of a budget of cost: EUR.")] = None,
    period: Annotated[str, typer.Option(help="minute, day, month or total.")] = "month",
    hard: Annotated[bool, typer.Option(help="Refuse what is beyond the budget.")] = True,
    tenant: Annotated[str | None, typer.Option(help="Whose requests.")] = None,
    project: Annotated[str | None, typer.Option(help="Of which project.")] = None,
    key: Annotated[str | None, typer.Option(help="By which key (its id).")] = None,
    model: Annotated[str | None, typer.Option(help="To which deployment.")] = None,
    remove: Annotated[str | None, typer.Option(help="Take away the one of this id.")] = None,
    recount: Annotated[
        str | None, typer.Option(help="Count the budget of this id again by its records.")
    ] = None,
    json_: Json = False,
) -> None:
    """List limits and budgets; set, recount or remove one."""
    named = {"tenant": tenant, "project": project, "key": key, "model": model}
    whom: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    with connect() as client:
        if remove is not None:
            say(f"{remove} is gone", client.remove_limit(remove), json_)
        elif recount is not None:
            made = client.recount(recount)
            say(_recounted(made), made, json_)
        elif budget is not None:
            more = {"currency": currency} if currency is not None else {}
            units = budget if meter == "cost" else _whole(budget)
            made = client.budget(**whom, **more, meter=meter, limit=units, period=period, hard=hard)
            span = "in total" if period == "total" else f"per {period}"
            say(f"{made['id']}: {made['limit']} {currency or meter} {span}", made, json_)
        elif concurrency is not None:
            made = client.limit(**whom, concurrency=concurrency)
            say(f"{made['id']}: {concurrency} at once", made, json_)
        elif requests is not None or tokens is not None:
            what, most = ("tokens", tokens) if requests is None else ("requests", requests)
            made = client.limit(**whom, **{what: most}, per=per, burst=burst)
            say(f"{made['id']}: {most} {what} per {per}", made, json_)
        else:
            found = client.limits() + client.budgets()
            rule = ["requests", "tokens", "per", "burst", "concurrency", "limit", "meter",
                    "currency", "period", "used", "remaining"]  # fmt: skip
            table(found, ["id", *named, *rule], json_)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise invalid("limit", f"{text!r} is not a whole number", "Or use --meter cost.") from None


def _recounted(made: dict[str, Any]) -> str:
    again = made["recounted"]
    told = (
        f"{made['id']}: {made['used']} used, {made['in_flight']} in flight, "
        f"{made['remaining']} left; by its records {again['used']} used and "
        f"{again['remaining']} left (difference {made['difference']})"
    )
    for meter, quantity in again["unrated"].items():
        told += f"\nunrated: {quantity} {meter}"
    return told


webhooks = typer.Typer(help="Who is told when a budget nears its end.", no_args_is_help=True)


@webhooks.command("list")
def list_(json_: Json = False) -> None:
    """Those that there are."""
    with connect() as client:
        table(client.webhooks(), ["id", "tenant", "url", "disabled", "created"], json_)


@webhooks.command()
def add(
    url: Annotated[str, typer.Argument(help="https, a public host.")],
    everyone: Annotated[
        bool, typer.Option("--everyone", help="Of all tenants (administrator).")
    ] = False,
    json_: Json = False,
) -> None:
    """Tell a URL of alerts; prints the secret that they are signed with."""
    with connect() as client:
        made = client.add_webhook(url, **({"tenant": "*"} if everyone else {}))
        say(f"{made['id']}\n{made['secret']}\nThe secret is shown this once.", made, json_)


@webhooks.command()
def remove(id: Annotated[str, typer.Argument()], json_: Json = False) -> None:
    """Tell it nothing any more."""
    with connect() as client:
        say(f"{id} is gone", client.remove_webhook(id), json_)


@webhooks.command("test")
def try_(id: Annotated[str, typer.Argument()], json_: Json = False) -> None:
    """Send it a message to see whether it takes it."""
    with connect() as client:
        sent = client.test_webhook(id)
        say(f"{sent['message']} is on its way: see meuse webhooks deliveries {id}", sent, json_)


@webhooks.command()
def deliveries(id: Annotated[str, typer.Argument()], json_: Json = False) -> None:
    """What it was sent, the newest first, and what became of it."""
    with connect() as client:
        found = client.deliveries(id)
        table(found, ["message", "status", "attempts", "answer", "next", "created"], json_)
