"""What a worker promises of its usage records, and what it does when the disk takes none.

`strict`: an answer ends once its record is on the disk. Requests wait for one fsync together,
in another thread; the loop goes on. `group`: the record is written, and fsynced within 50 ms.

When the disk refuses records, requests that meet a hard budget are refused: what cannot be
counted must not be spent. Others follow the operator's word: `refuse`, or `serve`, which answers
and counts what was lost. Who is refused is refused before it is worked for, but for those that
were under way. Knows the journal and no protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from meuse.core.errors import Code, MeuseError
from meuse.gateway.counters import clock_ms
from meuse.meter.checks import Plan

logger = logging.getLogger(__name__)

_PROBE_MS = 250.0
"""A disk that refused a record is tried again so often, where somebody asks."""

Then = Callable[[MeuseError | None], None]
"""Called once records are on the disk, or with why they are not."""


class Syncing(Protocol):
    """What of the journal is needed here."""

    is_refusing: bool

    def sync(self) -> None: ...
    def probe(self) -> bool: ...


class Commits:
    """Who waits for the disk. One fsync at a time, for all that were appended before it."""

    def __init__(self, sync: Callable[[], None], told: Callable[[float, bool], None]) -> None:
        self._sync = sync
        self._told = told
        self._waiting: list[Then] = []
        self._task: asyncio.Task[None] | None = None

    def after(self, then: Then) -> None:
        """Call `then` when everything appended until now is on the disk. On the loop."""
        self._waiting.append(then)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="commits")

    async def _run(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                began, failure = clock_ms(), None
                try:
                    await asyncio.to_thread(self._sync)
                except OSError as error:
                    logger.error("the usage journal cannot be synced: %s", error)
                    failure = unrecorded()
                    # It may have been their pages that were lost, of which no later sync tells.
                    waiting += self._waiting
                    self._waiting = []
                self._told(began, failure is None)
                for then in waiting:
                    try:
                        then(failure)
                    except Exception:
                        logger.exception("an answer could not be given")
        finally:
            self._task = None


class Durability:
    """Of one worker. `commits` is None in `group`; `lost` counts what was served unrecorded."""

    def __init__(
        self, journal: Syncing, *, commits: Commits | None = None, serves_when_full: bool = False
    ) -> None:
        self._journal = journal
        self.commits = commits
        self.serves_when_full = serves_when_full
        self.lost = 0
        self._probed_ms = 0.0

    def check(self, plan: Plan | None) -> None:
        """Before it is worked for. Raises `unavailable` where it could not be recorded."""
        if self._journal.is_refusing and self._must_refuse(plan) and not self._recovers():
            raise unrecorded()

    def failed(self, error: Exception, plan: Plan | None, *, is_last: bool = True) -> None:
        """A record could not be written, the last of its request or one that another follows.
        Raises `unavailable` unless it is served all the same."""
        if isinstance(error, OSError) and not self._must_refuse(plan):
            if not self.lost:
                logger.error("the usage journal refuses records, which are lost: %s", error)
            self.lost += is_last
            return
        logger.error("the usage journal refuses records: %s", error)
        raise unrecorded() from error

    def _recovers(self) -> bool:
        now = clock_ms()
        if now - self._probed_ms < _PROBE_MS:
            return False
        self._probed_ms = now
        return self._journal.probe()

    def _must_refuse(self, plan: Plan | None) -> bool:
        return not self.serves_when_full or is_hard(plan)


def is_hard(plan: Plan | None) -> bool:
    """Whether a hard budget is among these limits."""
    return any(check.limit.kind == "budget" and check.limit.hard for check in plan or ())


def unrecorded() -> MeuseError:
    return MeuseError(Code.UNAVAILABLE, "usage cannot be recorded", hint="Try again later.")
