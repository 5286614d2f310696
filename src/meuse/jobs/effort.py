"""What a job costs while it runs: wall time, CPU time and, where counters are readable, energy.

Knows the kernel's counters. Energy is that of the whole machine's packages as RAPL counts it
(/sys/class/powercap), other processes included; without counters it is None, never guessed.
"""

from __future__ import annotations

import json
import resource
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

POWERCAP = Path("/sys/class/powercap")
SAMPLE_S = 15.0
"""Counters wrap (262 kJ is 17 minutes at 250 W): they are read at least so often."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Of all attempts of a job so far. `energy_joules` None: not measured, as `energy` says.

    An attempt that was killed counts up to its last sample.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    energy_joules: float | None = None
    energy: str = ""
    attempts: int = 0


class Effort:
    """A context manager around the work of a job; `path` keeps the sums over restarts."""

    def __init__(self, path: Path, powercap: Path = POWERCAP, sample_s: float = SAMPLE_S) -> None:
        self._path = path
        self._sample_s = sample_s
        self._before = _load(path)
        self._started = time.monotonic()
        self._cpu = _cpu_seconds()
        self._counters = Counters(powercap)
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="effort", daemon=True)

    def __enter__(self) -> Effort:
        self.note()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.note()

    def spent(self) -> Spent:
        """Up to now, earlier attempts included."""
        before, joules = self._before, self._counters.joules()
        energy, told = None, self._counters.told
        if joules is not None and before.attempts and before.energy_joules is None:
            told = "not measured in an earlier attempt"
        elif joules is not None:
            energy = joules + (before.energy_joules or 0.0)
        return Spent(
            seconds=before.seconds + time.monotonic() - self._started,
            cpu_seconds=before.cpu_seconds + _cpu_seconds() - self._cpu,
            energy_joules=energy,
            energy=told,
            attempts=before.attempts + 1,
        )

    def note(self) -> None:
        """Keep what was spent so far; a death afterwards loses no more than what follows."""
        with self._writing:
            fresh = self._path.with_name(f"{self._path.name}.new")
            fresh.write_text(json.dumps(asdict(self.spent())))
            fresh.replace(self._path)

    def _run(self) -> None:
        while not self._stop.wait(self._sample_s):
            self.note()


class Counters:
    """Energy since it was made, by the top-level RAPL zones of each package. Safe for threads."""

    def __init__(self, root: Path) -> None:
        self._lock = threading.Lock()
        self._sum = 0
        self._last: dict[Path, tuple[int, int]] = {}  # zone → (last reading, where it wraps)
        self.told = "not measured: this machine shows no RAPL counters"
        zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        try:
            for zone in zones:
                wraps = int((zone / "max_energy_range_uj").read_text())
                self._last[zone] = (int((zone / "energy_uj").read_text()), wraps)
        except (OSError, ValueError):
            self._last = {}
            self.told = "not measured: RAPL counters are not readable by this user"
        if self._last:
            self.told = "RAPL, all packages of the machine, other processes included"

    def joules(self) -> float | None:
        """None without counters, and from a reading that fails on."""
        with self._lock:
            if not self._last:
                return None
            try:
                for zone, (last, wraps) in self._last.items():
                    now = int((zone / "energy_uj").read_text())
                    self._sum += now - last if now >= last else now + wraps - last
                    self._last[zone] = (now, wraps)
            except (OSError, ValueError):
                self._last = {}
                self.told = "not measured: RAPL counters went away"
                return None
            return self._sum / 1e6


def _cpu_seconds() -> float:
    """Of this process and its ended children, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _load(path: Path) -> Spent:
    try:
        return Spent(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Spent()
