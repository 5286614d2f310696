"""What a job's process counts against budgets: it reserves, works, settles, and stops in time.

Counts in the file that the host's gateway workers share (`meter.limits`), so that jobs and
requests spend one budget together. What a killed process had reserved is free again; what it
had settled stays; its last part or second may not be counted. Budgets are looked at where work
may be paused, once a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Limit, PriceTable
from meuse.core.ports import JobContext, Paused
from meuse.core.prices import Prices
from meuse.meter.cells import BusyError
from meuse.meter.checks import Grant, Plan
from meuse.meter.jobs import TIER
from meuse.meter.limits import Limits

TRAINING = "training_ms"
SLICE_MS = 1000
"""Reserved ahead: a budget with less left is spent."""
KEPT = "checkpoint-spent.json"
TOKENS = "training_tokens"
TOKENS_KEPT = "checkpoint-tokens.json"
TOKENS_AHEAD = 4096
_BUSY_S = 0.005
_COUNTED_S = 30.0
"""How long a job waits for a budget whose counts were lost."""
_BESIDE = {"rows": ("compute_ms",)}
"""Meters that are used beside another one, and cannot be told before: their prices must be known,
and what they cost counts as it goes."""


class Budgets:
    """A context manager; `told` is what control says (`kinds.budgets`). Raises OSError when the
    file of the cells cannot be had: what cannot be counted must not be spent."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._meter: str = told["meter"]
        self._cells = Path(told["cells"]) if told["limits"] else None
        self._limits = None if self._cells is None else _opened(self._cells)
        self._plan = Plan(())
        if self._limits is not None:
            budgets = [Limit(**limit) for limit in told["limits"]]
            self._plan = self._limits.plan_of(budgets, _prices(told))
        self._grant: Grant | None = None

    def __enter__(self) -> Budgets:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.settle(0)
        if self._cells is not None:
            _closed(self._cells)

    def settle(self, used: int, ahead: int = 0, **beside: int) -> None:
        """Count `used` in place of what was reserved, then reserve `ahead`. What was used
        `beside` its meter (by meter) costs money too, where that is counted.

        Raises `budget_exceeded` when that is not there; what is used after that still counts.
        """
        if self._limits is None:
            return
        if self._grant is not None:
            # It holds nothing any more, and where it gets no successor goes on counting.
            more = {self._meter: used, **beside}
            self._limits.progress(self._grant, more, {self._meter: 0})
        if ahead:
            self._grant = self._reserve(self._limits, ahead)

    def _reserve(self, limits: Limits, amount: int) -> Grant:
        end = time.monotonic() + _COUNTED_S
        while True:
            try:
                needs = dict.fromkeys(_BESIDE.get(self._meter, ()), 0)
                return limits.admit(self._plan, {self._meter: amount, **needs})
            except BusyError:
                time.sleep(_BUSY_S)
            except MeuseError as error:
                if error.code is Code.UNAVAILABLE and time.monotonic() < end:
                    time.sleep(0.1)  # counted anew by the ledger, in a moment
                    continue
                if error.code not in (Code.BUDGET_EXCEEDED, Code.RATE_LIMITED):
                    raise
                raise _spent(error, amount, self._meter) from None


_open: dict[Path, tuple[Limits, int]] = {}


def _opened(path: Path) -> Limits:
    """The limits of this process: it may count several meters, and has one slot in the file."""
    limits, users = _open.get(path) or (Limits(path), 0)
    _open[path] = limits, users + 1
    return limits


def _closed(path: Path) -> None:
    limits, users = _open.pop(path)
    if users > 1:
        _open[path] = limits, users - 1
    else:
        limits.close()


def _prices(told: dict[str, Any]) -> Prices | None:
    if told.get("prices") is None:
        return None
    plan, table = told["prices"]
    return Prices(plan, PriceTable(**table), told["model"], TIER)


def _spent(error: MeuseError, amount: int, meter: str) -> MeuseError:
    what, resets = error.message.partition(";")[0], ""
    if error.code is Code.BUDGET_EXCEEDED:
        resets = f"{error.hint} "
    return MeuseError(
        Code.BUDGET_EXCEEDED,
        f"{what}; the job needs {amount} {meter} to go on",
        field="budget",
        hint=f"{resets}Retry the job when there is more: it goes on from its last checkpoint, if "
        "its kind has any.",
    )


