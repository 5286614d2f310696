"""The target: which task it suggests, and its values as a task wants them.

Knows a column's values; knows neither splits nor features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import MeuseError, invalid
from meuse.data.faults import bad_data

TASKS = ("classification", "regression", "binary", "multiclass", "multilabel")
MIN_REGRESSION_ROWS = 10
MAX_INFERRED_CLASSES = 100
SEPARATOR = "|"
"""Between the labels of a multi-label target."""
Classes = tuple[str | int, ...]


def check_task(task: str | None) -> None:
    """Raises `invalid_field`."""
    if task is not None and task not in TASKS:
        raise invalid("task", f"{task!r} is not a task", f"Use one of: {', '.join(TASKS)}.")


def infer_task(y: NDArray[Any]) -> str:
    """The task that the values' kind and number of distinct values suggest: text or integers with
    at most 100 distinct values, and fewer than half as many as there are rows, are classes."""
    if y.dtype.kind == "f":
        return "regression"
    distinct = len(set(y.tolist()))
    few = distinct <= MAX_INFERRED_CLASSES and distinct * 2 < len(y)
    return "classification" if few else "regression"


def class_indices(
    labels: NDArray[Any], target: str, task: str, least: int
) -> tuple[Classes, NDArray[np.int64]]:
    """(classes, sorted; the class index of every row). Every class needs `least` rows.

    Raises `invalid_data` (field `target`) for fractions, one class, a rare class, and for
    other than two classes when the task is `binary`.
    """
    if labels.dtype.kind == "f":
        if not np.array_equal(labels, np.floor(labels)):
            raise bad_data(
                f"the target {target!r} holds fractions, which are not classes",
                field="target",
                hint="Use task=regression, or a target of integers or text.",
            )
        labels = labels.astype(np.int64)
    found, y, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(found) < 2:
        raise bad_data(
            f"every row has the target {found.tolist()[0]!r}; two classes are needed",
            field="target",
            hint="Choose another target, or add rows of another class.",
        )
    if task == "binary" and len(found) != 2:
        raise bad_data(
            f"the target {target!r} has {len(found):,} classes, a binary one has two",
            field="target",
            hint="Use task=multiclass, or choose another target.",
        )
    rare = np.flatnonzero(counts < least)
    if len(rare):
        row_count = int(counts[rare[0]])
        raise bad_data(
            f"the class {found.tolist()[rare[0]]!r} has {row_count} "
            f"row{'s' if row_count > 1 else ''}; every class needs at least {least}, "
            "one for each split",
            field="target",
            hint="Add rows of this class, drop it, or use task=regression for numbers.",
        )
    return tuple(found.tolist()), y.astype(np.int64)


def label_matrix(texts: NDArray[Any], target: str) -> tuple[Classes, NDArray[np.float32]]:
    """(labels, sorted; 0 and 1 as float32 [n, labels]) of texts like `red|round`; "" has none."""
    if texts.dtype.kind != "O":
        raise bad_data(
            f"the target {target!r} holds numbers; several labels are text",
            field="target",
            hint=f"Write a row's labels as one text: red{SEPARATOR}round.",
        )
    split = {
        text: [label for part in text.split(SEPARATOR) if (label := part.strip())]
        for text in set(texts.tolist())
    }
    labels = sorted({label for many in split.values() for label in many})
    if len(labels) < 2:
        raise bad_data(
            f"the target {target!r} has {len(labels)} label; two are needed",
            field="target",
            hint=f"Separate a row's labels by {SEPARATOR}, or use task=classification.",
        )
    at = {label: index for index, label in enumerate(labels)}
    y = np.zeros((len(texts), len(labels)), np.float32)
    for row, text in enumerate(texts.tolist()):
        y[row, [at[label] for label in split[text]]] = 1
    return tuple(labels), y


def regression_values(y: NDArray[Any], target: str, *, inferred: bool) -> NDArray[np.float32]:
    """float32 [n]. Raises `invalid_data`: text, too few rows, one value in every row."""
    if y.dtype.kind == "O":
        raise _text_target(y, target, inferred)
    if len(y) < MIN_REGRESSION_ROWS:
        raise bad_data(
            f"there are {len(y)} rows; regression needs at least {MIN_REGRESSION_ROWS}",
            field="rows",
            hint="Add rows.",
        )
    if y.min() == y.max():
        raise bad_data(
            f"the target {target!r} is {y[0].item()!r} in every row: there is nothing to predict",
            field="target",
            hint="Choose another target, or add rows with other values.",
        )
    return y.astype(np.float32)


def _text_target(y: NDArray[Any], target: str, inferred: bool) -> MeuseError:
    hint = "Use task=classification, or choose a numeric target."
    if inferred:
        hint = (
            f"It has {len(set(y.tolist()))} distinct texts in {len(y)} rows, too many to take them "
            "for classes: set task=classification to insist, or choose another target."
        )
    return bad_data(
        f"the target {target!r} holds text, which cannot be regressed", field="target", hint=hint
    )


def check_seen(
    classes: Classes, present: Sequence[NDArray[np.bool_]], names: Sequence[str]
) -> None:
    """Every class of another split stands in the first, which trains.

    `present` says for each split which classes it has. Raises `invalid_data` (field `target`).
    """
    for name, has in zip(names[1:], present[1:], strict=True):
        unseen = np.flatnonzero(has & ~present[0])
        if len(unseen):
            more = f" (and {len(unseen) - 1:,} more)" if len(unseen) > 1 else ""
            raise bad_data(
                f"the label {classes[unseen[0]]!r}{more} stands in {name} rows and in no training "
                "row: it cannot be learned",
                field="target",
                hint="Split by ratio, move rows of this label to training, or drop them.",
            )
