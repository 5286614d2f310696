"""One evaluation: from a model's outputs and the truth to the record of how good it is.

Knows arrays: no model, no file, no job. Classifiers are judged by probabilities as served;
`probabilities_of` makes them of logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import invalid
from meuse.evaluate import bootstrap, figures, slices
from meuse.evaluate.figures import BINS, Figures, Floats
from meuse.evaluate.record import Bin, Difference, Evaluation, Rows

MAX_CONFUSION = 100
"""Most classes of a confusion matrix that is kept."""
SLICE_FIGURES = {
    "classification": "accuracy",
    "multilabel": "label_accuracy",
    "regression": "mae",
}
"""What slices tell: means over rows, which stay comparable between slices."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An evaluation, and its resampled figures for differences from others on these rows."""

    evaluation: Evaluation
    samples: Mapping[str, Floats]


def final_evaluation(
    outputs: NDArray[Any],
    y: NDArray[Any],
    task: str,
    rows: Rows,
    *,
    classes: Sequence[str | int] | None = None,
    columns: Mapping[str, NDArray[Any]] | None = None,
    slices_by: Sequence[str] = (),
    quantile: float | None = None,
    engine: str = "",
    seconds: float = 0.0,
    seed: int = 0,
) -> Evaluation:
    """Judge `outputs` as the loop has them: logits [n, k] or values [n].

    `y` are class indices [n], 0/1 [n, k] or values [n]; `columns` (float or text, [n]) are
    what `slices_by` names; `quantile` is what a regression estimates, when it is not the
    mean. Raises `invalid_field` for an unknown task or column.
    """
    judged = judge(
        probabilities_of(outputs, task), y, task, rows, classes=classes, columns=columns,
        slices_by=slices_by, quantile=quantile, engine=engine, seconds=seconds, seed=seed,
    )  # fmt: skip
    return judged.evaluation


def judge(
    outputs: NDArray[Any],
    y: NDArray[Any],
    task: str,
    rows: Rows,
    *,
    classes: Sequence[str | int] | None = None,
    columns: Mapping[str, NDArray[Any]] | None = None,
    slices_by: Sequence[str] = (),
    quantile: float | None = None,
    engine: str = "",
    seconds: float = 0.0,
    seed: int = 0,
) -> Judged:
    """As `final_evaluation`, of probabilities [n, k] or values [n] as served."""
    outputs = np.asarray(outputs, np.float64)
    y = np.asarray(y)
    if len(outputs) != len(y) or len(y) == 0:
        raise invalid("data", f"{len(outputs)} outputs do not fit {len(y)} targets")
    if not np.isfinite(outputs).all():
        bad = int(np.argmin(np.isfinite(outputs.reshape(len(y), -1)).all(axis=1)))
        raise invalid(
            "model",
            f"its outputs are not finite, first for row {bad} of those judged",
            "The model overflows on this row; look at its inputs.",
        )
    measured = _figures(outputs, y, task, quantile)
    samples = bootstrap.samples(measured, len(y), seed)
    point = {k: v for k, v in measured.point(len(y)).items() if np.isfinite(v)}
    found, left_out = slices.by_column(
        columns or {},
        slices_by,
        row_scores(outputs, y, task),
        worse_is_low=task != "regression",
        seed=seed,
    )
    evaluation = Evaluation(
        task=task,
        rows=rows,
        figures=point,
        intervals={k: i for k in point if (i := bootstrap.interval(samples[k])) is not None},
        resamples=max(map(len, samples.values())),
        classes=None if classes is None else list(classes),
        confusion=confusion_matrix(outputs, y) if task == "classification" else None,
        calibration=_calibration(outputs, y, task),
        labels=_labels(outputs, y, classes) if task == "multilabel" else [],
        slice_figure=SLICE_FIGURES[task],
        slices=found,
        slices_left_out=left_out,
        engine=engine,
        seconds=seconds,
        rows_per_s=len(y) / seconds if seconds > 0 else None,
    )
    return Judged(evaluation, samples)


def differences(judged: Judged, than: str, other: Judged) -> list[Difference]:
    """How far each figure lies from another model's on the same rows, paired."""
    if not judged.evaluation.rows.same_as(other.evaluation.rows):
        raise ValueError("only evaluations of the same rows are paired")
    mine, theirs = judged.evaluation.figures, other.evaluation.figures
    return [
        Difference(
            name,
            than,
            mine[name] - theirs[name],
            bootstrap.difference(other.samples[name], judged.samples[name]),
        )
        for name in mine
        if name in theirs
    ]


