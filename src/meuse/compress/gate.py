"""The gate: whether a compressed model kept what its goal asks. Pure.

Knows answers of two models to the same rows, and limits; knows no model and no file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.compress.spec import Goal
from meuse.core.errors import invalid
from meuse.core.figures import PRIMARY_FIGURE, higher_is_better
from meuse.evaluate import bootstrap, figures
from meuse.evaluate.figures import Figures, Floats
from meuse.evaluate.judge import probabilities_of

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scored:
    """A figure of one model on some rows: its value (NaN when outputs are not finite), its 95%
    interval, and its resamples, by which it is paired with another model's on these rows."""

    metric: str
    value: float
    interval: Interval | None
    rows: int
    samples: Floats


@dataclass(frozen=True, slots=True)
class Verdict:
    """`drop`: by how much the figure got worse (negative: better), `interval` its 95% interval.

    `reason` says it in words with the numbers, passed or not; `field` names the goal that
    was missed, None when passed.
    """

    passed: bool
    drop: float
    interval: Interval | None
    reason: str
    field: str | None = None
    change: str = ""
    """The numbers without the limit."""


def score(
    task: str, outputs: NDArray[Any], y: NDArray[Any], metric: str | None = None, seed: int = 0
) -> Scored:
    """One figure of `outputs` as metrics take them: logits [n, k] or values [n].

    `metric` is any figure of the task that is computed from sums over rows; by default its
    primary one (accuracy, micro F1, R²). Raises `invalid_field` for another task or metric.
    """
    if task not in PRIMARY_FIGURE:
        raise invalid("task", f"{task!r} is not a task", f"Use one of: {', '.join(PRIMARY_FIGURE)}")
    name = metric or PRIMARY_FIGURE[task]
    if not np.isfinite(outputs).all():
        return Scored(name, float("nan"), None, len(y), np.empty(0))
    measured = _figures(task, probabilities_of(outputs, task), y)
    point = measured.sums(np.ones((len(y), 1)))
    if name not in point:
        raise invalid("metric", f"{name!r} is no figure of {task}", f"Use one of: {list(point)}.")
    samples = bootstrap.samples(measured, len(y), seed)[name]
    return Scored(name, float(point[name][0]), bootstrap.interval(samples), len(y), samples)


def judge(before: Scored, after: Scored, max_drop: float, field: str = "goal.max_drop") -> Verdict:
    """Whether the figure of `after` is worse than that of `before` by at most `max_drop`.

    The interval is a bootstrap of the difference, paired by row (`evaluate.bootstrap`); it is
    told, it does not decide. Outputs that are not finite refuse. `field` names the limit.
    """
    name = before.metric
    if not np.isfinite([before.value, after.value]).all():
        reason = f"{name} cannot be computed: some outputs are not finite"
        return Verdict(False, 0.0, None, reason, field)
    worse = 1.0 if higher_is_better(name) else -1.0
    drop = worse * (before.value - after.value) + 0.0  # not -0.0
    spread = bootstrap.difference(worse * after.samples, worse * before.samples)
    interval = None if spread is None else (spread[0] + 0.0, spread[1] + 0.0)
    # A drop of 0.01 summed in floats may be 0.010000000000000009.
    passed = drop <= max_drop + 1e-9
    moved = _moved(after.value - before.value)
    doubt = "unknown" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
    change = (
        f"{name} {moved} ({before.value:.4f} → {after.value:.4f} on {before.rows} rows, "
        f"95% interval of the drop {doubt})"
    )
    reason = f"{change}; the goal allows a drop of at most {max_drop:g}"
    return Verdict(passed, drop, interval, reason, None if passed else field, change)


def check_limits(verdict: Verdict, goal: Goal, size: int, latency_ms: float) -> Verdict:
    """The verdict with the goal's other limits: `size` in bytes of the file that the engine
    loads, `latency_ms` the 95th percentile at batch 1."""
    if not verdict.passed:
        return verdict
    if goal.max_bytes is not None and size > goal.max_bytes:
        reason = f"the model has {size:,} bytes; the goal allows {goal.max_bytes:,}"
        return _refused(verdict, reason, "goal.max_bytes")
    if goal.max_latency_ms is not None and latency_ms > goal.max_latency_ms:
        reason = f"p95 at batch 1 is {latency_ms:.3f} ms; the goal allows {goal.max_latency_ms:g}"
        return _refused(verdict, reason, "goal.max_latency_ms")
    return verdict


def _figures(task: str, outputs: Floats, y: NDArray[Any]) -> Figures:
    if task == "classification":
        found = figures.classification(outputs, y)
    elif task == "multilabel":
        found = figures.multilabel(outputs, y)
    else:
        found = figures.regression(outputs, y)
    return replace(found, ranks=lambda weights: {}, classes=0)  # sorting costs, and decides nothing


def _moved(change: float) -> str:
    if change == 0:
        return "held"
    return f"rose by {change:.4f}" if change > 0 else f"fell by {-change:.4f}"


def _refused(verdict: Verdict, reason: str, field: str) -> Verdict:
    return replace(verdict, passed=False, reason=reason, field=field)
