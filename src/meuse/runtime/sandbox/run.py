"""Run a command in a sandbox and see to its end: time, memory, output, the whole tree."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from meuse.runtime.sandbox import tiers
from meuse.runtime.sandbox.order import Ended, Limits, Order

KEPT_BYTES = 64 << 10
_LOOK_S = 0.1
_LAST_S = 10.0
"""What is killed may take this long to go."""
_PAGE = os.sysconf("SC_PAGE_SIZE")

Listener = Callable[[str], None]


def run(order: Order, least: int = 1, listener: Listener | None = None) -> Ended:
    """Run `order` in the best tier of this machine, which must be `least` or better.

    `listener` hears each line of output (at most 2000 characters) as it comes. Returns when
    every process of the command is gone. Raises `NoSandboxError`.
    """
    return run_in(tiers.good_enough(least), order, listener)


def run_in(tier: int, order: Order, listener: Listener | None = None) -> Ended:
    """As `run`, in this very tier. Raises OSError when it cannot be started."""
    user = tiers.free_user() if tier == 2 else None
    private = order.folder / "tmp"
    if tier < 2:
        private.mkdir(exist_ok=True)
    if user is not None:
        _give(order.folder, user)
    argv, environment = tiers.command(tier, order, user)
    started = time.monotonic()
    process = subprocess.Popen(
        argv,
        cwd=order.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        stopped, output = _follow(process, order.limits, listener)
    finally:
        _end(process)
        assert process.stdout is not None
        process.stdout.close()
        if tier < 2:
            shutil.rmtree(private, ignore_errors=True)
        if user is not None:
            _give(order.folder, os.geteuid())
    return Ended(tier, process.returncode, stopped, output, time.monotonic() - started)


def _follow(
    process: subprocess.Popen[bytes], limits: Limits, listener: Listener | None
) -> tuple[str | None, str]:
    """(which limit ended it, the end of the output)."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    os.set_blocking(fd, False)
    lines = _Lines(listener)
    deadline, size = time.monotonic() + limits.wall_s, 0
    stopped: str | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while stopped is None and process.poll() is None:
            if time.monotonic() > deadline:
                stopped = "time"
            elif resident(process.pid) > limits.memory_bytes:
                stopped = "memory"
            elif selector.select(_LOOK_S) and (data := os.read(fd, 1 << 16)):
                size += len(data)
                lines.add(data)
                stopped = "output" if size > limits.output_bytes else None
            elif _closed(process):
                break
    _end(process)
    with contextlib.suppress(BlockingIOError):
        while size < 2 * limits.output_bytes and (data := os.read(fd, 1 << 16)):
            size += len(data)
            lines.add(data)
    return stopped, lines.close()


def _closed(process: subprocess.Popen[bytes]) -> bool:
    """Nothing came: whether the command is over, or merely closed its output."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_LOOK_S)
    return process.poll() is not None


class _Lines:
    """Tells whole lines to a listener and keeps the end of the text."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._pending = b""
        self._kept = b""

    def add(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-KEPT_BYTES:]
        if self._listener is None:
            return
        *whole, self._pending = (self._pending + data).split(b"\n")
        for line in whole:
            self._listener(line[:2000].decode(errors="replace"))
        self._pending = self._pending[-2000:]

    def close(self) -> str:
        if self._listener is not None and self._pending:
            self._listener(self._pending.decode(errors="replace"))
        return self._kept.decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it may live on. In tier 2 the namespace goes with its first process, which
    goes with bubblewrap; in tier 1 there is one process; in tier 0 there is the session."""
    # The kernel lets the first process of a namespace end after all others in it.
    first = _children(process.pid) if process.returncode is None else []
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pidfd in first:
        select.select([pidfd], [], [], _LAST_S)
        os.close(pidfd)


def _children(pid: int) -> list[int]:
    """Descriptors of the processes that `pid` started and that live."""
    try:
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    opened = []
    for child in pids:
        with contextlib.suppress(OSError):
            opened.append(os.pidfd_open(int(child)))
    return opened


def resident(pid: int) -> int:
    """Resident memory of a process and its descendants, in bytes."""
    total, waiting = 0, [pid]
    while waiting:
        one = Path(f"/proc/{waiting.pop()}")
        try:
            total += int((one / "statm").read_text().split()[1]) * _PAGE
            for task in (one / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, IndexError, ValueError):
            continue
    return total


def _give(folder: Path, user: int) -> None:
    """Make `user` the owner of all in `folder`. Links are changed, not followed."""
    os.chown(folder, user, user)
    for base, names, files in os.walk(folder):
        for name in (*names, *files):
            os.chown(Path(base) / name, user, user, follow_symlinks=False)
