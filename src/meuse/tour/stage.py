"""Where the tour plays: who calls, what is told, and how jobs are awaited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from meuse.client import Client


@dataclass(frozen=True, slots=True)
class Stage:
    """`client` acts as the administrator, `url` and `grpc_address` are for customers, and
    `folder` is for files of the tour's own."""

    client: Client
    url: str
    grpc_address: str
    folder: Path
    console: Console
    bar: Progress

    def say(self, what: str, text: str) -> None:
        self.console.print(f"{what:9} {text}", highlight=False)

    def wait(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job when it has succeeded, with a bar until then; raises what ended it."""
        line = self.bar.add_task(job["kind"], total=1.0)
        try:
            return self.client.wait(
                job["id"],
                lambda j: self.bar.update(
                    line, completed=j["progress"], description=f"{j['kind']:9} {j['status']}"
                ),
            )
        finally:
            self.bar.remove_task(line)


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield bar
