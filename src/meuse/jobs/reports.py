"""What a running child reports, kept in the store: at most a few times a second.

A database that is away costs a delay, never the job.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from meuse.core.clock import now_ms
from meuse.core.errors import MeuseError
from meuse.core.ports import JobStore
from meuse.jobs.pace import Pace

log = logging.getLogger(__name__)
T = TypeVar("T")

FLUSH_S = 0.2
MAX_WAITING = 1000


def patiently(work: Callable[[], T]) -> T:
    """`work`, tried again when the database is away for a moment; not when it refuses."""
    for pause in (0.2, 0.5, 1.0, 2.0, 4.0):
        try:
            return work()
        except MeuseError:
            raise
        except Exception:
            log.exception("a job waits for the store")
            time.sleep(pause)
    return work()


class Reporter:
    """One per running job; an `EventSink`. `flush` may come from another thread."""

    def __init__(self, store: JobStore, job_id: str) -> None:
        self._store = store
        self._job_id = job_id
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._progress: dict[str, Any] | None = None
        self._metrics: dict[str, float] = {}
        self._pace = Pace()
        self._flushed = 0.0
        self._writing = threading.Lock()

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "progress":
            left = self._pace.add(time.monotonic(), data["fraction"])
            if left is not None:
                data = {"eta_s": round(left, 1), **data}
            self._progress = data
        else:
            self._events.append((kind, data))
            if kind == "metrics":
                self._metrics.update(data["figures"])
        self.idle()

    def idle(self) -> None:
        """Nothing new: what waits is written when its time has come."""
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what is new."""
        self._flushed = time.monotonic()
        try:
            self._write()
        except Exception:
            log.exception("reports of %s wait for the store", self._job_id)
            del self._events[:-MAX_WAITING]

    def close(self) -> None:
        """The last flush, with patience."""
        try:
            patiently(self._write)
        except Exception:
            log.exception("the last reports of %s are lost", self._job_id)

    def _write(self) -> None:
        with self._writing:
            count, progress = len(self._events), self._progress
            events = self._events[:count]
            if progress is not None:
                events.append(("progress", progress))
            if not events:
                return
            # Events last: what is written twice after a failure must be harmless.
            self._store.update(
                self._job_id,
                progress=None if progress is None else progress["fraction"],
                metrics=self._metrics or None,
                live=None if progress is None else _live(progress),
            )
            self._store.add_events(self._job_id, events)
            del self._events[:count]  # reports may have come meanwhile
            if self._progress is progress:
                self._progress = None


def _live(progress: dict[str, Any]) -> dict[str, Any]:
    """The pace as the jobs row keeps it: the end as a moment, which stays true."""
    live: dict[str, Any] = {
        name: progress[name] for name in ("rate", "unit", "note") if name in progress
    }
    if "eta_s" in progress:
        live["ends_ms"] = now_ms() + round(progress["eta_s"] * 1000)
    return live
