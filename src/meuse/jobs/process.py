"""Control's side of a job child: start it, follow its reports, stop it.

A child that dies without an outcome (killed, out of memory) is started again and goes on
from its last checkpoint, a few times. Knows no database and no dbos.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from meuse.core.errors import Code, MeuseError
from meuse.core.ports import EventSink

TRIES = 4
TERM_GRACE_S = 1.0

Command = Callable[[Path, int, int], list[str]]
"""(folder, events fd, lifeline fd) → argument list of a job child."""


def run(
    folder: Path, command: Command, sink: EventSink, cancelled: threading.Event
) -> dict[str, Any]:
    """Run the child to its outcome: {"result": …}, {"error": …} or {"cancelled": True}."""
    for attempt in range(1, TRIES + 1):
        outcome, status = _run_once(folder, command, sink, cancelled)
        if outcome is not None:
            return outcome
        if cancelled.is_set():
            return {"cancelled": True}
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        if attempt < TRIES:
            sink("log", {"level": "warning", "message": f"job process ended ({how}); going on"})
    error = MeuseError(
        Code.INTERNAL,
        f"the job process ended {TRIES} times without an outcome, last by {how}",
        hint="It may need more memory than the machine has; the job's log.txt may tell.",
    )
    return {"error": error.to_dict()}


def _run_once(
    folder: Path, command: Command, sink: EventSink, cancelled: threading.Event
) -> tuple[dict[str, Any] | None, int]:
    events_read, events_write = os.pipe()
    life_read, life_write = os.pipe()
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command(folder, events_write, life_read),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(events_write, life_read),
            start_new_session=True,
        )
    os.close(events_write)
    os.close(life_read)
    outcome: dict[str, Any] | None = None
    try:
        for kind, data in _follow(events_read, process, cancelled):
            if kind in ("result", "error"):
                outcome = {kind: data}
            else:
                sink(kind, data)
    finally:
        os.close(events_read)
        os.close(life_write)  # whatever happened here, the child ends
        status = process.wait()
    return outcome, status


def _follow(
    fd: int, process: subprocess.Popen[bytes], cancelled: threading.Event
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reports until the child closes its end; a cancel ends the child's whole group."""
    os.set_blocking(fd, False)
    pending, kill_at = b"", None
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            if cancelled.is_set() and kill_at is None:
                kill_at = time.monotonic() + TERM_GRACE_S
                _signal(process, signal.SIGTERM)
            if kill_at is not None and time.monotonic() > kill_at:
                _signal(process, signal.SIGKILL)
            if not selector.select(0.1):
                continue
            data = os.read(fd, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                kind, body = json.loads(line)
                yield kind, body


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)
