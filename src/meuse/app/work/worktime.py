"""The time that a job's process works, in a file that control reads when the attempt has ended.

Written every second by a thread, and counted against budgets then: a kill -9 may leave the last
one uncounted. For works that do not ask every second whether they are to pause; those that do are
timed by `spending`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from meuse.app.work.spending import SLICE_MS, Budgets, Watched
from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.ports import JobContext, Paused

KEPT = "checkpoint-worked.json"
METER = "compute_ms"
EVERY_S = 1.0
_AHEAD_MS = 2 * SLICE_MS
"""Reserved: more than is used until the next look."""


class Worked:
    """A context manager around the work of one attempt; `told` is what control says of it.

    An attempt whose process was killed and started again goes on counting. `refused` is why it
    must stop: a budget is spent.
    """

    def __init__(
        self, folder: Path, told: dict[str, Any], budgets: Budgets, every_s: float | None = None
    ) -> None:
        self._path = folder / KEPT
        self._attempt = str(told["attempt"])
        self._kept = _read(self._path)
        mine = self._kept.setdefault(self._attempt, {METER: 0})
        mine["plan_version"] = told["plan_version"]
        self._before: int = mine[METER]
        self._counted = self._before
        self._budgets = budgets
        self.refused: MeuseError | None = None
        self._every_s = EVERY_S if every_s is None else every_s
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worked", daemon=True)

    def __enter__(self) -> Worked:
        """Raises `budget_exceeded` where nothing is left."""
        self._budgets.settle(0, _AHEAD_MS)
        self._write()
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
            try:
                self._note(0 if self.refused else _AHEAD_MS)
            except MeuseError as error:
                self.refused = error  # what is used from now on counts all the same
            except Exception as error:  # such as a full disk: what is not counted is not done
                self.refused = MeuseError(
                    Code.UNAVAILABLE,
                    f"the job's time cannot be counted: {error}",
                    hint="Try again later.",
                )

    def _note(self, ahead: int = 0) -> None:
        mine = self._kept[self._attempt]
        mine[METER] = self._before + -(-int((time.monotonic() - self._began) * 1e6) // 1000)
        used, self._counted = mine[METER] - self._counted, mine[METER]
        try:
            # First: a death in between must not give back what is written.
            self._budgets.settle(used, ahead)
        finally:
            self._write()

    def _write(self) -> None:
        self._kept[self._attempt]["ts"] = now_ms()
        fresh = self._path.with_name(f"{KEPT}.new")
        fresh.write_text(json.dumps(self._kept))
        fresh.replace(self._path)


def worked(
    work: Callable[[JobContext], dict[str, Any]], context: JobContext, told: dict[str, Any]
) -> dict[str, Any]:
    """The work, its time counted. Raises `budget_exceeded` at the start, or where the work next
    tells how far it is, or asks whether to pause, after a budget is spent; not when all is done.
    """
    nothing = {"meter": METER, "limits": [], "cells": ""}  # a release before told of none
    with (
        Budgets(told.get("budgets", nothing)) as budgets,
        Worked(context.folder, told, budgets) as clock,
    ):
        try:
            return work(_Stopped(context, clock))
        except Paused:
            if clock.refused is not None:
                raise clock.refused from None
            raise


class _Stopped(Watched):
    """Many such works cannot pause: they end where they tell of their progress."""

    def __init__(self, job: JobContext, clock: Worked) -> None:
        super().__init__(job, lambda: clock.refused is not None)
        self.progress = self._told
        self._clock = clock

    def _told(self, fraction: float, *args: Any, **more: Any) -> None:
        if self._clock.refused is not None and fraction < 1:
            raise self._clock.refused
        self._job.progress(fraction, *args, **more)


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
