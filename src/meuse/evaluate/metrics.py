"""Metrics by task: plain functions from outputs and targets to named figures.

Outputs of a classifier are its class scores before softmax (logits); figures are computed
in float64. Knows no model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import invalid
from meuse.core.figures import PRIMARY_FIGURE
from meuse.core.ports import Metric

PRIMARY: dict[str, tuple[str, bool]] = {t: (name, True) for t, name in PRIMARY_FIGURE.items()}
"""The figure that selects and judges a model, and whether higher is better."""


def classification(outputs: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
    """`accuracy`, `macro_f1` and `log_loss` (nats per row).

    `outputs` are logits [n, k], `targets` class indices [n], n ≥ 1. `macro_f1` is the
    unweighted mean over the classes that occur among targets or predictions; a class that
    is never hit counts 0.
    """
    logits = np.asarray(outputs, np.float64)
    truth = np.asarray(targets, np.int64)
    predicted = logits.argmax(axis=1)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return {
        "accuracy": float((predicted == truth).mean()),
        "macro_f1": _macro_f1(predicted, truth, logits.shape[1]),
        "log_loss": float(-log_p[np.arange(len(truth)), truth].mean()),
    }


def regression(outputs: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
    """`r2`, `mae` and `mse` (in the target's unit, and its square).

    `outputs` and `targets` are values [n], n ≥ 1. Where all targets are equal, `r2` is 1
    for exact outputs and 0 otherwise.
    """
    values = np.asarray(outputs, np.float64)
    truth = np.asarray(targets, np.float64)
    error = values - truth
    spread = float(((truth - truth.mean()) ** 2).sum())
    squares = float((error**2).sum())
    r2 = 1 - squares / spread if spread > 0 else float(squares == 0)
    return {"r2": r2, "mae": float(np.abs(error).mean()), "mse": squares / len(truth)}


def multilabel(outputs: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
    """`micro_f1`, `macro_f1`, `subset_accuracy` and `log_loss` (nats per label of a row).

    `outputs` are logits [n, k], `targets` 0 or 1 [n, k], n ≥ 1; a label counts as given where
    its logit is not negative. `macro_f1` is over the labels that occur among targets or
    predictions; where none does, both F1 are 0.
    """
    logits = np.asarray(outputs, np.float64)
    truth = np.asarray(targets, np.float64)
    given = logits >= 0
    hits, total = (given * truth).sum(axis=0), given.sum(axis=0) + truth.sum(axis=0)
    seen = total > 0
    # log(1 + e^z) without overflow, minus z where the label holds.
    loss = np.logaddexp(0, logits) - truth * logits
    return {
        "micro_f1": float(2 * hits.sum() / max(total.sum(), 1)),
        "macro_f1": float((2 * hits[seen] / total[seen]).mean()) if seen.any() else 0.0,
        "subset_accuracy": float((given == truth).all(axis=1).mean()),
        "log_loss": float(loss.mean()),
    }


def for_task(task: str) -> Metric:
    """The metric of a task. Raises `invalid_field` for another name."""
    if task == "classification":
        return classification
    if task == "multilabel":
        return multilabel
    if task == "regression":
        return regression
    raise invalid("task", f"{task!r} is not a task", f"Use one of: {', '.join(PRIMARY)}.")


def _macro_f1(predicted: NDArray[np.int64], truth: NDArray[np.int64], classes: int) -> float:
    hits = np.bincount(truth[predicted == truth], minlength=classes)
    total = np.bincount(predicted, minlength=classes) + np.bincount(truth, minlength=classes)
    seen = total > 0
    return float((2 * hits[seen] / total[seen]).mean())
