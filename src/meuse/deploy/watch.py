"""Which replicas hang, by the page that each shares (see `serve.page`).

Two signs: no beat for `SILENT_S` (the process does not get to run: stopped, or stuck in code that
lets no thread run), and one batch that lasts longer than anybody can wait for it. Judges and acts
on nothing. Counts only time in which the page was looked at often, so that a machine that stood
still, or a control that did, condemns nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meuse.serve.page import PageReader

SILENT_S = 5.0
BATCH_S = 10.0
"""A batch may take the deployment's `timeout_ms`, and never less than this."""
LONGEST_LOOK_S = 2.0
"""At most this much counts from one look to the next."""


def batch_limit_s(timeout_ms: int) -> float:
    """Who is in the batch came before it began, so by then nobody waits for its answers."""
    return max(timeout_ms / 1000.0, BATCH_S)


@dataclass(slots=True)
class _Seen:
    page: PageReader
    looked_at: float
    pulse: tuple[int, int]
    silent_s: float = 0.0
    batch_s: float = 0.0

    def look(self, now: float) -> None:
        passed = min(now - self.looked_at, LONGEST_LOOK_S)
        (beat, step), before = self.page.pulse(), self.pulse
        self.silent_s = self.silent_s + passed if beat == before[0] else 0.0
        self.batch_s = self.batch_s + passed if step == before[1] and step & 1 else 0.0
        self.pulse, self.looked_at = (beat, step), now


class Watch:
    """Pages are `<sockets>/<id>.page`. `clock` is monotonic seconds."""

    def __init__(self, sockets: Path, clock: Callable[[], float]) -> None:
        self._sockets = sockets
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def look(self, limits: Mapping[str, float]) -> dict[str, str]:
        """The longest batch in seconds, by ready replica → why one hangs, by replica."""
        now = self._clock()
        for replica in self._seen.keys() - limits.keys():
            self._seen.pop(replica).page.close()
        hung = {}
        for replica, limit_s in limits.items():
            seen = self._seen.get(replica)
            if seen is None:
                self._begin(replica, now)
                continue
            seen.look(now)
            if seen.silent_s >= SILENT_S:
                hung[replica] = f"it shows no life for {seen.silent_s:.0f} s"
            elif seen.batch_s >= limit_s:
                hung[replica] = f"a batch takes longer than {limit_s:g} s"
        return hung

    def _begin(self, replica: str, now: float) -> None:
        try:
            page = PageReader(self._sockets / f"{replica}.page")
        except (OSError, ValueError):  # gone, or of an earlier release
            return
        self._seen[replica] = _Seen(page, now, page.pulse())
