"""Inside a job child: takes the folder, reports over a pipe, runs the work.

The folder holds `job.json` (kind, spec, inputs), the lock that keeps two children apart,
the checkpoint, what the work writes and, when the job shall stop for now, a file `pause`. One
JSON line per report goes to the parent; what is logged stands in log.txt too.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meuse.core.clock import now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError, RefusedError
from meuse.core.ports import JobContext, Paused
from meuse.jobs import memory

LOCK_WAIT_S = 15.0
PAUSE = "pause"

Work = Callable[[JobContext, dict[str, Any]], dict[str, Any]]
"""(context, job.json) → result (JSON)."""


class ChildContext:
    """Adapter of `core.ports.JobContext` that writes lines to a file descriptor."""

    def __init__(self, folder: Path, events_fd: int) -> None:
        self._folder = folder
        self._fd = events_fd
        self._pause = folder / PAUSE

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def checkpoint(self) -> Path:
        return self._folder / "checkpoint.safetensors"

    def paused(self) -> bool:
        return self._pause.exists()

    def progress(
        self,
        fraction: float,
        rate: float | None = None,
        unit: str = "rows",
        eta_s: float | None = None,
        note: str | None = None,
    ) -> None:
        more = {"rate": rate, "unit": None if rate is None else unit, "eta_s": eta_s, "note": note}
        said = {name: value for name, value in more.items() if value is not None}
        self.send("progress", {"fraction": min(1.0, max(0.0, fraction)), **said})

    def metrics(self, figures: dict[str, float], **labels: Any) -> None:
        self.send("metrics", {"figures": figures, **labels})

    def log(self, message: str, level: str = "info") -> None:
        sys.stderr.write(f"{to_rfc3339(now_ms())} {level} {message}\n")
        sys.stderr.flush()
        self.send("log", {"level": level, "message": message})

    def send(self, kind: str, data: dict[str, Any]) -> None:
        line = json.dumps([kind, data]).encode() + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]


def main(folder: Path, events_fd: int, works: dict[str, Work]) -> int:
    """Run the job in `folder`; exit status 0 when an outcome was reported."""
    context = ChildContext(folder, events_fd)
    try:
        with _only_child(folder):
            job = json.loads((folder / "job.json").read_text())
            context.send("result", works[job["kind"]](context, job))
    except Paused:
        context.send("paused", {})
    except RefusedError as error:
        context.send("error", {**error.to_dict(), "report": error.report})
    except MeuseError as error:
        context.send("error", error.to_dict())
    except Exception as error:
        if memory.is_exhausted(error):
            # First: there may not be enough left to print where it happened.
            context.send("error", memory.exhausted(error).to_dict())
        traceback.print_exc()
        sys.stderr.flush()
        if memory.is_exhausted(error):
            return 0
        unexpected = MeuseError(
            Code.INTERNAL,
            f"the job failed unexpectedly: {type(error).__name__}: {error}",
            hint="The traceback is in the job's log.txt.",
        )
        context.send("error", unexpected.to_dict())
    return 0


class _only_child:  # noqa: N801  a context manager reads as a verb
    """Hold the folder's lock; wait for a predecessor that is still on its way out."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "lock").open("w")

    def __enter__(self) -> None:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise MeuseError(
                        Code.CONFLICT, "another process still works in this job's folder"
                    ) from None
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._file.close()
