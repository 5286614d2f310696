"""How long a job will still take, from how its fraction has grown. Pure."""

from __future__ import annotations

from collections import deque

SAMPLES = 64
HORIZON_S = 300.0
"""Growth is looked at over so long: what was faster an hour ago says little about now."""


class Pace:
    """One per run of a child. `add` is called with each report, times in seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=SAMPLES)

    def add(self, at_s: float, fraction: float) -> float | None:
        """Seconds left after this report; None while nothing can be said."""
        seen = self._seen
        if seen and fraction < seen[-1][1]:
            seen.clear()  # another child goes on from an earlier checkpoint
        # Far apart enough that the samples span the horizon, however often it is reported.
        if len(seen) > 1 and at_s - seen[-2][0] < HORIZON_S / SAMPLES:
            seen[-1] = (at_s, fraction)
        else:
            seen.append((at_s, fraction))
        while len(seen) > 2 and at_s - seen[0][0] > HORIZON_S:
            seen.popleft()
        (began_s, first), (now_s, last) = seen[0], seen[-1]
        if last <= first or now_s <= began_s:
            return None
        return (1.0 - last) * (now_s - began_s) / (last - first)
