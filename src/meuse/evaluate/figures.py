"""Figures of a model's outputs under many weightings of the rows at once.

A weighting is how often each row counts: all ones give the figures themselves, the counts of
a resample give those of the resample. Knows numpy arrays only. What is undefined (an AUC
with one class, a mean over no label) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Compute = Callable[[Floats], dict[str, Floats]]
"""Weights [n, b] → figures by name, [b] each."""

BINS = 15
"""Bins of the calibration error, as in the paper."""
EPSILON = float(np.finfo(np.float32).eps)
"""Probabilities are kept this far from 0 and 1 in a log loss; they are float32 when served."""


@dataclass(frozen=True, slots=True)
class Figures:
    """`sums`: figures that cost a matrix product; `ranks`: those that cost a pass over the
    sorted rows per class (`classes` passes)."""

    sums: Compute
    ranks: Compute
    classes: int

    def point(self, rows: int) -> dict[str, float]:
        """The figures of the rows as they are."""
        ones = np.ones((rows, 1))
        found = {**self.sums(ones), **self.ranks(ones)}
        return {name: float(value[0]) for name, value in found.items()}


def classification(probabilities: NDArray[Any], targets: NDArray[Any]) -> Figures:
    """`accuracy, macro_f1, log_loss, calibration_error, roc_auc`.

    `probabilities` [n, k], k ≥ 2, `targets` class indices [n]. `macro_f1` is over the classes
    that occur among targets or predictions. `roc_auc` is that of class 1 for k = 2, else the
    unweighted mean of one class against the rest, over the classes that have both.
    `calibration_error` is the expected calibration error of the confidence (largest
    probability) in 15 equal bins: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern
    Neural Networks (2017), equation 3.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(targets, np.int64)
    n, k = p.shape
    rows = np.arange(n)
    predicted = p.argmax(axis=1)
    hit = (predicted == y).astype(np.float64)
    loss = -np.log(np.clip(p[rows, y], EPSILON, 1 - EPSILON))
    gaps = gap_columns(p[rows, predicted], hit)
    counts = np.zeros((n, 2 * k))  # hits by class, then targets plus predictions by class
    counts[rows, y] = hit
    np.add.at(counts, (rows, k + y), 1)
    np.add.at(counts, (rows, k + predicted), 1)
    columns = np.column_stack([hit, loss, counts, gaps])
    ranked = [1] if k == 2 else range(k)
    aucs = [Ranked.of(p[:, c], y == c) for c in ranked]

    def sums(weights: Floats) -> dict[str, Floats]:
        total = weights.sum(axis=0)
        s = columns.T @ weights
        f1 = _f1(s[2 : 2 + k], s[2 + k : 2 + 2 * k])
        return {
            "accuracy": s[0] / total,
            "macro_f1": _mean_of_defined(f1),
            "log_loss": s[1] / total,
            "calibration_error": np.abs(s[2 + 2 * k :]).sum(axis=0) / total,
        }

    def ranks(weights: Floats) -> dict[str, Floats]:
        return {"roc_auc": _mean_of_defined(np.stack([auc(weights) for auc in aucs]))}

    return Figures(sums, ranks, len(aucs))


