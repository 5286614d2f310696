"""Control's side of a job child: start it, follow its reports, stop it.

A child that dies without an outcome (killed, crashed) is started again and goes on from its
last checkpoint, a few times; one that was refused memory is not, for it would be again. Knows
no database and no dbos.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from meuse.core.clock import now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError
from meuse.core.ports import EventSink
from meuse.jobs import memory
from meuse.jobs.child import PAUSE

TRIES = 4
TERM_GRACE_S = 1.0


class Running(Protocol):
    """A job child, the leader of a process group of its own."""

    @property
    def pid(self) -> int | None:
        """None for one that is still being made."""
        ...

    def poll(self) -> int | None:
        """How it ended, as `subprocess.Popen.returncode` says it; None while it lives."""
        ...

    def wait(self) -> int:
        """The same at its end; one that is still being made is not waited for."""
        ...


Command = Callable[[Path, int, int], list[str]]
"""(folder, events fd, lifeline fd) → argument list of a job child."""
Start = Callable[[Path, int, int, IO[bytes]], Running]
"""(folder, events fd, lifeline fd, what it prints goes to) → a child that has both descriptors.
Raises OSError."""


@dataclass(frozen=True, slots=True)
class Stop:
    """How to stop a child that runs. One that has not reacted to `paused` within
    `pause_grace_s` is ended: it goes on from its last checkpoint later."""

    cancelled: threading.Event = field(default_factory=threading.Event)
    paused: threading.Event = field(default_factory=threading.Event)
    pause_grace_s: float = 30.0

    @property
    def outcome(self) -> dict[str, Any] | None:
        """What a child that ends now, without an outcome of its own, leaves."""
        if self.cancelled.is_set():
            return {"cancelled": True}
        return {"paused": {}} if self.paused.is_set() else None


CALM = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Threads of a job sleep while they wait for each other. They spin by default: beside other work
on the same cores a training step took two to four times as long so. And no library tells its makers
who works here."""


def fresh(command: Command) -> Start:
    """Each child a process of its own."""

    def start(folder: Path, events: int, lifeline: int, output: IO[bytes]) -> Running:
        return subprocess.Popen(
            command(folder, events, lifeline),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(events, lifeline),
            start_new_session=True,
            env={**CALM, **os.environ},
        )

    return start


def run(
    folder: Path,
    start: Start,
    sink: EventSink,
    stop: Stop,
    idle: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run the child to its outcome: {"result": …}, {"error": …}, {"paused": {}} or
    {"cancelled": True}. `idle` is called now and then while it reports nothing."""
    (folder / PAUSE).unlink(missing_ok=True)
    how = ""
    for attempt in range(1, TRIES + 1):
        outcome, how = _run_once(folder, start, sink, stop, idle)
        outcome = outcome or stop.outcome
        if outcome is not None:
            return outcome
        if attempt < TRIES:
            message = f"job process ended ({how}); going on"
            _note(folder, "warning", message)
            sink("log", {"level": "warning", "message": message})
    error = MeuseError(
        Code.INTERNAL,
        f"the job process ended {TRIES} times without an outcome, last by {how}",
        hint="It may need more memory than the machine has; the job's log may tell.",
    )
    return {"error": error.to_dict()}


def _run_once(
    folder: Path, start: Start, sink: EventSink, stop: Stop, idle: Callable[[], None]
) -> tuple[dict[str, Any] | None, str]:
    """(outcome or None, how the process ended)."""
    events_read, events_write = os.pipe()
    life_read, life_write = os.pipe()
    path, kills = folder / "log.txt", memory.kernel_kills()
    try:
        with path.open("ab") as log:
            begin = log.tell()
            process = start(folder, events_write, life_read, log)
    except BaseException:
        os.close(events_read)
        os.close(life_write)
        raise
    finally:
        os.close(events_write)
        os.close(life_read)
    outcome: dict[str, Any] | None = None
    try:
        for kind, data in _follow(events_read, process, folder, stop, idle):
            if kind in ("result", "error", "paused"):
                outcome = {kind: data}
            else:
                sink(kind, data)
    finally:
        os.close(events_read)
        os.close(life_write)  # whatever happened here, the child ends
        status = process.wait()
    if outcome is None and (error := memory.aborted(status, path, begin)):
        outcome = {"error": error.to_dict()}
    return outcome, _how(status, memory.kernel_kills() > kills)


def _how(status: int, kernel_killed: bool) -> str:
    if status == -signal.SIGKILL and kernel_killed:
        return "signal 9: the machine has run out of memory, and the kernel killed a process"
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _follow(
    fd: int,
    process: Running,
    folder: Path,
    stop: Stop,
    idle: Callable[[], None],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reports until the child closes its end; a stop that it does not heed ends its group."""
    os.set_blocking(fd, False)
    pending = b""
    ask_until: float | None = None
    kill_at: float | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if stop.paused.is_set() and ask_until is None:
                (folder / PAUSE).touch()
                ask_until = now + stop.pause_grace_s
            late = ask_until is not None and now > ask_until
            if (stop.cancelled.is_set() or late) and kill_at is None:
                kill_at = now + TERM_GRACE_S
                _signal(process, signal.SIGTERM)
            if kill_at is not None and now > kill_at:
                if process.pid is None:
                    return  # it will end when it is born: its lifeline is closed by then
                _signal(process, signal.SIGKILL)
            if not selector.select(0.1):
                idle()
                continue
            data = os.read(fd, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                kind, body = json.loads(line)
                yield kind, body


def _signal(process: Running, number: int) -> None:
    if process.poll() is None and process.pid is not None:
        # A forked child whose nursery was killed as well leaves no zombie that keeps its number.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _note(folder: Path, level: str, message: str) -> None:
    """A line of control's own in the job's log."""
    with (folder / "log.txt").open("a") as log:
        log.write(f"{to_rfc3339(now_ms())} {level} {message}\n")
