"""Latency in turns: how many rounds and calls slow and fast engines get, and in which order."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from meuse.compress.latency import Times, compare, feeds_of, in_turns
from meuse.serve.engines.onnx import OnnxEngine
from serve import models

ROWS = {"x": np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)}


class Watched(OnnxEngine):
    """A real engine that writes into `heard` when it is called, and takes `seconds` longer; its
    first call `first` longer."""

    def __init__(
        self, name: str, heard: list[tuple[str, int]], seconds: float = 0.0, first: float = 0.0
    ) -> None:
        super().__init__(models.scores())
        self.name, self.heard, self.seconds, self.first = name, heard, seconds, first

    def run(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.heard.append((self.name, len(inputs["x"])))
        # A sleep of nothing gives the processor away.
        if self.seconds or self.first:
            time.sleep(self.seconds + self.first)
        self.first = 0.0
        return super().run(inputs)


def counts(times: Times) -> list[int]:
    return [len(each) for each in times.rounds]


@pytest.mark.parametrize(("batch", "calls"), [(1, 50), (32, 10)])
def test_fast_engines_get_forty_rounds(batch: int, calls: int) -> None:
    """2,000 calls each at batch 1 and 400 at 32, always of so many rows, and a few before."""
    heard: list[tuple[str, int]] = []
    engines = {name: Watched(name, heard) for name in ("before", "after")}
    taken = in_turns(engines, ROWS, batch, max_seconds=60)
    assert {name: counts(times) for name, times in taken.items()} == {
        "before": [calls] * 40,
        "after": [calls] * 40,
    }
    assert {rows for _, rows in heard} == {batch}
    assert len(heard) == 2 * (40 * calls + 20)
    assert all(ms > 0 for times in taken.values() for each in times.rounds for ms in each)


def test_slow_engines_get_eight_rounds() -> None:
    """Beside one that takes 30 ms there is time for one call a round, and both get eight, with
    which an interval can be told; it goes on no longer."""
    heard: list[tuple[str, int]] = []
    engines = {"before": Watched("before", heard, 0.03), "after": Watched("after", heard)}
    taken = in_turns(engines, ROWS, 1, max_seconds=0.1)
    assert {name: counts(times) for name, times in taken.items()} == {
        "before": [1] * 8,
        "after": [1] * 8,
    }
    assert taken["before"].percentile(0) >= 30
    found = compare(taken["before"], taken["after"])
    assert 0 < found.low <= found.ratio <= found.high < 1


def test_between_them_rounds_have_fewer_calls() -> None:
    """At 2 ms a call, two seconds are shared out among forty rounds."""
    heard: list[tuple[str, int]] = []
    taken = in_turns({"it": Watched("it", heard, 0.002)}, ROWS, 1, max_seconds=2)
    found = counts(taken["it"])
    assert 8 <= len(found) <= 40
    assert len(set(found)) == 1
    assert 1 <= found[0] <= 25


def test_a_first_call_that_takes_long_is_no_measure_of_the_others() -> None:
    """Neither is it among the times, nor does it make the rounds shorter."""
    taken = in_turns({"it": Watched("it", [], first=0.5)}, ROWS, 1, max_seconds=10)
    assert counts(taken["it"]) == [50] * 40
    assert taken["it"].percentile(100) < 500


def test_every_other_round_goes_backwards() -> None:
    """So nobody always comes after the same neighbour."""
    heard: list[tuple[str, int]] = []
    engines = {name: Watched(name, heard, 0.01) for name in ("a", "b", "c")}
    in_turns(engines, ROWS, 1, max_seconds=0.05)
    asked = "".join(name for name, _ in heard[-24:])
    assert asked == "abccba" * 4


def test_rows_are_repeated_to_fill_batches() -> None:
    """Sixteen inputs, each going on where the one before ended; without rows there is nothing to
    measure with."""
    feeds = feeds_of({"x": np.arange(5), "y": np.arange(5) * 10}, 3)
    assert len(feeds) == 16
    assert np.concatenate([feed["x"] for feed in feeds]).tolist() == [i % 5 for i in range(48)]
    assert all((feed["y"] == 10 * feed["x"]).all() for feed in feeds)
    with pytest.raises(ValueError, match="no rows"):
        feeds_of({"x": np.zeros((0, 2))}, 1)


def test_a_ratio_is_of_rounds_side_by_side() -> None:
    """A moment in which everything takes ten times as long changes nothing; chance is told."""
    random = np.random.default_rng(0)
    busy = np.where(random.random(40) < 0.3, 10.0, 1.0)
    before = Times([[ms, 2 * ms, 3 * ms] for ms in busy])
    halved = Times([[ms / 2, ms, 1.5 * ms] for ms in busy])
    found = compare(before, halved)
    assert (found.ratio, found.low, found.high) == (0.5, 0.5, 0.5)
    noisy = Times([[2 * ms * random.lognormal(sigma=0.2)] for ms in busy])
    found = compare(before, noisy)
    assert found.low < found.ratio < found.high
    assert found.low < 1 < found.high
