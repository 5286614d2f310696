"""A worker's live counters: who waits, what came out, how long it took.

Plain numbers that only the worker's loop touches; `Counters.write` brings them to the slot's
file now and then (see `serve.stats`). Knows no protocol and no price.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from meuse.core.errors import Code
from meuse.gateway.link import Answer, FailedError
from meuse.serve import stats
from meuse.serve.stats import RouteStats, TargetStats, WorkerStats

logger = logging.getLogger(__name__)

WRITE_S = 0.2


def clock_ms() -> float:
    """Unix milliseconds with their fractions."""
    return time.time() * 1000.0


class Counters:
    """The counters of one worker slot."""

    def __init__(self, folder: Path, slot: int, epoch: int) -> None:
        self._folder = folder
        self.stats = stats.begin(folder, slot, epoch)
        self.changes = 0

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

    def refused(self, code: str) -> None:
        """A call that no deployment was found for, or whose key was not good."""
        self.changes += 1
        self.stats.refused[code] = self.stats.refused.get(code, 0) + 1

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

    def slots(self) -> list[WorkerStats]:
        """These, live, and the last written ones of the other workers."""
        return [self.stats, *stats.read_all(self._folder, but=self.stats.slot)]

    def write(self) -> None:
        """Bring them to the file."""
        self.stats.at_ms = clock_ms()
        try:
            stats.write(self._folder, self.stats)
        except OSError as error:
            logger.error("counters cannot be written: %s", error)

    async def keep(self) -> None:
        """Write whenever something has changed, or is ongoing; until cancelled."""
        written = -1
        while True:
            if self.changes != written or any(r.ongoing for r in self.stats.routes.values()):
                written = self.changes
                self.write()
            await asyncio.sleep(WRITE_S)
