"""The gate, as pure arithmetic over scores."""

from __future__ import annotations

import numpy as np
import pytest

from meuse.compress.gate import check_limits, judge, row_scores
from meuse.compress.spec import Goal
from meuse.core.errors import Code, MeuseError
from meuse.evaluate.metrics import classification, regression


def hits(right: int, rows: int = 100) -> np.ndarray:
    return (np.arange(rows) < right).astype(np.float64)


def test_a_drop_within_the_goal_passes() -> None:
    """The goal's own value is still allowed, whatever floats make of it."""
    verdict = judge("accuracy", hits(97), hits(96), 0.01)
    assert verdict.passed
    assert verdict.drop == pytest.approx(0.01)
    assert verdict.interval[0] <= verdict.drop <= verdict.interval[1]


def test_a_larger_drop_is_refused_with_its_numbers() -> None:
    """The reason says by how much the metric fell, from what to what, and the tolerance."""
    verdict = judge("accuracy", hits(97), hits(90), 0.01)
    assert not verdict.passed
    assert verdict.field == "goal.max_drop"
    for words in ("accuracy fell by 0.0700", "0.9700 → 0.9000", "100 rows", "at most 0.01"):
        assert words in verdict.reason


def test_a_rise_passes() -> None:
    """A model that became better passes a goal of 0."""
    verdict = judge("accuracy", hits(90), hits(92), 0)
    assert verdict.passed
    assert verdict.drop == pytest.approx(-0.02)
    assert "rose by 0.0200" in verdict.reason


def test_an_unchanged_metric_is_exactly_zero() -> None:
    """No change is a drop of 0, not of minus 0, and is told as such."""
    verdict = judge("accuracy", hits(90), hits(90), 0)
    assert verdict.passed
    assert [str(n) for n in (verdict.drop, *verdict.interval)] == ["0.0"] * 3
    assert verdict.reason.startswith("accuracy held (0.9000 → 0.9000 on 100 rows")


def test_outputs_that_are_not_finite_are_refused() -> None:
    """A model that gives NaN never passes, and the verdict stays a number."""
    after = hits(90)
    after[3] = np.nan
    verdict = judge("r2", hits(90), after, 1)
    assert not verdict.passed
    assert np.isfinite([verdict.drop, *verdict.interval]).all()


def test_the_mean_of_scores_is_the_metric() -> None:
    """Row scores average to accuracy and to R²."""
    generator = np.random.default_rng(0)
    logits, classes = generator.normal(size=(40, 3)), generator.integers(0, 3, 40)
    scores = row_scores("classification", logits, classes)
    assert scores.mean() == pytest.approx(classification(logits, classes)["accuracy"])
    values, targets = generator.normal(size=(2, 40)).astype(np.float32)
    scores = row_scores("regression", values, targets)
    assert scores.mean() == pytest.approx(regression(values, targets)["r2"])
    with pytest.raises(MeuseError) as caught:
        row_scores("ranking", values, targets)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "task")


@pytest.mark.parametrize(
    ("goal", "field"),
    [
        (Goal(max_bytes=1000, max_latency_ms=1.0), None),
        (Goal(max_bytes=999), "goal.max_bytes"),
        (Goal(max_latency_ms=0.4), "goal.max_latency_ms"),
    ],
)
def test_size_and_latency_are_limits_too(goal: Goal, field: str | None) -> None:
    """A goal for bytes or milliseconds refuses what is larger or slower."""
    verdict = check_limits(judge("accuracy", hits(9, 10), hits(9, 10), 0), goal, 1000, 0.5)
    assert verdict.field == field
    assert verdict.passed == (field is None)


def test_the_first_refusal_stands() -> None:
    """A model that lost too much is refused for that, whatever its size."""
    lost = judge("accuracy", hits(9, 10), hits(5, 10), 0)
    assert check_limits(lost, Goal(max_bytes=1), 1000, 0.5) == lost
