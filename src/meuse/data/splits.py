"""Splits: what is trained on, what is selected on and what is judged on.

Knows tasks and targets. A split depends on the table, the task, the ratios and the seed
alone, by a generator of its own; a test pins one split, so that no new numpy moves them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import invalid
from meuse.core.nouns import Examples, Splits
from meuse.data.faults import bad_data
from meuse.data.tables import Table, read

TASKS = ("classification", "regression")
Ratios = tuple[float, float, float]
RATIOS: Ratios = (0.7, 0.15, 0.15)
MIN_REGRESSION_ROWS = 10
MAX_INFERRED_CLASSES = 100
Rows = NDArray[np.int64]


def load_splits(
    path: Path,
    format: str,
    *,
    target: str | None,
    task: str | None,
    seed: int,
    ratios: Ratios = RATIOS,
) -> Splits:
    """Read the table at `path` and split it into train, validation and test.

    `target` None takes the last column. `task` None infers it: a target of text or
    integers with at most 100 distinct values, and fewer than half as many as there are
    rows, means classification, anything else regression. Features are float32 [n, f];
    targets are int64 class indices (classes sorted) or float32.

    Raises what `tables.read` raises, `invalid_field` for a wrong `task` or `ratios`, and
    `invalid_data` (field `target`) for a target that does not suit the task.
    """
    _check_choices(task, ratios)
    table = read(path, format, target)
    chosen = task or infer_task(table)
    classes: tuple[str | int, ...] | None = None
    y: NDArray[Any]
    if chosen == "classification":
        classes, y = _class_indices(table)
        parts = stratified(y, len(classes), seed, ratios)
    else:
        y = _regression_values(table, inferred=task is None)
        parts = shuffled(len(y), seed, ratios)
    train, validation, test = (Examples(table.x[rows], y[rows]) for rows in parts)
    return Splits(train, validation, test, table.features, table.target.name, chosen, classes)


def infer_task(table: Table) -> str:
    """The task that the target's kind and number of distinct values suggest."""
    if table.y.dtype.kind == "f":
        return "regression"
    distinct = len(set(table.y.tolist()))
    few = distinct <= MAX_INFERRED_CLASSES and distinct * 2 < len(table.y)
    return "classification" if few else "regression"


def stratified(y: NDArray[np.int64], classes: int, seed: int, ratios: Ratios) -> list[Rows]:
    """Row numbers of the three splits, each class shared out by the ratios.

    Every class of at least three rows stands in every split. `y` holds indices [n] below
    `classes`. The rows of a split are in random order.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    pools: list[list[Rows]] = [[], [], []]
    for label in range(classes):
        rows = generator.permutation(np.flatnonzero(y == label))
        bounds = np.cumsum(allocate(len(rows), ratios))[:-1]
        for pool, part in zip(pools, np.split(rows, bounds), strict=True):
            pool.append(part)
    return [generator.permutation(np.concatenate(pool)) for pool in pools]


def shuffled(rows: int, seed: int, ratios: Ratios) -> list[Rows]:
    """Row numbers of the three splits of `rows` rows, at random."""
    generator = np.random.Generator(np.random.PCG64(seed))
    bounds = np.cumsum(allocate(rows, ratios))[:-1]
    return list(np.split(generator.permutation(rows), bounds))


def allocate(rows: int, ratios: Ratios) -> tuple[int, int, int]:
    """Share `rows` (at least 3) out by largest remainder, at least one to each split."""
    exact = [rows * ratio for ratio in ratios]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(3), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: rows - sum(counts)]:
        counts[index] += 1
    for index in range(3):
        if counts[index] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[index] = 1
    return counts[0], counts[1], counts[2]


def _check_choices(task: str | None, ratios: Ratios) -> None:
    if task is not None and task not in TASKS:
        raise invalid("task", f"{task!r} is not a task", f"Use one of: {', '.join(TASKS)}.")
    if len(ratios) != 3 or min(ratios) <= 0 or abs(sum(ratios) - 1) > 1e-9:
        raise invalid("ratios", "three positive ratios must add up to 1", "Use 0.7, 0.15, 0.15.")


def _class_indices(table: Table) -> tuple[tuple[str | int, ...], NDArray[np.int64]]:
    """(classes, sorted; the class index of every row)."""
    labels: NDArray[Any] = table.y
    if labels.dtype.kind == "f":
        if not np.array_equal(labels, np.floor(labels)):
            raise bad_data(
                f"the target {table.target.name!r} holds fractions, which are not classes",
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
    rare = np.flatnonzero(counts < 3)
    if len(rare):
        row_count = int(counts[rare[0]])
        raise bad_data(
            f"the class {found.tolist()[rare[0]]!r} has {row_count} "
            f"row{'s' if row_count > 1 else ''}; every class needs at least 3, "
            "one for each split",
            field="target",
            hint="Add rows of this class, drop it, or use task=regression for numbers.",
        )
    return tuple(found.tolist()), y.astype(np.int64)


def _regression_values(table: Table, *, inferred: bool) -> NDArray[np.float32]:
    if table.y.dtype.kind in "OU":
        distinct = len(set(table.y.tolist()))
        hint = "Use task=classification, or choose a numeric target."
        if inferred:
            hint = (
                f"It has {distinct} distinct texts in {len(table.y)} rows, too many to take them "
                "for classes: set task=classification to insist, or choose another target."
            )
        raise bad_data(
            f"the target {table.target.name!r} holds text, which cannot be regressed",
            field="target",
            hint=hint,
        )
    if len(table.y) < MIN_REGRESSION_ROWS:
        raise bad_data(
            f"there are {len(table.y)} rows; regression needs at least {MIN_REGRESSION_ROWS}",
            field="rows",
            hint="Add rows.",
        )
    return table.y.astype(np.float32)
