"""The ledger's side of the archive: asks a process of its own for files, and when."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meuse.app import commands
from meuse.app.archive import part_of
from meuse.billing.archive import Archiver
from meuse.core.errors import Code, MeuseError
from meuse.settings import Settings
from meuse.store.money_archive import Part, Span

log = logging.getLogger(__name__)

TIMEOUT_S = 900.0
FIRST_S, EVERY_S = 60.0, 600.0


@dataclass(frozen=True, slots=True)
class Outside:
    """What another process does; `make` is the `Archiver`'s."""

    settings: Settings

    @property
    def is_there(self) -> bool:
        """Whether Parquet can be written here."""
        return importlib.util.find_spec("pyarrow") is not None

    def make(self, span: Span, folder: Path) -> Part:
        named = {"day": span.day, "part": span.part, "first": span.first.hex(),
                 "until": span.until.hex(), "before_ms": span.before_ms}  # fmt: skip
        return part_of(self._ask({"do": "part", "span": named, "folder": str(folder)}))

    def recount(self, start_ms: int, end_ms: int) -> dict[str, Any]:
        """As `archive.recount`. Raises `unavailable` without pyarrow."""
        if not self.is_there:
            raise MeuseError(
                Code.UNAVAILABLE,
                "the archive is read by pyarrow, which is not installed",
                hint="pip install 'meuse[data]'",
            )
        return self._ask({"do": "recount", "from": start_ms, "to": end_ms})

    def _ask(self, work: Mapping[str, Any]) -> dict[str, Any]:
        life_read, life_write = os.pipe()
        try:
            done = subprocess.run(
                commands.archive(self.settings, work, life_read),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=(life_read,),
                timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise MeuseError(
                Code.DEADLINE_EXCEEDED, f"it takes more than {TIMEOUT_S:.0f} s"
            ) from None
        finally:
            os.close(life_read)
            os.close(life_write)
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise MeuseError(
                Code.INTERNAL, f"the archive's process ended with status {done.returncode}"
            ) from None
        if "error" in answer:
            raise MeuseError.from_dict(answer["error"])
        return answer


def keep_archiving(
    archiver: Archiver, complete_to_ms: Callable[[], int], stop: threading.Event
) -> None:
    """Now and then until `stop`; what fails is logged and tried again."""
    pause = FIRST_S
    while not stop.wait(pause):
        pause = EVERY_S
        try:
            archiver.run_once(complete_to_ms())
        except Exception:
            log.exception("usage could not be archived")
