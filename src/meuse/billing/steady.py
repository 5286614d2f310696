"""The time up to which usage may count as complete, when the system's clock jumps.

A clock that jumps forward says that a month is over which is not: an invoice that is issued by
it cannot be taken back. So a jump is held back until the clock has kept to its new time for a
while, and is told. A jump back is followed at once: what is claimed is then less, not more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from meuse.core.clock import Clock, now_ms, to_rfc3339

JUMP_MS = 60_000
"""Less than this is a clock that is set right."""
HOLD_MS = 15 * 60_000


def elapsed_ms() -> int:
    """Since the machine was started, sleep included; never set back."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Steady:
    """`told(from, to)` hears of each jump, both in RFC 3339."""

    def __init__(
        self,
        told: Callable[[str, str], None] = lambda before, after: None,
        clock: Clock = now_ms,
        elapsed: Clock = elapsed_ms,
    ) -> None:
        self._told = told
        self._clock = clock
        self._elapsed = elapsed
        self._wall, self._at = clock(), elapsed()
        self._since: int | None = None  # of a jump forward that is held back
        self._ahead = 0

    def __call__(self) -> int:
        wall, at = self._clock(), self._elapsed()
        expected = self._wall + at - self._at
        ahead = wall - expected
        if ahead <= JUMP_MS:
            if ahead < -JUMP_MS:
                self._told(to_rfc3339(max(expected, 0)), to_rfc3339(max(wall, 0)))
            self._wall, self._at, self._since = wall, at, None
            return wall
        if self._since is None or abs(ahead - self._ahead) > JUMP_MS:
            self._since, self._ahead = at, ahead
            self._told(to_rfc3339(expected), to_rfc3339(wall))
        if at - self._since >= HOLD_MS:
            self._wall, self._at, self._since = wall, at, None
            return wall
        return expected
