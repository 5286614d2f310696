"""`meuse demo`: the main job on real handwritten digits, then a language model that is taught,
on a platform of its own.

Every step is a call of the public HTTP or gRPC API, as any user would make it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from meuse.client import Client
from meuse.tour import digits, language
from meuse.tour.platform import running
from meuse.tour.stage import Stage, bars
from meuse.tour.tables import tables


def demo(as_json: bool = False, chat: bool = True) -> None:
    """Run the tour, without its second half unless `chat`; raises what a step raises, after
    stopping the platform."""
    console = Console(stderr=as_json)
    started = time.monotonic()
    figures, talk = digits.Figures(), language.Figures()
    with (
        tempfile.TemporaryDirectory(prefix="meuse-demo-") as folder,
        bars(console) as bar,
        running(Path(folder) / "home") as (url, grpc_address, admin_key),
        Client(url, admin_key) as client,
    ):
        console.print(f"[dim]a fresh platform listens on {url} and grpc://{grpc_address}[/dim]")
        stage = Stage(client, url, grpc_address, Path(folder), console, bar)
        rows, labels = digits.upload(stage)
        child = digits.make_versions(stage, figures)
        customer_key = digits.open_for_business(stage, child)
        digits.call(stage, customer_key, rows, labels, figures)
        if chat:
            language.teach(stage, customer_key, talk)
        digits.settle(stage, figures)
    figures.seconds = time.monotonic() - started
    if as_json:
        sys.stdout.write(json.dumps({**asdict(figures), "chat": asdict(talk)}, indent=1) + "\n")
    else:
        for table in tables(figures, talk):
            console.print(table)