def with_differences(evaluation: Evaluation, found: list[Difference]) -> Evaluation:
    return msgspec.structs.replace(evaluation, differences=found)


def probabilities_of(outputs: NDArray[Any], task: str) -> Floats:
    """Logits to probabilities (softmax, or sigmoid per label); values stay."""
    scores = np.asarray(outputs, np.float64)
    if task == "classification":
        exp = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(exp / exp.sum(axis=1, keepdims=True), np.float64)
    if task == "multilabel":
        return np.asarray(0.5 * (1 + np.tanh(0.5 * scores)), np.float64)
    return scores.ravel()


def confusion_matrix(probabilities: Floats, y: NDArray[Any]) -> list[list[int]] | None:
    """Rows by target (outer) and prediction; None above `MAX_CONFUSION` classes."""
    k = probabilities.shape[1]
    if k > MAX_CONFUSION:
        return None
    pairs = np.asarray(y, np.int64) * k + probabilities.argmax(axis=1)
    counts: list[list[int]] = np.bincount(pairs, minlength=k * k).reshape(k, k).tolist()
    return counts


def row_scores(outputs: Floats, y: NDArray[Any], task: str) -> Floats:
    """[n]: 1 or 0 for right and wrong, the share of right labels, or the absolute error."""
    if task == "classification":
        return np.asarray(outputs.argmax(axis=1) == y, np.float64)
    if task == "multilabel":
        return np.asarray(((outputs >= 0.5) == (y > 0)).mean(axis=1), np.float64)
    return np.asarray(np.abs(outputs.ravel() - y), np.float64)


def rows_of(
    dataset: str, digest: str, split: str, target: str, positions: NDArray[np.int64] | int
) -> Rows:
    """Which rows: their numbers in the dataset (in any order), or how many when it is all."""
    if isinstance(positions, int):
        return Rows(dataset, digest, split, "all", target, positions)
    numbers = np.sort(np.asarray(positions, "<i8"))
    marked = hashlib.sha256(numbers.tobytes()).hexdigest()
    return Rows(dataset, digest, split, marked, target, len(numbers))


def _figures(outputs: Floats, y: NDArray[Any], task: str, quantile: float | None) -> Figures:
    if task == "classification":
        return figures.classification(outputs, y)
    if task == "multilabel":
        return figures.multilabel(outputs, y)
    if task == "regression":
        return figures.regression(outputs, y, quantile)
    raise invalid("task", f"{task!r} is not a task", f"Use one of: {', '.join(SLICE_FIGURES)}.")


def _calibration(outputs: Floats, y: NDArray[Any], task: str) -> list[Bin]:
    if task == "regression":
        return []
    if task == "classification":
        confidence = outputs.max(axis=1)
        hit = np.asarray(outputs.argmax(axis=1) == y, np.float64)
    else:
        confidence, hit = outputs.ravel(), np.asarray(y, np.float64).ravel()
    where = figures.bins_of(confidence)
    counts = np.bincount(where, minlength=BINS)
    means = [
        np.bincount(where, v, minlength=BINS) / np.maximum(counts, 1) for v in (confidence, hit)
    ]
    return [
        Bin(i / BINS, (i + 1) / BINS, int(counts[i]), float(means[0][i]), float(means[1][i]))
        for i in range(BINS)
        if counts[i]
    ]


def _labels(
    outputs: Floats, y: NDArray[Any], classes: Sequence[str | int] | None
) -> list[dict[str, Any]]:
    """Per label: how often it holds, its F1 and its AUC where defined."""
    rows = len(y)
    ones = np.ones((rows, 1))
    found = []
    for c in range(outputs.shape[1]):
        truth, given = y[:, c] > 0, outputs[:, c] >= 0.5
        seen = int(truth.sum() + given.sum())
        auc = float(figures.Ranked.of(outputs[:, c], truth)(ones)[0])
        found.append(
            {
                "label": classes[c] if classes is not None else c,
                "rows": int(truth.sum()),
                "f1": 2 * int((truth & given).sum()) / seen if seen else None,
                "roc_auc": auc if np.isfinite(auc) else None,
            }
        )
    return found