class Clock:
    """The time of a training, by `KEPT` in the job's folder and by the budgets. `refused` is why
    it must stop."""

    def __init__(self, folder: Path, inputs: dict[str, Any], budgets: Budgets) -> None:
        self._path = folder / KEPT
        self._attempt = str(inputs["attempt"])
        self._kept: dict[str, Any] = _read(self._path)
        mine = self._kept.setdefault(self._attempt, {TRAINING: 0})
        mine["plan_version"] = inputs["plan_version"]
        self._budgets = budgets
        self._since = time.monotonic()
        budgets.settle(0, SLICE_MS)
        self.refused: MeuseError | None = None

    def is_over(self) -> bool:
        """Count, once a second; whether the budgets want it to stop."""
        if self.refused is None and time.monotonic() - self._since >= SLICE_MS / 1000:
            try:
                self.count(SLICE_MS)
            except MeuseError as error:
                self.refused = error
        return self.refused is not None

    def count(self, ahead: int = 0) -> None:
        now = time.monotonic()
        used, self._since = round((now - self._since) * 1000), now
        mine = self._kept[self._attempt]
        mine[TRAINING] += used
        mine["ts"] = now_ms()
        fresh = self._path.with_name(f"{KEPT}.new")
        fresh.write_text(json.dumps(self._kept))
        fresh.replace(self._path)
        self._budgets.settle(used, ahead)


def timed(
    work: Callable[[JobContext], dict[str, Any]], context: JobContext, inputs: dict[str, Any]
) -> dict[str, Any]:
    """The work, its time counted. Raises `budget_exceeded` at the start, or at the first
    checkpoint after a budget is spent."""
    with Budgets(inputs["budgets"]) as budgets:
        clock = Clock(context.folder, inputs, budgets)
        try:
            return work(Watched(context, clock.is_over))
        except Paused:
            if clock.refused is not None:
                raise clock.refused from None
            raise
        finally:
            clock.count()


class Watched:
    """The job that a work is given: it is also to pause when `is_over` says so."""

    def __init__(self, job: JobContext, is_over: Callable[[], bool]) -> None:
        self._job, self._is_over = job, is_over
        self.progress, self.metrics, self.log = job.progress, job.metrics, job.log

    @property
    def folder(self) -> Path:
        return self._job.folder

    @property
    def checkpoint(self) -> Path:
        return self._job.checkpoint

    def paused(self) -> bool:
        return self._is_over() or self._job.paused()


def used_in(folder: Path, attempt: int) -> dict[str, Any] | None:
    """What an attempt of a job has used: `training_ms`, `ts`, `plan_version`, and for those that
    count them `training_tokens`."""
    used: dict[str, Any] | None = _read(folder / KEPT).get(str(attempt))
    tokens = _read(folder / TOKENS_KEPT).get(str(attempt))
    return used if used is None or tokens is None else {**used, TOKENS: tokens}


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


class Tokens:
    """The tokens that a fine-tuning has trained on, each counted once however often its process
    was killed and went on from a checkpoint. A context manager around the training, which is
    given `job`: it is to pause when the budgets are spent. Without `spends` they are not asked.
    `whole` is what the job will have trained on at its end, once that is known: beyond it nothing
    is reserved."""

    def __init__(self, job: JobContext, inputs: dict[str, Any], *, spends: bool = True) -> None:
        self.job: JobContext = Watched(job, lambda: self._refused is not None)
        self._path = job.folder / TOKENS_KEPT
        self._attempt = str(inputs["attempt"])
        self._kept: dict[str, int] = _read(self._path)
        told = inputs["token_budgets"]
        self._budgets = Budgets(told if spends else {**told, "limits": []})
        self.whole: int | None = None
        self._refused: MeuseError | None = None

    def __enter__(self) -> Tokens:
        self._settle(0)
        if self._refused is not None:
            self._budgets.__exit__(None, None, None)
            raise self._refused
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._budgets.__exit__(kind, error, trace)
        if isinstance(error, Paused) and self._refused is not None:
            raise self._refused from None

    @property
    def total(self) -> int:
        """What was counted, all attempts together."""
        return sum(self._kept.values())

    def trained(self, total: int) -> None:
        """`total` tokens have been trained on in this job, all attempts together."""
        new = total - self.total
        if new <= 0:  # trained again after a death, and counted before
            return
        self._kept[self._attempt] = self._kept.get(self._attempt, 0) + new
        fresh = self._path.with_name(f"{TOKENS_KEPT}.new")
        fresh.write_text(json.dumps(self._kept))
        fresh.replace(self._path)
        self._settle(new)

    def _settle(self, used: int) -> None:
        ahead = 0 if self._refused else max(TOKENS_AHEAD, used)
        if self.whole is not None:
            ahead = max(min(ahead, self.whole - self.total), 0)
        try:
            self._budgets.settle(used, ahead)
        except MeuseError as error:
            self._refused = error
