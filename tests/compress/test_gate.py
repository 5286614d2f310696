"""The gate, as pure arithmetic over answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.compress.gate import Scored, check_limits, judge, score
from meuse.compress.spec import Goal
from meuse.core.errors import Code, MeuseError
from meuse.evaluate.metrics import PRIMARY, for_task


def hits(right: int, rows: int = 100) -> Scored:
    """Logits of two classes, the first `right` rows answered rightly."""
    y = np.arange(rows) % 2
    answered = np.where(np.arange(rows) < right, y, 1 - y)
    return score("classification", np.eye(2)[answered] * 4, y)


def test_a_drop_within_the_goal_passes() -> None:
    """The goal's own value is still allowed, whatever floats make of it."""
    verdict = judge(hits(97), hits(96), 0.01)
    assert verdict.passed
    assert verdict.drop == pytest.approx(0.01)
    assert verdict.interval is not None
    assert verdict.interval[0] <= verdict.drop <= verdict.interval[1]


def test_a_larger_drop_is_refused_with_its_numbers() -> None:
    """The reason says by how much the metric fell, from what to what, and the tolerance."""
    verdict = judge(hits(97), hits(90), 0.01, "steps.2.gate.max_drop")
    assert not verdict.passed
    assert verdict.field == "steps.2.gate.max_drop"
    for words in ("accuracy fell by 0.0700", "0.9700 → 0.9000", "100 rows", "at most 0.01"):
        assert words in verdict.reason


def test_a_rise_passes() -> None:
    """A model that became better passes a goal of 0."""
    verdict = judge(hits(90), hits(92), 0)
    assert verdict.passed
    assert verdict.drop == pytest.approx(-0.02)
    assert "rose by 0.0200" in verdict.reason


def test_an_unchanged_metric_is_exactly_zero() -> None:
    """No change is a drop of 0, not of minus 0, and is told as such."""
    verdict = judge(hits(90), hits(90), 0)
    assert verdict.passed
    assert verdict.interval is not None
    assert [str(n) for n in (verdict.drop, *verdict.interval)] == ["0.0"] * 3
    assert verdict.reason.startswith("accuracy held (0.9000 → 0.9000 on 100 rows")


def test_the_pairing_narrows_the_interval() -> None:
    """Two models that are wrong on the same rows differ by less than two that are not."""
    y = np.arange(400) % 2
    right = np.eye(2)[y] * 4
    base, near, far = right.copy(), right.copy(), right.copy()
    base[:40], near[:44], far[-44:] = -base[:40], -near[:44], -far[-44:]
    before = score("classification", base, y)
    spreads = []
    for outputs in (near, far):
        verdict = judge(before, score("classification", outputs, y), 1.0)
        assert verdict.drop == pytest.approx(0.01)
        assert verdict.interval is not None
        spreads.append(verdict.interval[1] - verdict.interval[0])
    assert spreads[0] < spreads[1] / 2


def test_outputs_that_are_not_finite_are_refused() -> None:
    """A model that gives NaN never passes, and the verdict stays a number."""
    outputs = np.zeros(90)
    outputs[3] = np.nan
    y = np.arange(90.0)
    verdict = judge(score("regression", y, y), score("regression", outputs, y), 1)
    assert not verdict.passed
    assert verdict.drop == 0
    assert "not finite" in verdict.reason


@given(st.sampled_from(["classification", "multilabel", "regression"]), st.integers(0, 2**31))
def test_the_primary_figure_is_what_evaluation_says(task: str, seed: int) -> None:
    """Every task is judged by its own primary figure, as the metrics of training compute it."""
    generator = np.random.default_rng(seed)
    outputs = generator.normal(size=40) if task == "regression" else generator.normal(size=(40, 3))
    y = {
        "classification": generator.integers(0, 3, 40),
        "multilabel": generator.integers(0, 2, (40, 3)),
        "regression": generator.normal(size=40),
    }[task]
    found = score(task, outputs, y)
    name, _ = PRIMARY[task]
    assert (found.metric, found.rows) == (name, 40)
    assert found.value == pytest.approx(for_task(task)(outputs, y)[name], abs=1e-9)
    assert found.interval is not None
    assert found.interval[0] <= found.interval[1]


def test_a_figure_where_lower_is_better_falls_the_other_way() -> None:
    """A log loss that rises is a drop; another name is refused."""
    y = np.arange(60) % 2
    sure, unsure = np.eye(2)[y] * 4, np.eye(2)[y] * 1
    before, after = (score("classification", o, y, "log_loss") for o in (sure, unsure))
    verdict = judge(before, after, 0.01)
    assert not verdict.passed
    assert verdict.drop == pytest.approx(after.value - before.value)
    with pytest.raises(MeuseError) as caught:
        score("classification", sure, y, "r2")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "metric")
    with pytest.raises(MeuseError) as caught:
        score("ranking", sure, y)
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
    verdict = check_limits(judge(hits(9, 10), hits(9, 10), 0), goal, 1000, 0.5)
    assert verdict.field == field
    assert verdict.passed == (field is None)


def test_the_first_refusal_stands() -> None:
    """A model that lost too much is refused for that, whatever its size."""
    lost = judge(hits(9, 10), hits(5, 10), 0)
    assert check_limits(lost, Goal(max_bytes=1), 1000, 0.5) == lost
