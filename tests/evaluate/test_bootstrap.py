"""Intervals: known ones are found, pairs are kept, the same seed gives the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap as reference
from sklearn import metrics

from evaluate.conftest import Real
from meuse.evaluate import bootstrap, figures
from meuse.evaluate.judge import differences, judge, rows_of

ROWS = rows_of("set:1", "d" * 64, "test", "target", 3)


def test_the_interval_of_a_mean_is_the_normal_one(cancer: Real) -> None:
    """Accuracy of a few hundred rows: within a fifth of its width of ± 1.96 √(pq/n)."""
    y = cancer.y
    found = judge(cancer.outputs, y, "classification", ROWS).evaluation
    p, n = found.figures["accuracy"], len(y)
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    low, high = found.intervals["accuracy"]
    assert low == pytest.approx(p - half, abs=half / 2.5)
    assert high == pytest.approx(p + half, abs=half / 2.5)


def test_the_interval_of_r2_is_scipys(diabetes: Real) -> None:
    """A ratio of sums: as the reference implementation resamples it."""
    found = judge(diabetes.outputs, diabetes.y, "regression", ROWS).evaluation
    expected = reference(
        (diabetes.y, diabetes.outputs),
        metrics.r2_score,
        paired=True,
        vectorized=False,
        n_resamples=999,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = expected.high - expected.low
    assert found.intervals["r2"][0] == pytest.approx(expected.low, abs=width / 6)
    assert found.intervals["r2"][1] == pytest.approx(expected.high, abs=width / 6)


def test_resamples_are_those_of_the_rows_drawn(digits: Real) -> None:
    """Figures under weights are the figures of the rows that the weights say."""
    p, y = digits.outputs[:200], digits.y[:200]
    measured = figures.classification(p, y)
    weights = next(bootstrap.weights(200, 3, seed=5))
    assert weights.sum(axis=0).tolist() == [200, 200, 200]
    for b in range(3):
        drawn = np.repeat(np.arange(200), weights[:, b].astype(int))
        again = figures.classification(p[drawn], y[drawn]).point(200)
        under = {**measured.sums(weights), **measured.ranks(weights)}
        assert {k: v[b] for k, v in under.items()} == pytest.approx(again)


def test_many_rows_are_drawn_one_by_one() -> None:
    """Poisson counts have mean and variance 1, and the intervals are the same."""
    n = 20_000
    weights = next(bootstrap.weights(n, 50, seed=0))
    assert weights.mean() == pytest.approx(1, abs=0.01)
    assert weights.var() == pytest.approx(1, abs=0.02)
    v = np.random.default_rng(0).normal(size=n)
    samples = bootstrap.samples(figures.regression(v, np.zeros(n)), n, seed=0)
    low, high = bootstrap.interval(samples["mse"]) or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(2 / n), rel=0.15)


def test_pairs_are_kept(digits: Real) -> None:
    """A model against itself differs by nothing; a slightly worse one by less than the two
    intervals overlap: what is common to both cancels."""
    p, y = digits.outputs, digits.y
    worse = p.copy()
    right = np.flatnonzero(p.argmax(axis=1) == y)[:20]
    worse[right] = np.roll(worse[right], 1, axis=1)
    one, two = (judge(x, y, "classification", ROWS) for x in (p, worse))
    for same in differences(one, "m:1", one):
        assert same.difference == 0
        assert same.interval == (0, 0)
    found = {d.figure: d for d in differences(two, "m:1", one)}["accuracy"]
    assert found.difference == pytest.approx(-20 / len(y))
    assert found.interval is not None
    assert found.interval[1] < 0
    assert two.evaluation.intervals["accuracy"][1] > one.evaluation.intervals["accuracy"][0]


def test_the_same_seed_gives_the_same_interval(diabetes: Real) -> None:
    """And another seed another one."""
    runs = [
        judge(diabetes.outputs, diabetes.y, "regression", ROWS, seed=s).evaluation
        for s in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[0].intervals != runs[2].intervals


def test_many_classes_and_rows_take_fewer_resamples() -> None:
    """Time is bounded: never fewer than a hundred."""
    assert bootstrap.resamples_for(1000, 1) == (1000, 1000)
    assert bootstrap.resamples_for(10_000, 100) == (1000, 100)
    assert bootstrap.resamples_for(10_000_000, 10) == (100, 100)
