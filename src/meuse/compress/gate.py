"""The gate: whether a compressed model kept what its goal asks. Pure.

Knows scores and limits; knows no model and no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.compress.spec import Goal
from meuse.core.errors import invalid
from meuse.evaluate.paired import paired_difference


@dataclass(frozen=True, slots=True)
class Verdict:
    """`drop`: how far the metric fell (negative: it rose), `interval` its 95% interval.

    `reason` says it in words with the numbers, passed or not; `field` names the goal that
    was missed, None when passed.
    """

    passed: bool
    drop: float
    interval: tuple[float, float]
    reason: str
    field: str | None = None


def judge(
    metric_name: str,
    before: NDArray[Any],
    after: NDArray[Any],
    max_drop: float,
    *,
    seed: int = 0,
) -> Verdict:
    """Judge paired per-row scores [n] whose mean is the metric: higher is better.

    Passes when the mean fell by at most `max_drop`. The interval is a paired bootstrap
    (`evaluate.paired`); it is told, it does not decide. Scores that are not finite refuse.
    """
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        nothing = (0.0, 0.0)
        reason = f"{metric_name} cannot be computed: some outputs are not finite"
        return Verdict(False, 0.0, nothing, reason, "goal.max_drop")
    difference = paired_difference(before, after, seed)
    drop = 0.0 - difference.mean  # not -0.0
    interval = (0.0 - difference.high, 0.0 - difference.low)
    # A drop of 0.01 summed in floats may be 0.010000000000000009.
    passed = drop <= max_drop + 1e-9
    moved = f"fell by {drop:.4f}" if drop > 0 else f"rose by {-drop:.4f}" if drop else "held"
    numbers = (
        f"{metric_name} {moved} ({float(np.mean(before)):.4f} → {float(np.mean(after)):.4f} on "
        f"{difference.n} rows, 95% interval of the drop {interval[0]:.4f} to {interval[1]:.4f})"
    )
    limit = f"the goal allows a drop of at most {max_drop:g}"
    joined = f"{numbers}; {limit}"
    return Verdict(passed, drop, interval, joined, None if passed else "goal.max_drop")


def check_limits(verdict: Verdict, goal: Goal, size: int, latency_ms: float) -> Verdict:
    """The verdict with the goal's other limits: `size` in bytes, `latency_ms` at batch 1."""
    if not verdict.passed:
        return verdict
    if goal.max_bytes is not None and size > goal.max_bytes:
        reason = f"the model has {size:,} bytes; the goal allows {goal.max_bytes:,}"
        return _refused(verdict, reason, "goal.max_bytes")
    if goal.max_latency_ms is not None and latency_ms > goal.max_latency_ms:
        reason = f"p95 at batch 1 is {latency_ms:.3f} ms; the goal allows {goal.max_latency_ms:g}"
        return _refused(verdict, reason, "goal.max_latency_ms")
    return verdict


def row_scores(task: str, outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    """Scores [n] whose mean is the task's primary metric.

    Classification (`outputs` are class scores [n, k]): 1 for right, 0 for wrong; the mean is
    accuracy. Regression (values [n]): 1 minus the squared error over the targets' variance;
    the mean is R², so a difference of means is the difference in R². Raises `invalid_field`
    for another task.
    """
    if task == "classification":
        hits = np.asarray(outputs).argmax(axis=1) == np.asarray(targets)
        return np.asarray(hits, np.float64)
    if task == "regression":
        truth = np.asarray(targets, np.float64)
        squares = (np.asarray(outputs, np.float64) - truth) ** 2
        variance = float(((truth - truth.mean()) ** 2).mean())
        return 1 - squares / (variance if variance > 0 else 1.0)
    raise invalid("task", f"{task!r} is not a task", "Use classification or regression.")


def _refused(verdict: Verdict, reason: str, field: str) -> Verdict:
    return Verdict(False, verdict.drop, verdict.interval, reason, field)
