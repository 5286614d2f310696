"""Which replicas may start within a budget of memory, and what must be unloaded for them.

Pure: bytes in, names out. Knows no process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Held:
    """What the replicas of one deployment hold together."""

    name: str
    bytes: int
    used_at: float
    idle: bool
    """It may be unloaded: it scales to zero, is ready, and nothing is ongoing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    start: tuple[int, ...]
    """Places in what was asked that may start now."""
    unload: tuple[str, ...]
    missing: dict[str, int] = field(default_factory=dict)
    """Bytes that are lacking, by deployment, with all that is idle unloaded."""


def admit(budget: int, held: Sequence[Held], asks: Sequence[tuple[str, int]]) -> Verdict:
    """`asks`: (deployment, bytes that one more replica of it is expected to take), most
    urgent first.

    What is unloaded makes room only once it is gone, so its successor starts a turn later. The
    least recently used goes first, and only if that will do. One that asks itself goes last: at
    rest it needs no room for its next version beside the one before.
    """
    now = later = budget - sum(h.bytes for h in held)
    asking = {name for name, _ in asks}
    idle = sorted((h for h in held if h.idle), key=lambda h: (h.name in asking, h.used_at, h.name))
    start: list[int] = []
    unload: list[str] = []
    while later < 0 and idle:  # what was guessed turned out to be more
        later += idle[0].bytes
        unload.append(idle.pop(0).name)
    missing: dict[str, int] = {}
    for place, (name, size) in enumerate(asks):
        if size <= min(now, later):
            start.append(place)
            now -= size
            later -= size
            continue
        going, gained = 0, 0
        while going < len(idle) and later + gained < size:
            gained += idle[going].bytes
            going += 1
        if later + gained < size:
            missing[name] = size - later - gained
            continue
        unload += [h.name for h in idle[:going]]
        idle = idle[going:]
        later += gained - size  # kept for it
    return Verdict(tuple(start), tuple(unload), missing)
