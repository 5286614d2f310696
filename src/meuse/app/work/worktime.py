"""The time that a job's process works, in a file that control reads when the attempt has ended.

Written every second by a thread: a kill -9 may leave the last one uncounted. For work that asks no
budget; what does is timed by `spending`.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from meuse.core.clock import now_ms

KEPT = "checkpoint-worked.json"
METER = "compute_ms"
EVERY_S = 1.0


class Worked:
    """A context manager around the work of one attempt; `told` is what control says of it.

    An attempt whose process was killed and started again goes on counting.
    """

    def __init__(self, folder: Path, told: dict[str, Any], every_s: float = EVERY_S) -> None:
        self._path = folder / KEPT
        self._attempt = str(told["attempt"])
        self._kept = _read(self._path)
        mine = self._kept.setdefault(self._attempt, {METER: 0})
        mine["plan_version"] = told["plan_version"]
        self._before: int = mine[METER]
        self._every_s = every_s
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worked", daemon=True)

    def __enter__(self) -> Worked:
        self._note()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._note()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._note()

    def _note(self) -> None:
        mine = self._kept[self._attempt]
        mine[METER] = self._before + -(-int((time.monotonic() - self._began) * 1e6) // 1000)
        mine["ts"] = now_ms()
        fresh = self._path.with_name(f"{KEPT}.new")
        fresh.write_text(json.dumps(self._kept))
        fresh.replace(self._path)


def worked_in(folder: Path, attempt: int) -> dict[str, Any] | None:
    """What an attempt came to: {compute_ms, ts, plan_version}; None where it did not begin."""
    found: dict[str, Any] | None = _read(folder / KEPT).get(str(attempt))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found
