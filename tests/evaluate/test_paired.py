"""Paired comparison by bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from meuse.evaluate.paired import paired_difference


def test_equal_scores_do_not_differ() -> None:
    """Two models that agree on every row differ by exactly nothing."""
    scores = np.arange(50) % 2
    found = paired_difference(scores, scores, 0)
    assert (found.mean, found.low, found.high, found.n) == (0, 0, 0, 50)


def test_the_interval_covers_at_its_rate() -> None:
    """Over many samples the 95% interval holds the true difference about 95% of the time."""
    generator = np.random.default_rng(1)
    held = 0
    for seed in range(300):
        before = generator.normal(size=80)
        after = before + 0.3 + generator.normal(size=80)
        found = paired_difference(before, after, seed, resamples=500)
        held += found.low <= 0.3 <= found.high
    assert 0.90 <= held / 300 <= 0.99


def test_the_interval_agrees_with_theory() -> None:
    """For a mean of many rows the interval is the normal one: ± 1.96 standard errors."""
    generator = np.random.default_rng(2)
    before, after = generator.normal(size=(2, 4000))
    found = paired_difference(before, after, 0)
    error = (after - before).std() / np.sqrt(4000)
    assert found.mean == pytest.approx((after - before).mean())
    assert found.high - found.mean == pytest.approx(1.96 * error, rel=0.1)
    assert found.mean - found.low == pytest.approx(1.96 * error, rel=0.1)


def test_pairing_narrows_the_interval() -> None:
    """What both models share cancels out: pairs are resampled, not rows of each."""
    generator = np.random.default_rng(3)
    before = generator.normal(size=200) * 10
    found = paired_difference(before, before - 0.01, 0)
    assert found.low == pytest.approx(-0.01)
    assert found.high == pytest.approx(-0.01)


def test_the_same_seed_gives_the_same_interval() -> None:
    """The interval is a function of scores and seed, also when drawn in several chunks."""
    before, after = np.random.default_rng(4).integers(0, 2, size=(2, 9000))
    assert paired_difference(before, after, 5) == paired_difference(before, after, 5)
    assert paired_difference(before, after, 5) != paired_difference(before, after, 6)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], [1.0, 0.0]), ([[1.0]], [[1.0]])])
def test_scores_must_be_pairs(before: list[float], after: list[float]) -> None:
    """Lists that are empty, unequal or not flat are a mistake of the caller."""
    with pytest.raises(ValueError, match="scores"):
        paired_difference(np.array(before), np.array(after), 0)
