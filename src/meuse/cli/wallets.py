"""Verbs of prepaid credit: list, show, open, topup, refund, hold, capture,
release, entries."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import uuid4

import typer

from meuse.cli.shared import Json, connect, say, table

app = typer.Typer(help="Prepaid credit.", no_args_is_help=True)

Wallet = Annotated[str, typer.Argument(help="The wallet's id.")]
Hold = Annotated[str, typer.Argument(help="The hold's id.")]
Amount = Annotated[str, typer.Argument(help="Decimal text in the wallet's currency: 100.00.")]
Reference = Annotated[
    str | None,
    typer.Option(help="Booked once, such as the number of the payment; by default a new one."),
]
SUMS = ["available", "held", "granted", "spent", "expired", "refunded"]


@app.command("list")
def list_(
    tenant: Annotated[
        str | None, typer.Option(help="Another tenant, or * for all (administrator).")
    ] = None,
    json_: Json = False,
) -> None:
    """The wallets of a tenant."""
    with connect() as client:
        table(client.wallets(tenant), ["id", "tenant", "currency", *SUMS], json_)


@app.command()
def show(wallet: Wallet, json_: Json = False) -> None:
    """What is in a wallet; its grants in the order in which they are spent."""
    with connect() as client:
        found = client.wallet(wallet)
    if json_:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['id']} of {found['tenant']}, {found['currency']}")
    for name in SUMS:
        print(f"{name:10} {found[name]:>14}")
    columns = ["id", "kind", "priority", "amount", "left", "held", "expires", "reference"]
    table(found["grants"], columns, False)


@app.command("open")
def open_(
    tenant: Annotated[str, typer.Argument(help="Whose credit it is.")],
    currency: Annotated[str, typer.Argument(help="ISO 4217, such as EUR.")],
    json_: Json = False,
) -> None:
    """Open a tenant's wallet in a currency, or show the one that there is."""
    with connect() as client:
        made = client.open_wallet(tenant, currency)
    say(made["id"], made, json_)


@app.command()
def topup(
    wallet: Wallet,
    amount: Amount,
    reference: Reference = None,
    granted: Annotated[bool, typer.Option(help="A gift: nobody paid for it.")] = False,
    priority: Annotated[int, typer.Option(help="Of a lower one it is spent earlier.")] = 0,
    expires: Annotated[str | None, typer.Option(help="RFC 3339; by default never.")] = None,
    json_: Json = False,
) -> None:
    """Put credit into a wallet."""
    terms: dict[str, Any] = {"kind": "granted" if granted else "purchased", "priority": priority}
    if expires is not None:
        terms["expires"] = expires
    with connect() as client:
        made = client.top_up(wallet, amount, reference or uuid4().hex, **terms)
    say(f"{made['id']}: {made['amount']}, {_left(made['wallet'])}", made, json_)


@app.command()
def refund(
    wallet: Wallet,
    amount: Amount,
    reference: Reference = None,
    grant: Annotated[str | None, typer.Option(help="Of this grant alone.")] = None,
    json_: Json = False,
) -> None:
    """Pay back purchased credit that is not spent."""
    with connect() as client:
        made = client.refund(wallet, amount, reference or uuid4().hex, grant)
    say(f"{made['id']}: {amount} paid back, {_left(made['wallet'])}", made, json_)


@app.command()
def hold(wallet: Wallet, amount: Amount, reference: Reference = None, json_: Json = False) -> None:
    """Set credit aside for work under way."""
    with connect() as client:
        made = client.hold(wallet, amount, reference or uuid4().hex)
    say(f"{made['id']}: {made['held']} held, {_left(made['wallet'])}", made, json_)


@app.command()
def capture(
    wallet: Wallet,
    hold: Hold,
    amount: Amount,
    reference: Reference = None,
    json_: Json = False,
) -> None:
    """Take a part of a hold for good: it pays for the next invoice."""
    with connect() as client:
        made = client.capture(wallet, hold, amount, reference or uuid4().hex)
    say(f"{made['id']}: {made['held']} held still, {_left(made['wallet'])}", made, json_)


@app.command()
def release(wallet: Wallet, hold: Hold, json_: Json = False) -> None:
    """Give back what a hold still holds."""
    with connect() as client:
        made = client.release(wallet, hold)
    say(f"{made['id']}: {made['held']} held, {_left(made['wallet'])}", made, json_)


@app.command()
def entries(
    wallet: Wallet,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    json_: Json = False,
) -> None:
    """What was booked, newest first."""
    more = {} if cursor is None else {"cursor": cursor}
    with connect() as client:
        page = client.wallet_entries(wallet, limit=limit, **more)
    if json_:
        print(json.dumps(page, indent=1))
        return
    table(page["items"], ["effective", "kind", "amount", "reference", "id"], False)
    if page["next"] is not None:
        print(f"more: --cursor {page['next']}")


def _left(wallet: dict[str, Any]) -> str:
    return f"{wallet['available']} {wallet['currency']} available"
