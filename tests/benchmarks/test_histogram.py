"""Percentiles of the benchmark's histogram."""

from __future__ import annotations

import random

import pytest
from histogram import Histogram


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9, 100])
def test_a_percentile_is_at_most_two_percent_above_the_true_one(percent: float) -> None:
    """Over five orders of magnitude a percentile errs upwards and by under 2 %."""
    chance = random.Random(4)
    values = sorted(10 ** chance.uniform(-5, 1) for _ in range(5000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    true_us = values[max(round(len(values) * percent / 100) - 1, 0)] * 1e6
    got = histogram.percentile_us(percent)
    assert got is not None
    assert true_us - 1 <= got <= true_us * 1.02 + 1


def test_histograms_of_several_processes_add_up() -> None:
    """Counts written as JSON by each process merge into the histogram of all."""
    parts = []
    for start in (0, 1):
        part = Histogram()
        for i in range(start, 200, 2):
            part.add(i / 1000)
        parts.append(Histogram(part.to_dict()))
    whole = Histogram()
    for i in range(200):
        whole.add(i / 1000)
    merged = Histogram().update(parts)
    assert merged.counts == whole.counts
    assert len(merged) == 200


def test_an_empty_histogram_has_no_percentile() -> None:
    """Nothing measured is None, never zero."""
    assert Histogram().percentile_us(99) is None
