"""When requests of the lowest class start: in capacity that nobody else uses.

Every step of an engine is shared by all that runs, and what runs cannot be paused. So a request
of the class LOW starts only while none of a better class runs or waits. One that has waited too
long may start even so, as if it were of the best class that waits, as long as no other one of LOW
runs. Pure: no clock, no engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from meuse.serve.frames import LOW

PATIENCE_MS = 30_000
"""How long requests of the class LOW are held back before they start one at a time."""


def startable(
    better: Mapping[str, int],
    low: Mapping[str, float],
    running: Collection[int],
    patience_us: float,
) -> dict[str, int]:
    """The adapters whose LOW requests may start, by the class that they then count as.

    `better`: by adapter, the best class of those that wait and are not LOW. `low`: by adapter, how
    long the first of its LOW requests has waited (µs). `running`: the classes of what runs.
    """
    if not better and all(priority == LOW for priority in running):
        return dict.fromkeys(low, LOW)
    if LOW in running:
        return {}
    best = min(better.values(), default=LOW)
    return {adapter: best for adapter, waited_us in low.items() if waited_us >= patience_us}
