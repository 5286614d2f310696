"""How long two models take in the serving engine on this machine, measured in turns.

Knows engines through their port; knows no method and no limit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.compress.answers import Rows
from meuse.core.ports import Engine

BATCHES = (1, 32)
_ROUNDS = 40
_LEAST_ROUNDS = 8
"""However slow the models: an interval from fewer rounds would say nothing."""
_CALLS = {1: 50, 32: 10}  # calls per model and round at most, by batch size
_MAX_SECONDS = 5.0
_WARM_UP = 20
_WARM_UP_SHARE = 0.1  # of the seconds, for every model
_RESAMPLES = 2000


@dataclass(slots=True)
class Times:
    """Milliseconds of every call of one model at one batch size, by round."""

    rounds: list[list[float]] = field(default_factory=list)

    def percentile(self, q: float) -> float:
        return round(float(np.percentile(np.concatenate(self.rounds), q)), 5)

    def medians(self) -> NDArray[np.float64]:
        """[rounds]"""
        return np.array([np.median(each) for each in self.rounds])


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long the second model takes, by the medians of paired rounds, with the
    95% interval of a bootstrap over rounds."""

    ratio: float
    low: float
    high: float


def in_turns(
    engines: Mapping[str, Engine], rows: Rows, batch: int, *, max_seconds: float = _MAX_SECONDS
) -> dict[str, Times]:
    """Call every engine on batches of `rows` (repeated as needed), a round of each in turn.

    2,000 calls at batch 1 and 400 at 32 each in 40 rounds; fewer calls in a round when that takes
    more than `max_seconds`, and fewer rounds, but never fewer than 8, when even one call does.
    Every other round goes backwards, so that nobody always comes after the same neighbour; a
    busy moment hits both.
    """
    feeds = feeds_of(rows, batch)
    taken = {name: Times() for name in engines}
    turn_seconds = sum(_warm(engine, feeds, max_seconds) for engine in engines.values())
    fitting = int(max_seconds / (_ROUNDS * max(turn_seconds, 1e-9)))
    calls = max(1, min(_CALLS.get(batch, 10), fitting))
    deadline = time.monotonic() + max_seconds
    order = list(engines)
    for turn in range(_ROUNDS):
        for name in order if turn % 2 == 0 else reversed(order):
            taken[name].rounds.append(_round(engines[name], feeds, turn, calls))
        if turn + 1 >= _LEAST_ROUNDS and time.monotonic() > deadline:
            break
    return taken


def _warm(engine: Engine, feeds: list[dict[str, NDArray[Any]]], max_seconds: float) -> float:
    """Call it until it is as fast as it will be; seconds of a call, the first aside."""
    engine.run(feeds[0])
    began = time.monotonic()
    for call in range(1, _WARM_UP):
        engine.run(feeds[call % len(feeds)])
        if time.monotonic() - began > _WARM_UP_SHARE * max_seconds:
            break
    return (time.monotonic() - began) / call


def compare(before: Times, after: Times, seed: int = 0) -> Ratio:
    """The ratio of the medians of `after` to those of `before`, round by round.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    ratios = after.medians() / np.maximum(before.medians(), 1e-9)
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = generator.integers(0, len(ratios), size=(_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return Ratio(*(round(float(v), 4) for v in (np.median(ratios), low, high)))


def feeds_of(rows: Rows, batch: int) -> list[dict[str, NDArray[Any]]]:
    """Up to 16 different inputs of `batch` rows each, rows repeated as needed."""
    count = len(next(iter(rows.values())))
    if count == 0:
        raise ValueError("no rows to measure with")
    places = np.arange(16 * batch).reshape(16, batch) % count
    return [{name: np.ascontiguousarray(v[at]) for name, v in rows.items()} for at in places]


def _round(
    engine: Engine, feeds: list[dict[str, NDArray[Any]]], turn: int, calls: int
) -> list[float]:
    taken = []
    for call in range(calls):
        feed = feeds[(turn + call) % len(feeds)]
        start = time.perf_counter_ns()
        engine.run(feed)
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken
