"""Server processes: start, find all that one server became, their CPU and memory, stop.

A server's processes are those whose environment carries its mark and their descendants, so
that ones whose parent went away are found too. Reads /proc; knows nothing of what they serve.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "BENCH_SERVER"
_TICK = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                if after_name[0] != "Z":
                    found[int(entry.name)] = int(after_name[1])
    return found


def family(root: int, mark: str | None = None) -> list[int]:
    """The process ids of `root` with its descendants, and of all that carry `mark`."""
    parents = _parents()
    members = {root} & parents.keys()
    if mark is not None:
        wanted = f"{MARK}={mark}".encode()
        for pid in parents:
            with contextlib.suppress(OSError):
                if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    members.add(pid)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in members} - members
        members |= more
        grown = bool(more)
    return sorted(members - {os.getpid()})


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time so far of these processes and of their children that ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICK


def resident_mb(pids: Sequence[int]) -> float:
    """Resident memory; what processes share is counted in each."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS"):
                    kib += int(line.split()[1])
    return kib / 1024


@dataclass(slots=True)
class Group:
    """All processes of one server."""

    root: int
    mark: str | None = None

    def pids(self) -> list[int]:
        return family(self.root, self.mark)

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pids())

    def resident_mb(self) -> float:
        return resident_mb(self.pids())


@contextlib.contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Group]]:
    """A server as a session of its own; at the end none of its processes is left."""
    mark = secrets.token_hex(8)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, **environment, MARK: mark},
            start_new_session=True,
        )
    group = Group(process.pid, mark)
    try:
        yield process, group
    finally:
        known = group.pids()
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        _end(set(known) | set(group.pids()), mark)
        process.wait()


def _end(pids: set[int], mark: str) -> None:
    """SIGTERM, then SIGKILL for those that still carry the mark or never went."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 3
        left = {pid for pid in pids if _marked(pid, mark)}
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while left and time.monotonic() < deadline:
            left = {pid for pid in left if _marked(pid, mark)}
            time.sleep(0.05)


def _marked(pid: int, mark: str) -> bool:
    """Whether the process lives and is still ours: its number may have been given again."""
    with contextlib.suppress(OSError):
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    return False
