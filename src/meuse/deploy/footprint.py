"""What replicas take of memory: measured while they run, remembered per version, guessed before.

Reads /proc by process id, now and then: a start must not wait for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from meuse.core.nouns import Artifact
from meuse.deploy.memory import Held
from meuse.deploy.plan import Replica

BASE = 48 * 1024 * 1024
"""An interpreter, numpy and an engine, beside what replicas share."""
PER_BYTE = 3
"""Of an artifact: its bytes, the engine's copy, room to work."""
AGAIN_S = 10.0
WARM_S = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a replica loads. `guess` is its bytes until a replica of the same `digest` was
    measured; it counts `least` even where it is measured smaller, for it will grow."""

    digest: str
    guess: int
    least: int = 0

    @classmethod
    def of(cls, artifact: Artifact) -> Load:
        return cls(artifact.digest, BASE + PER_BYTE * artifact.bytes)


class Footprints:
    """All replicas together shall stay within `budget` bytes. `pids` gives processes by replica,
    ending ones included, `measure` the bytes of one. `clock` is monotonic seconds."""

    def __init__(
        self,
        budget: int,
        pids: Callable[[], dict[str, int]],
        measure: Callable[[int], int | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self._pids = pids
        self._measure = measure
        self._clock = clock
        self._bytes: dict[str, int] = {}  # by replica
        self._next: dict[str, float] = {}  # when it is measured again
        self._known: dict[str, int] = {}  # by digest

    def look(self, running: Collection[Replica], loads: Mapping[str, Load]) -> None:
        """Measure what is due; `loads` are what the replicas run, by id."""
        now, pids = self._clock(), self._pids()
        for name in [n for n in self._next if n not in pids]:
            self._bytes.pop(name, None)
            del self._next[name]
        for replica in running:
            due = self._next.setdefault(replica.id, now + WARM_S)
            if replica.ready and due <= now and replica.id in pids:
                self._next[replica.id] = now + AGAIN_S
                found = self._measure(pids[replica.id])
                if found is not None:
                    self._bytes[replica.id] = found
                    if replica.id in loads:
                        self._known[loads[replica.id].digest] = found

    def expected(self, load: Load) -> int:
        """The bytes of one more replica that runs it."""
        return max(load.least, self._known.get(load.digest, load.guess))

    def held(
        self,
        running: Collection[Replica],
        loads: Mapping[str, Load],
        is_idle: Callable[[str], bool],
        used_at: Callable[[str], float],
    ) -> list[Held]:
        """What each deployment holds, and what is still held by replicas that were told to end.

        `is_idle` and `used_at` are asked by deployment; while a replica of it is on its way
        none is idle.
        """
        names = {replica.id for replica in running}
        leaving = sum(self._bytes.get(name, 0) for name in self._pids() if name not in names)
        held = [Held("", leaving, 0.0, idle=False)]
        for name in {replica.deployment for replica in running}:
            mine = [replica for replica in running if replica.deployment == name]
            size = sum(self._of(replica.id, loads.get(replica.id)) for replica in mine)
            idle = all(replica.ready for replica in mine) and is_idle(name)
            held.append(Held(name, size, used_at(name), idle))
        return held

    def _of(self, replica: str, load: Load | None) -> int:
        if load is None:
            return self._bytes.get(replica, 0)
        return max(load.least, self._bytes.get(replica, self.expected(load)))


def machine_budget() -> int:
    """Three quarters of the machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4


def resident(pid: int) -> int | None:
    """Bytes of a process and of those that it has started, their shares of what they share (PSS);
    None when it has ended."""
    own = _resident(pid)
    if own is None:
        return None
    return own + sum(resident(child) or 0 for child in _children(pid))


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:  # a thread has ended, or all of it
        return []


def _resident(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:  # a kernel that does not tell: all that is resident
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
