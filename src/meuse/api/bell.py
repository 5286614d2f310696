"""Wakes those who wait for news of a job, instead of letting them ask the database.

News comes from any thread of this process; listeners wait on their event loop. A listener
asks the store what the news is, and now and then without any: what another process has
written rings nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator


class Listener:
    """One that waits for news of one job."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> None:
        """From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its listeners with it
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> bool:
        """Until there is news, which is then taken; False after `seconds` without."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Bell:
    """One per control process."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Listener]] = {}
        self._lock = threading.Lock()

    def ring(self, job_id: str) -> None:
        """There is news of this job. From any thread; costs next to nothing without listeners."""
        with self._lock:
            listeners = list(self._listeners.get(job_id, ()))
        for listener in listeners:
            listener.ring()

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[Listener]:
        """Listen while the block runs: no news is missed that comes after its start."""
        listener = Listener()
        with self._lock:
            self._listeners.setdefault(job_id, set()).add(listener)
        try:
            yield listener
        finally:
            with self._lock:
                mine = self._listeners[job_id]
                mine.discard(listener)
                if not mine:
                    del self._listeners[job_id]
