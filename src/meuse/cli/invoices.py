"""Verbs of invoices: make, list, show, issue, pay, credit, void, and documents."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from meuse.cli import plans
from meuse.cli.shared import Json, connect, say, table
from meuse.core.errors import invalid


class _MakeByDefault(TyperGroup):
    """`meuse invoice acme` is `meuse invoice make acme`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["make", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(help="What is owed, and what was paid.", cls=_MakeByDefault, no_args_is_help=True)

Invoice = Annotated[str, typer.Argument(help="Id or number.")]
Day = Annotated[str | None, typer.Option(help="YYYY-MM-DD; by default today.")]
UnratedAs = Annotated[
    str | None, typer.Option(help="Plan version that rates usage without a price: basic:2.")
]
_FORMATS = ("html", "csv", "pdf")


@app.command()
def make(
    tenant: Annotated[str, typer.Argument(help="Who pays.")],
    period: Annotated[str | None, typer.Option(help="YYYY-MM; by default this month.")] = None,
    unrated_as: UnratedAs = None,
    json_: Json = False,
) -> None:
    """Make the invoice of a tenant (a draft, rated anew each time, while the period is open)."""
    with connect() as client:
        wanted = period or datetime.now(UTC).strftime("%Y-%m")
        made = client.invoice(tenant, wanted, unrated_as)
    _tell(made, json_)


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Another tenant, * for all.")] = None,
    status: Annotated[str | None, typer.Option(help="draft, issued, paid or void.")] = None,
    json_: Json = False,
) -> None:
    """Invoices, the newest period first."""
    with connect() as client:
        found = client.billing.invoices(tenant, status)
    columns = ["invoice", "tenant", "from", "status", "total", "due", "currency", "due_on"]
    rows = [
        {**one, "invoice": one["number"] or one["id"], "from": one["period"]["from"][:10]}
        for one in found
    ]
    table(found if json_ else rows, columns, json_)


@app.command()
def show(
    invoice: Invoice,
    format: Annotated[str | None, typer.Option(help="html, csv or pdf.")] = None,
    output: Annotated[Path | None, typer.Option(help="A file; by default NUMBER.FORMAT.")] = None,
    json_: Json = False,
) -> None:
    """An invoice; with --format its document, which is written to a file."""
    with connect() as client:
        if format is None:
            _tell(client.billing.invoice(invoice), json_)
            return
        if format not in _FORMATS:
            raise invalid("format", f"{format!r} is not a format", "Use html, csv or pdf.")
        _write(client.billing.document(invoice, format), output or Path(f"{invoice}.{format}"))


@app.command("credit-note")
def credit_note(
    note: Annotated[str, typer.Argument(help="Id or number.")],
    format: Annotated[str, typer.Option(help="html, csv or pdf.")] = "pdf",
    output: Annotated[Path | None, typer.Option(help="A file; by default NUMBER.FORMAT.")] = None,
) -> None:
    """Write the document of a credit note to a file."""
    if format not in _FORMATS:
        raise invalid("format", f"{format!r} is not a format", "Use html, csv or pdf.")
    with connect() as client:
        content = client.billing.credit_note_document(note, format)
    _write(content, output or Path(f"{note}.{format}"))


@app.command()
def issue(
    invoice: Annotated[str, typer.Argument(help="The draft's id.")],
    now: Annotated[bool, typer.Option("--now", help="Do not wait for late records.")] = False,
    unrated_as: UnratedAs = None,
    json_: Json = False,
) -> None:
    """Issue a draft: it gets its number and stays as it is."""
    with connect() as client:
        _tell(client.billing.issue(invoice, now=now, unrated_as=unrated_as), json_)


@app.command()
def pay(
    invoice: Invoice,
    amount: Annotated[str, typer.Argument(help="Decimal, such as 12.50.")],
    reference: Annotated[str, typer.Option(help="By what the payment is known.")],
    date: Day = None,
    back: Annotated[bool, typer.Option("--back", help="Money that was paid back.")] = False,
    json_: Json = False,
) -> None:
    """Tell of a payment; told twice under one reference, it counts once."""
    with connect() as client:
        tell = client.billing.pay_back if back else client.billing.pay
        answer = tell(invoice, amount, reference, date)
    say(_brief(answer["invoice"]), answer, json_)


@app.command()
def credit(
    invoice: Invoice,
    reason: Annotated[str, typer.Option(help="Why; it stands on the note.")],
    amount: Annotated[str | None, typer.Option(help="By default all that is left.")] = None,
    reference: Annotated[str | None, typer.Option(help="Told twice, it counts once.")] = None,
    json_: Json = False,
) -> None:
    """Make a credit note for an invoice."""
    with connect() as client:
        answer = client.billing.credit(invoice, reason, amount, reference)
    note = answer["credit_note"]
    text = f"{note['number']}: {note['total']} {note['currency']}\n{_brief(answer['invoice'])}"
    say(text, answer, json_)


@app.command()
def void(
    invoice: Invoice,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the invoice.")],
    json_: Json = False,
) -> None:
    """Take an invoice back; its number stays, its period can be invoiced again."""
    with connect() as client:
        made = client.billing.void(invoice, reason)
    say(f"{made['number']} is void", made, json_)


def _tell(made: dict[str, Any], json_: bool) -> None:
    if json_:
        print(json.dumps(made, indent=1))
        return
    print(f"{made['status']} {made['number'] or made['id']} for {made['tenant']}")
    table(made["lines"], plans.LINE, False)
    print(f"total {made['total']} {made['currency']}")
    for one in made.get("payments", []):
        print(f"{one['kind']} {one['amount']} on {one['date']}: {one['reference']}")
    for one in made.get("credit_notes", []):
        print(f"credit note {one['number']} {one['amount']}: {one['reason']}")
    if "void" in made:
        print(f"void: {made['void']['reason']}")
    elif "due" in made:
        print(f"due {made['due']} {made['currency']} by {made['due_on']}")
    for row in made["unrated"]:
        print(f"unrated: {row['quantity']} {row['meter']} of {row['model']}: {row['reason']}")
    for reason in made["draft_because"]:
        print(f"a draft: {reason}")


def _brief(invoice: dict[str, Any]) -> str:
    return (
        f"{invoice['number']} is {invoice['status']}, "
        f"{invoice['due']} of {invoice['total']} {invoice['currency']} due"
    )


def _write(content: bytes, path: Path) -> None:
    if str(path) == "-":
        sys.stdout.buffer.write(content)
        return
    path.write_bytes(content)
    print(f"{path}: {len(content):,} bytes")
