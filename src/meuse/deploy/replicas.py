"""The replicas that run: which are ready, which starts failed and why, when to try again.

Sees processes through `core.ports.Launcher` and readiness by connecting: a replica listens
once it is warm. Knows nothing of what is wanted.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from meuse.core.ids import new_id
from meuse.core.ports import Launcher
from meuse.deploy.plan import Replica, Start
from meuse.deploy.spares import Spares
from meuse.deploy.watch import Watch

log = logging.getLogger(__name__)

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
START_S = 120.0
KEEP_FILES_S = 60.0
"""Workers read the page of a dead replica; its files may go after this."""


@dataclass(slots=True)
class Failures:
    """Starts in a row that ended before their replica was ready."""

    count: int = 0
    again_at: float = 0.0
    reason: str = ""


class Replicas:
    """Not for two threads at once. `clock` is monotonic seconds.

    `build` names the code that replicas are started with; those of another one are outdated.
    """

    def __init__(
        self,
        launcher: Launcher,
        sockets: Path,
        clock: Callable[[], float] = time.monotonic,
        build: str = "",
        spares: Spares | None = None,
    ) -> None:
        self._launcher = launcher
        self._spares = spares
        self._sockets = sockets
        self._clock = clock
        self._build = build
        self._seen: dict[str, float] = {}  # running, since when we know
        self._ready: set[str] = set()
        self._gone: dict[str, float] = {}
        self._started: dict[str, Start] = {}  # ours, not yet ready
        self._patience: dict[str, float] = {}  # of those, in seconds
        self._failures: dict[Start, Failures] = {}
        self._serving: dict[str, Start] = {}  # ready, and not asked to stop
        self._died: list[Start] = []
        self._watch = Watch(sockets, clock)

    @property
    def starting(self) -> bool:
        return bool(self._started)

    def start(
        self,
        what: Start,
        command: Callable[[str], list[str]],
        spare: str | None = None,
        *,
        patience_s: float = START_S,
        grace_s: float | None = None,
    ) -> str:
        """Start `command(id)`, in a spare process of this kind if there is one; the id. It fails
        when it is not ready within `patience_s`. When it is stopped later it has `grace_s`, None:
        as all have, to answer what it has begun."""
        label = {**asdict(what), "build": self._build}
        if grace_s is not None:
            label["grace_s"] = grace_s
        replica = None
        if self._spares is not None and spare is not None:
            replica = self._spares.assign(spare, command, label)
        was_spare = replica is not None
        if replica is None:
            replica = new_id("replica")
            self._launcher.start(replica, command(replica), label)
        self._started[replica] = what
        self._patience[replica] = patience_s
        where = "a spare" if was_spare else "a new"
        log.info("%s of %s starts in %s process, %s", what.version, what.deployment, where, replica)
        return replica

    def keep_spares(self, kinds: Collection[str]) -> None:
        """See to it that there are spare processes of these kinds and of no others."""
        if self._spares is not None:
            self._spares.keep(kinds)

    def news(self) -> bool:
        """Whether a replica that was started listens by now. Cheaper than a look."""
        return any(_listens(self._sockets / f"{replica}.sock") for replica in self._started)

    def stop(self, replica: str) -> None:
        self._started.pop(replica, None)  # its end is no failure
        self._serving.pop(replica, None)
        self._launcher.stop(replica)

    def kill_hung(self, running: list[Replica], limits: Mapping[str, float]) -> list[Replica]:
        """End those that hang; all others. `limits` are the seconds that a batch may take, by
        deployment. Counts as a death, of which `died` tells."""
        hung = self._watch.look(
            {r.id: limits[r.deployment] for r in running if r.ready and r.deployment in limits}
        )
        for replica, why in hung.items():
            log.warning("%s hangs and is killed: %s", replica, why)
            self._launcher.kill(replica)
        return [r for r in running if r.id not in hung]

    def look(self) -> list[Replica]:
        """All that run now. Counts starts that came to nothing."""
        now, labels = self._clock(), self._launcher.running()
        if self._spares is not None:
            self._spares.look(labels)
        running = {name: label for name, label in labels.items() if "deployment" in label}
        for replica, label in running.items():
            self._seen.setdefault(replica, now)
            if replica not in self._ready and _listens(self._sockets / f"{replica}.sock"):
                self._ready.add(replica)
                self._serving[replica] = Start(label["deployment"], label["version"])
        for replica in self._seen.keys() - running.keys():
            del self._seen[replica]
            self._gone[replica] = now
            if replica in self._serving:
                self._died.append(self._serving.pop(replica))
        self._ready &= running.keys()
        self._judge_starts(running, now)
        self._sweep(now)
        return [
            Replica(
                name,
                label["deployment"],
                label["version"],
                name in self._ready,
                label.get("revision", ""),
                outdated=label.get("build", "") != self._build,
            )
            for name, label in running.items()
        ]

    def blocked(self) -> set[Start]:
        """Starts that wait for their back-off."""
        now = self._clock()
        return {start for start, failures in self._failures.items() if failures.again_at > now}

    def failures(self, deployment: str, version: str | None = None) -> list[Failures]:
        """Of a deployment's versions, or of one."""
        return [
            failures
            for start, failures in self._failures.items()
            if start.deployment == deployment and version in (None, start.version)
        ]

    def died(self) -> Counter[tuple[str, str]]:
        """Ready replicas that have ended unasked since the last call: (deployment, version)."""
        died, self._died = self._died, []
        return Counter((start.deployment, start.version) for start in died)

    def forget(self, current: Collection[Start]) -> None:
        """Drop failures of versions that nobody asks for any more."""
        self._failures = {s: f for s, f in self._failures.items() if s in current}

    def _judge_starts(self, running: Collection[str], now: float) -> None:
        self._patience = {r: s for r, s in self._patience.items() if r in self._started}
        for replica, start in list(self._started.items()):
            if replica in self._ready:
                log.info("%s is ready", replica)
                self._failures.pop(start, None)
                del self._started[replica]
            elif replica not in running:
                del self._started[replica]
                self._failed(start, self._reason(replica))
            elif now - self._seen[replica] > self._patience[replica]:
                self.stop(replica)
                patience = self._patience[replica]
                self._failed(start, f"the replica was not ready after {patience:g} s")

    def _failed(self, start: Start, reason: str) -> None:
        failures = self._failures.setdefault(start, Failures())
        delay = BACKOFF_S[min(failures.count, len(BACKOFF_S) - 1)]
        failures.count += 1
        failures.again_at = self._clock() + delay
        failures.reason = reason
        log.warning("%s of %s: %s", start.version, start.deployment, reason)

    def _reason(self, replica: str) -> str:
        try:
            return (self._sockets / f"{replica}.error").read_text()
        except OSError:
            return "the replica ended before it was ready; see logs/replica.log"

    def _sweep(self, now: float) -> None:
        for replica in [r for r, since in self._gone.items() if now - since > KEEP_FILES_S]:
            del self._gone[replica]
            for kind in ("sock", "fds", "page", "error", "upstream"):
                (self._sockets / f"{replica}.{kind}").unlink(missing_ok=True)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
