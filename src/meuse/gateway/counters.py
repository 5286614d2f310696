"""A worker's live counters: who waits, what came out, how long it took.

Plain numbers that only the worker's loop touches; `Counters.write` brings them to the slot's
file now and then (see `serve.stats`). Knows no protocol and no price.

Deployments and versions that left the snapshot are dropped from the file, but long after
`gateway.metrics` has ceased to show them: workers let go at slightly different times, and no sum
is to be seen falling.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from meuse.core.errors import Code, MeuseError
from meuse.gateway.link import Answer, FailedError
from meuse.serve import stats
from meuse.serve.snapshot import DeploymentEntry, Snapshot
from meuse.serve.stats import HEARTBEAT_S, RouteStats, TargetStats, Vitals, WorkerStats

logger = logging.getLogger(__name__)

WRITE_S = 0.2
KEPT_S = 1200.0
"""How long a deployment or version stays in the file after it left the snapshot."""


def clock_ms() -> float:
    """Unix milliseconds with their fractions."""
    return time.time() * 1000.0


class Counters:
    """The counters of one worker slot."""

    def __init__(self, folder: Path, slot: int, epoch: int) -> None:
        self.folder = folder
        self.stats = stats.begin(folder, slot, epoch)
        # What the first snapshot lacks left in the time of an earlier worker, or after it.
        self._left_ms = self.stats.at_ms
        self.changes = 0
        self.look: Callable[[Vitals], None] | None = None
        """Brings the vitals up to date before they are written."""
        self._writing = threading.Lock()
        self._looks = self._stored = 0

    def route(self, name: str) -> RouteStats:
        """Of a deployment, by "owner/name"."""
        route = self.stats.routes.get(name)
        if route is None:
            route = self.stats.routes[name] = RouteStats()
        return route

    def target(self, name: str, version: str) -> TargetStats:
        route = self.route(name)
        target = route.targets.get(version)
        if target is None:
            target = route.targets[version] = TargetStats()
        return target

    def refused(self, error: MeuseError, route: RouteStats | None = None) -> None:
        """A call that was not admitted: by its deployment, or before one was known. Whoever
        handles the error further up need not ask whether it was counted."""
        if not error.is_counted:
            error.is_counted = True
            self.changes += 1
            counts = self.stats.refused if route is None else route.refused
            counts[error.code] = counts.get(error.code, 0) + 1

    def client_gone(self) -> None:
        """A client left before its request was whole."""
        self.changes += 1
        counts = self.stats.refused
        counts[Code.CANCELLED] = counts.get(Code.CANCELLED, 0) + 1

    def begin(self, route: RouteStats) -> float:
        """A request is admitted; give what this returns to `end`."""
        now = clock_ms()
        self.changes += 1
        route.ongoing += 1
        route.started_ms += now
        return now

    def leave(self, route: RouteStats, began: float) -> float:
        """It is no longer ongoing; how long it was, in ms."""
        took = max(clock_ms() - began, 0.0)
        self.changes += 1
        route.ongoing -= 1
        # The sum of what ongoing requests began at must come back to 0 exactly.
        route.started_ms = route.started_ms - began if route.ongoing else 0.0
        route.done_ms += took
        return took

    def end(
        self,
        route: RouteStats,
        target: TargetStats,
        began: float,
        rows: int,
        work: Answer | FailedError | None,
        code: Code | None,
    ) -> None:
        """It is answered; `code` is None when well, `work` None when no replica answered."""
        took = self.leave(route, began)
        target.last_ms = int(began + took)
        target.request.add(took)
        if code is None:
            target.ok += 1
            target.rows += rows
        else:
            target.failed[code] = target.failed.get(code, 0) + 1
            target.failed_ms += took
        if work is not None:
            target.queue.add(work.queue_us / 1000.0)
            target.compute.add(work.compute_us / 1000.0)
            if work.batch_rows and code is None:
                target.batch.add(work.batch_rows, stats.BATCH_ROWS)

    def synced(self, began: float, *, ok: bool) -> None:
        """A sync of the journal that began then (`clock_ms`) is over."""
        self.changes += 1
        vitals = self.stats.vitals
        vitals.journal_sync.add(max(clock_ms() - began, 0.0))
        vitals.journal_failures += not ok

    def follow(self, snapshot: Snapshot) -> None:
        """From now on these deployments and versions are served, and the others have left."""
        now, self._left_ms = self._left_ms or clock_ms(), 0.0
        self.changes += 1
        for name, route in self.stats.routes.items():
            deployment = snapshot.deployments.get(name)
            route.left_ms = 0.0 if deployment else route.left_ms or now
            served = _versions(deployment) if deployment else frozenset[str]()
            for version, target in route.targets.items():
                target.left_ms = 0.0 if version in served else target.left_ms or now

    def forget(self) -> None:
        """Drop what left long ago, so that neither file nor memory grows with every rollout."""
        since = clock_ms() - KEPT_S * 1000
        routes = self.stats.routes
        for name, route in list(routes.items()):
            if route.ongoing:
                continue
            if 0 < route.left_ms <= since:
                del routes[name]
            for version in [v for v, t in route.targets.items() if 0 < t.left_ms <= since]:
                del route.targets[version]

    def slots(self) -> list[WorkerStats]:
        """These, live, and the last written ones of the other workers."""
        return [self.stats, *stats.read_all(self.folder, but=self.stats.slot)]

    def write(self) -> None:
        """Bring them to the file."""
        self._store(*self._looked())

    def _looked(self) -> tuple[int, bytes]:
        """(which look this is, what goes into the file)."""
        self.forget()
        self.stats.at_ms = clock_ms()
        if self.look is not None:
            self.look(self.stats.vitals)
        self._looks += 1
        return self._looks, stats.encode(self.stats)

    def _store(self, look: int, encoded: bytes) -> None:
        """From any thread. What a later look has overtaken is not written: no sum falls."""
        with self._writing:
            if look < self._stored:
                return
            self._stored = look
            try:
                stats.replace(self.folder, self.stats.slot, encoded)
            except OSError as error:
                logger.error("counters cannot be written: %s", error)

    async def keep(self) -> None:
        """Write whenever something has changed, is ongoing or nothing was written for a while;
        until cancelled."""
        written = -1
        while True:
            idle_ms = clock_ms() - self.stats.at_ms
            if (
                self.changes != written
                or any(r.ongoing for r in self.stats.routes.values())
                or not 0 <= idle_ms < HEARTBEAT_S * 1000
            ):
                written = self.changes
                # Renaming over a file takes a busy disk a tenth of a second: no request waits.
                await asyncio.to_thread(self._store, *self._looked())
            await asyncio.sleep(WRITE_S)


def _versions(deployment: DeploymentEntry) -> frozenset[str]:
    shadow = () if deployment.shadow is None else (deployment.shadow.target.version,)
    adapters = [
        lora.version
        for target in deployment.targets
        if target.generation is not None
        for lora in target.generation.loras.values()
    ]
    return frozenset((*(target.version for target in deployment.targets), *shadow, *adapters))