def multilabel(probabilities: NDArray[Any], targets: NDArray[Any]) -> Figures:
    """`micro_f1, macro_f1, subset_accuracy, log_loss, calibration_error, roc_auc`.

    `probabilities` and `targets` (0 and 1) are [n, k]; a label counts as given at 0.5.
    `macro_f1` is over the labels that occur, `roc_auc` the mean over the labels that have
    both; `log_loss` and `calibration_error` are per label of a row, where the confidence is
    the probability of the label.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(targets, np.float64)
    n, k = p.shape
    given = (p >= 0.5).astype(np.float64)
    hits, seen = given * y, given + y
    exact = (given == y).all(axis=1).astype(np.float64)
    clipped = np.clip(p, EPSILON, 1 - EPSILON)
    loss = -(y * np.log(clipped) + (1 - y) * np.log1p(-clipped)).mean(axis=1)
    gaps = gap_columns(p.ravel(), y.ravel()).reshape(n, k, BINS).mean(axis=1)
    columns = np.column_stack([exact, loss, hits, seen, gaps])
    aucs = [Ranked.of(p[:, c], y[:, c] > 0) for c in range(k)]

    def sums(weights: Floats) -> dict[str, Floats]:
        total = weights.sum(axis=0)
        s = columns.T @ weights
        tp, both = s[2 : 2 + k], s[2 + k : 2 + 2 * k]
        return {
            "micro_f1": _f1(tp.sum(axis=0), both.sum(axis=0)),
            "macro_f1": _mean_of_defined(_f1(tp, both)),
            "subset_accuracy": s[0] / total,
            "log_loss": s[1] / total,
            "calibration_error": np.abs(s[2 + 2 * k :]).sum(axis=0) / total,
        }

    def ranks(weights: Floats) -> dict[str, Floats]:
        return {"roc_auc": _mean_of_defined(np.stack([auc(weights) for auc in aucs]))}

    return Figures(sums, ranks, k)


def regression(
    values: NDArray[Any], targets: NDArray[Any], quantile: float | None = None
) -> Figures:
    """`r2, mae, mse` and, for a model of a quantile, `quantile_loss`.

    `values` and `targets` are [n]. Where all targets of a weighting are equal, `r2` is 1 for
    exact outputs and 0 otherwise.
    """
    v, t = np.asarray(values, np.float64).ravel(), np.asarray(targets, np.float64)
    error = v - t
    centred = t - t.mean()  # before squaring, or a large mean would eat the digits
    parts = [error**2, np.abs(error), centred, centred**2]
    if quantile is not None:
        parts.append(pinball(v, t, quantile))
    columns = np.column_stack(parts)

    def sums(weights: Floats) -> dict[str, Floats]:
        total = weights.sum(axis=0)
        s = columns.T @ weights
        spread = np.maximum(s[3] - s[2] ** 2 / total, 0)
        # What is left of equal targets is rounding.
        varies = spread > 1e-12 * np.maximum(s[3], np.finfo(np.float64).tiny)
        r2 = np.where(varies, 1 - s[0] / np.where(varies, spread, 1), s[0] == 0)
        figures = {"r2": r2, "mae": s[1] / total, "mse": s[0] / total}
        return figures if quantile is None else {**figures, "quantile_loss": s[4] / total}

    return Figures(sums, lambda weights: {}, 0)


def pinball(values: NDArray[Any], targets: NDArray[Any], quantile: float) -> Floats:
    """The quantile loss of each row: q·(t − v) where the value is low, (1 − q)·(v − t) where
    it is high. Koenker and Bassett, Regression Quantiles (1978)."""
    low = np.asarray(targets, np.float64) - np.asarray(values, np.float64)
    return np.maximum(quantile * low, (quantile - 1) * low)


@dataclass(frozen=True, slots=True)
class Ranked:
    """The area under the ROC curve of one score, for any weighting of its rows: the share of
    pairs of a positive and a negative row that it puts in order, ties half. Hanley and
    McNeil (1982)."""

    order: NDArray[np.int64]
    positive: Floats
    starts: NDArray[np.int64] | None
    """Where each group of equal scores starts; None when all differ."""

    @classmethod
    def of(cls, score: NDArray[Any], positive: NDArray[np.bool_]) -> Ranked:
        order = np.argsort(score, kind="stable")
        ranked = np.asarray(score)[order]
        starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        ties = None if len(starts) == len(order) else starts
        return cls(order, positive[order].astype(np.float64)[:, None], ties)

    def __call__(self, weights: Floats) -> Floats:
        """[b] for weights [n, b]; NaN where a class is absent."""
        sorted_ = weights[self.order]
        above = sorted_ * self.positive
        below = sorted_ - above
        if self.starts is not None:
            above = np.add.reduceat(above, self.starts, axis=0)
            below = np.add.reduceat(below, self.starts, axis=0)
        before = np.cumsum(below, axis=0) - below / 2
        pairs = above.sum(axis=0) * below.sum(axis=0)
        ordered = np.einsum("nb,nb->b", above, before)
        return np.where(pairs > 0, ordered / np.where(pairs > 0, pairs, 1), np.nan)


def bins_of(confidence: Floats) -> NDArray[np.int64]:
    """The bin of each confidence: equal widths, the upper bound belongs to the bin."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def gap_columns(confidence: Floats, hit: Floats) -> Floats:
    """[n, bins]: confidence minus hit in the row's bin, 0 elsewhere."""
    columns = np.zeros((len(confidence), BINS))
    columns[np.arange(len(confidence)), bins_of(confidence)] = confidence - hit
    return columns


def _f1(hits: Floats, seen: Floats) -> Floats:
    return np.where(seen > 0, 2 * hits / np.where(seen > 0, seen, 1), np.nan)


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over axis 0 of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
