"""What verbs share: the client, the tables, and how a job is followed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meuse.core.errors import Code, MeuseError, invalid
from meuse.settings import default_home, load

if TYPE_CHECKING:
    from meuse.client import Client

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def connect() -> Iterator[Client]:
    from meuse.client import Client

    url, key = os.environ.get("MEUSE_URL"), os.environ.get("MEUSE_KEY")
    settings = load(default_home())
    try:
        if url is None:
            running = json.loads(settings.run_file.read_text())
            url = f"http://{running['host']}:{running['http_port']}"
        if key is None:
            key = settings.admin_key.read_text().strip()
    except FileNotFoundError:
        raise MeuseError(
            Code.UNAVAILABLE,
            f"no platform runs from {settings.home}",
            hint="Start it with `meuse up`, or set MEUSE_URL and MEUSE_KEY.",
        ) from None
    with Client(url, key) as client:
        yield client


def json_of(field: str, text: str) -> Any:
    """JSON, or what a file named so holds."""
    try:
        return json.loads(Path(text).read_text() if text.endswith(".json") else text)
    except OSError as error:
        raise invalid(field, f"cannot read {text}: {error.strerror}") from None
    except ValueError as error:
        raise MeuseError(Code.INVALID_JSON, f"{field} is not JSON: {error}", field=field) from None


def object_of(field: str, text: str | None) -> dict[str, Any] | None:
    """An option that is a JSON object, or names a file of one."""
    value = None if text is None else json_of(field, text)
    if value is not None and not isinstance(value, dict):
        raise invalid(field, "this is not a JSON object")
    return value


def follow_job(client: Client, job: dict[str, Any], wait: bool, json_: bool) -> None:
    if not wait:
        say(f"{job['id']} is {job['status']}", job, json_)
        return
    from rich.console import Console

    from meuse.client.follow import Bar

    with Bar(job, Console(stderr=True)) as bar:
        done = client.wait(job["id"], bar.show)
    result = done["result"]
    figures = "".join(
        f"\n  {name:22} {value:.4f}" for name, value in result.get("metrics", {}).items()
    )
    made = result.get("data") or result.get("model")
    if made is None:  # nothing was made, only looked at
        made = "checked"
        figures = "".join(f"\n  {name:22} {cell(v)}" for name, v in result["check"].items())
    say(f"{made}{figures}", done, json_)


def show_until_its_end(client: Client, job: str, json_: bool) -> None:
    if json_:
        for kind, event in client.events(job):
            print(json.dumps({"event": kind, **event}))
        return
    from rich.console import Console

    from meuse.client.follow import follow

    done = follow(client, job, Console(stderr=True))
    figures = "".join(f"\n  {name:22} {value:.4f}" for name, value in done["metrics"].items())
    why = f": {done['error']['message']}" if done["error"] else ""
    print(f"{job} {done['status']}{why}{figures}")


def progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def say(text: str, body: Any, as_json: bool) -> None:
    print(json.dumps(body, indent=1) if as_json else text)


def table(rows: list[dict[str, Any]], columns: list[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(cell(row.get(column)) for column in columns))
    Console(highlight=False).print(drawn)


def cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{k}={cell(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(cell(item) for item in value)
    return str(value)
