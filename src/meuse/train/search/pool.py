"""The processes that trials run in: start them, give them runs, hear what they found.

Knows pipes and processes; knows no method and no training. A process ends with its parent,
however that ends, because its commands come through a pipe that only the parent holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Command = Callable[[int, int], list[str]]
"""(commands fd, reports fd) → argument list of a trial's process."""


@dataclass(slots=True)
class Worker:
    """One process. `task` is what it was given and has not answered."""

    process: subprocess.Popen[bytes]
    commands: int
    reports: int
    pending: bytes = b""
    task: dict[str, Any] | None = None
    fraction: float = 0.0

    def send(self, kind: str, data: dict[str, Any]) -> None:
        """A process that is gone hears nothing; its end is reported by `Pool.reports`."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.commands, json.dumps([kind, data]).encode() + b"\n")


class Pool:
    """At most `size` processes, started when they are first needed. A context manager."""

    def __init__(self, command: Command, size: int) -> None:
        self._command = command
        self._size = size
        self._selector = selectors.DefaultSelector()
        self.workers: list[Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self.workers):
            self._remove(worker)
        self._selector.close()

    def free(self) -> Worker | None:
        """A process that can take a run now, or None when all are busy."""
        for worker in self.workers:
            if worker.task is None:
                return worker
        return self._start() if len(self.workers) < self._size else None

    def give(self, worker: Worker, kind: str, task: dict[str, Any]) -> None:
        worker.task, worker.fraction = task, 0.0
        worker.send(kind, task)

    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.task is not None]

    def reports(self, timeout_s: float) -> Iterator[tuple[Worker, str, dict[str, Any]]]:
        """What processes say within the time; `died` ({status}) when one is gone: then it is no
        longer of the pool, and its task is still in it."""
        for key, _ in self._selector.select(timeout_s):
            worker: Worker = key.data
            data = os.read(worker.reports, 65536)
            if not data:
                self._remove(worker)
                yield worker, "died", {"status": worker.process.returncode}
                continue
            *lines, worker.pending = (worker.pending + data).split(b"\n")
            for line in lines:
                kind, body = json.loads(line)
                yield worker, kind, body

    def _start(self) -> Worker:
        commands_read, commands_write = os.pipe()
        reports_read, reports_write = os.pipe()
        process = subprocess.Popen(
            self._command(commands_read, reports_write),
            stdin=subprocess.DEVNULL,
            pass_fds=(commands_read, reports_write),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        os.close(commands_read)
        os.close(reports_write)
        worker = Worker(process, commands_write, reports_read)
        self._selector.register(reports_read, selectors.EVENT_READ, worker)
        self.workers.append(worker)
        return worker

    def _remove(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self._selector.unregister(worker.reports)
        os.close(worker.commands)  # it ends with that
        os.close(worker.reports)
        worker.process.wait()
