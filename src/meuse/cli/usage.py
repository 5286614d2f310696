"""Verbs of usage: what was used, reporting it from outside, and looking after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from meuse.cli import money
from meuse.cli.shared import Json, connect, say, table
from meuse.core.errors import Code, MeuseError, invalid

app = typer.Typer(help="What was used; report usage from outside.", invoke_without_command=True)


@app.callback()
def usage(
    context: typer.Context,
    start: Annotated[str | None, typer.Option("--from", help="RFC 3339, inclusive.")] = None,
    to: Annotated[str | None, typer.Option(help="RFC 3339, exclusive.")] = None,
    by: Annotated[str, typer.Option(help="Grouping.")] = "day,model,meter",
    tenant: Annotated[str | None, typer.Option(help="Another tenant (administrator).")] = None,
    cost: Annotated[bool, typer.Option("--cost", help="What it cost as well.")] = False,
    json_: Json = False,
) -> None:
    """What was used, and what it cost."""
    if context.invoked_subcommand is None:
        money.usage(start, to, by, tenant, cost, json_)


@app.command()
def push(
    file: Annotated[Path, typer.Argument(help="CloudEvents: one, an array, or one a line.")],
    json_: Json = False,
) -> None:
    """Report usage of a service elsewhere; what was reported before counts once."""
    with connect() as client:
        done = client.push_usage(read_events(file))
    say(
        f"{done['accepted']} events accepted, {done['duplicates']} known already, "
        f"{len(done['late'])} billed in the open period",
        done,
        json_,
    )


@app.command()
def recount(
    start: Annotated[str, typer.Option("--from", help="RFC 3339, inclusive.")],
    to: Annotated[str, typer.Option(help="RFC 3339, exclusive.")],
    json_: Json = False,
) -> None:
    """Count raw records again, the archive's too, and compare (administrator)."""
    with connect() as client:
        report = client.recount_usage(start, to)
    count = report["archived"] + report["in_database"]
    told = f"{count} records, {report['archived']} of them archived; "
    differences = report["n_differences"] + report["daily_differences"]
    say(f"{told}{differences} differences", report, json_)
    if differences:
        if not json_:
            columns = ["from", "tenant", "model", "key", "meter", "plan", "rollup", "records"]
            table(report["differences"], columns, False)
        raise typer.Exit(1)


@app.command()
def journal(json_: Json = False) -> None:
    """How usage stands on its way into the books (administrator)."""
    with connect() as client:
        state = client.journal()
    if json_:
        print(json.dumps(state, indent=1))
        return
    print(f"complete to {state['complete_to']}; {state['behind_bytes']} bytes behind")
    for row in state["quarantined"]:
        print(f"quarantined: {row['segment']} from byte {row['offset']} on")
    columns = ["slot", "mode", "full", "segment", "lag_ms", "synced", "refusing", "lost"]
    table(state["writers"], columns, False)
    kept = state["archive"]
    print(f"archive: {kept['records']} records through {kept['through'] or 'no day'}")


def read_events(file: Path) -> list[dict[str, Any]]:
    """The events of a file: a JSON object, an array of them, or one a line."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("file", f"cannot read {file}: {error}") from None
    try:
        found = json.loads(text)
    except ValueError:
        found = []
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    found.append(json.loads(line))
                except ValueError as error:
                    raise MeuseError(
                        Code.INVALID_JSON, f"line {number} of {file} is not JSON: {error}",
                        field="file",
                    ) from None  # fmt: skip
    return found if isinstance(found, list) else [found]
