"""Shadow targets: the same inputs to another version, its answer compared with the one given.

Nobody waits for it: a shadow is asked after its caller has an answer, at low priority and with
an id of its own; what becomes of it only counts. Bounded: too many that are pending, and the
next ones are dropped and counted. Knows no key; the deployment's owner pays, as tier
"internal".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.ids import uuid7_bytes
from meuse.gateway.counters import Counters
from meuse.gateway.link import Answer, FailedError, Flight
from meuse.gateway.routes import Target
from meuse.gateway.usage import Status
from meuse.serve import frames

Tensors = Sequence[tuple[str, NDArray[Any]]]
Record = Callable[[Target, bytes, str, Status, int, int], None]
"""(shadow, usage id, protocol, status, rows, compute_us)"""

MAX_PENDING = 64
MAX_PENDING_BYTES = 32 * 1024 * 1024
"""Of one worker, over all its shadows."""
RTOL, ATOL = 1e-3, 1e-5
_IN_THREAD = 256 * 1024
_ITS_OWN = frozenset({Code.ENGINE_ERROR, Code.QUARANTINED, Code.INVALID_INPUT})
"""Failures that say that the version differs; others say that it was not there in time."""


def agree(given: Tensors, other: Tensors) -> bool:
    """Whether two answers are the same: names, shapes and datatypes; floats within rtol 1e-3
    and atol 1e-5 (NaN equals NaN), everything else exactly."""
    there = dict(other)
    if there.keys() != dict(given).keys():
        return False
    for name, a in given:
        b = there[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype.kind == "f":
            if not np.allclose(a, b, RTOL, ATOL, equal_nan=True):
                return False
        elif not np.array_equal(a, b):
            return False
    return True


class Mirror:
    """The shadows of one worker."""

    def __init__(self, counters: Counters, record: Record) -> None:
        self._counters = counters
        self._record = record
        self._pending = 0
        self._pending_bytes = 0

    def show(
        self, target: Target, protocol: str, inputs: Tensors, given: Tensors, rows: int
    ) -> None:
        """Ask the shadow of `target`'s deployment, for its share of the requests. Never raises."""
        route = target.route
        shadow, entry = route.shadow, route.deployment.shadow
        if shadow is None or entry is None or shadow.entry.version == target.entry.version:
            return
        if random.random() * 100 >= entry.percent:  # noqa: S311
            return
        self._counters.changes += 1
        size = sum([frames.size_of(array) for _, array in (*inputs, *given)])
        full = self._pending >= MAX_PENDING or self._pending_bytes + size > MAX_PENDING_BYTES
        if full or not shadow.pool.is_ready:
            shadow.stats.shadow_dropped += 1
            return
        if target.input_at != shadow.input_at:
            self._failed(shadow, Code.INVALID_INPUT)
            return
        flight = Flight(
            uuid7_bytes(),
            now_ms() + route.deployment.timeout_ms,
            inputs,
            size,
            lambda outcome: self._answered(outcome, flight, shadow, protocol, given, rows),
            frames.LOW,
            route.deployment.tenant,
        )
        try:
            shadow.pool.submit(flight)
        except MeuseError:
            shadow.stats.shadow_dropped += 1
            return
        self._pending += 1
        self._pending_bytes += size

    def _answered(
        self,
        outcome: Answer | Exception,
        flight: Flight,
        shadow: Target,
        protocol: str,
        given: Tensors,
        rows: int,
    ) -> None:
        self._counters.changes += 1
        if isinstance(outcome, Exception):
            self._done(flight)
            if isinstance(outcome, MeuseError):
                self._failed(shadow, outcome.code)
                spent_us = outcome.compute_us if isinstance(outcome, FailedError) else 0
                self._write(shadow, flight.id, protocol, "error", 0, spent_us)
            else:  # it left its deployment meanwhile
                shadow.stats.shadow_dropped += 1
            return
        self._write(shadow, flight.id, protocol, "ok", rows, outcome.compute_us)
        if sum([frames.size_of(array) for _, array in given]) <= _IN_THREAD:
            self._compared(flight, shadow, agree(given, outcome.outputs))
            return
        loop = asyncio.get_running_loop()
        comparing = loop.run_in_executor(None, agree, given, outcome.outputs)
        comparing.add_done_callback(
            lambda done: self._compared(flight, shadow, not done.cancelled() and done.result())
        )

    def _compared(self, flight: Flight, shadow: Target, same: bool) -> None:
        self._done(flight)
        self._counters.changes += 1
        if same:
            shadow.stats.agreed += 1
        else:
            shadow.stats.differed += 1

    def _failed(self, shadow: Target, code: Code) -> None:
        failed = shadow.stats.shadow_failed
        failed[code] = failed.get(code, 0) + 1
        if code in _ITS_OWN:
            shadow.stats.differed += 1

    def _done(self, flight: Flight) -> None:
        self._pending -= 1
        self._pending_bytes -= flight.size

    def _write(
        self, shadow: Target, ids: bytes, protocol: str, status: Status, rows: int, spent_us: int
    ) -> None:
        try:
            self._record(shadow, ids, protocol, status, rows, spent_us)
        except MeuseError:  # said in the log already; nobody waits who could be told
            shadow.stats.shadow_dropped += 1
