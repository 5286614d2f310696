"""Splits: which rows train, which select and which judge. Deterministic, whatever the machine.

Knows tables, targets and the split's spec. A split depends on the table, the task and the spec
alone, by a generator of its own; a test pins one split, so that no new numpy moves them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from meuse.core.nouns import Examples, Splits
from meuse.data import targets
from meuse.data.canonical import open_table
from meuse.data.faults import bad_data
from meuse.data.ingest import ingest
from meuse.data.split_spec import RATIOS, SPLIT_COLUMN, SPLIT_WORDS, Ratios, SplitSpec, parse_ratios
from meuse.data.tables import Table, check_complete, choose_target, read

TABLE = "table"
"""The format of a canonical file, beside those of uploads."""
NAMES = ("train", "validation", "test")
Rows = NDArray[np.int64]


def load_splits(
    path: Path,
    format: str,
    *,
    target: str | None,
    task: str | None,
    seed: int,
    ratios: Ratios = RATIOS,
    split: SplitSpec | None = None,
    raw: bool = False,
    image_size: tuple[int, int] | None = None,
) -> Splits:
    """Read the dataset at `path` and split it into train, validation and test.

    `format` is `table` for a canonical file; an upload of any other format is ingested first.
    `target` None takes the last column. `task` None infers it (`targets.infer_task`); `binary`
    and `multiclass` are `classification` in the answer. `split` None is by ratio, with `ratios`
    and `seed`, or by the column `split` when all its values name splits. Unless `raw` is true,
    every feature must be a number and none may be missing.

    Raises what `tables.read` raises, `invalid_field` for a wrong `task`, `ratios` or column, and
    `invalid_data` (field `target`, `rows` or `columns.<name>`) for what cannot be split so.
    """
    targets.check_task(task)
    parse_ratios(ratios)
    if format != TABLE:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="splits-") as folder:
            table = Path(folder) / TABLE
            ingest(path, format, table)
            return load_splits(
                table, TABLE, target=target, task=task, seed=seed, ratios=ratios, split=split,
                raw=raw, image_size=image_size,
            )  # fmt: skip
    spec = split or _implied(path, target, ratios, seed) or SplitSpec(ratios=ratios, seed=seed)
    opened = open_table(path)
    spec.check(opened.columns, choose_target(opened.columns, target).name)
    table_read = read(
        path,
        target,
        drop=spec.sets_aside,
        aside={spec.column} if spec.column else (),
        image_size=image_size,
        labels_may_miss=task == "multilabel",
    )
    if not raw:
        check_complete(table_read)
    return split_table(table_read, task, spec)


def split_table(table: Table, task: str | None, spec: SplitSpec) -> Splits:
    """Share out the rows of a table in memory."""
    chosen = task or targets.infer_task(table.y)
    classes: targets.Classes | None = None
    y: NDArray[Any]
    if chosen == "multilabel":
        classes, y = targets.label_matrix(table.y, table.target.name)
    elif chosen == "regression":
        y = targets.regression_values(table.y, table.target.name, inferred=task is None)
    else:
        least = 3 if spec.by == "ratio" else 1
        classes, y = targets.class_indices(table.y, table.target.name, chosen, least)
        chosen = "classification"
    parts = assign(table, y, classes, spec)
    for name, rows in zip(NAMES, parts, strict=True):
        if len(rows) == 0:
            raise bad_data(
                f"a split by {spec.by} leaves no row for {name}",
                field="rows",
                hint="Add rows, or choose other ratios or another way to split.",
            )
    if classes is not None:
        present = [_present(y[rows], len(classes)) for rows in parts]
        targets.check_seen(classes, present, NAMES)
    elif float(np.ptp(y[parts[0]])) == 0:
        raise bad_data(
            f"the target {table.target.name!r} is the same in every training row",
            field="target",
            hint="Choose another target or another way to split.",
        )
    train, validation, test = (Examples(table.frame.take(rows), y[rows]) for rows in parts)
    return Splits(
        train,
        validation,
        test,
        table.features,
        table.target.name,
        chosen,
        classes,
        tuple(parts),
        table.warnings,
        spec.to_dict(),
        tuple(table.aside[spec.column][rows] for rows in parts) if spec.column else (),
    )


def assign(
    table: Table, y: NDArray[Any], classes: targets.Classes | None, spec: SplitSpec
) -> list[Rows]:
    """Row numbers of the three splits."""
    labels = y if classes is not None and y.ndim == 1 else None
    if spec.by == "ratio":
        return by_ratio(len(y), labels, spec)
    assert spec.column is not None
    values = table.aside[spec.column]
    if spec.by == "stratify":
        _, codes = np.unique(_keys(values), return_inverse=True)
        return stratified(codes.astype(np.int64), int(codes.max()) + 1, spec.seed, spec.ratios)
    if spec.by == "group":
        _check_present(values, spec.column, table.place)
        return grouped(values, spec)
    if spec.by == "time":
        return by_time(_times(values, spec.column, table.place), spec)
    return by_column(values, labels, spec, table.place)


def by_ratio(rows: int, labels: Rows | None, spec: SplitSpec) -> list[Rows]:
    """At random; each class by itself when there are class indices."""
    if rows < 3:
        raise bad_data(
            f"there are {rows} rows; three splits need at least 3", field="rows", hint="Add rows."
        )
    if labels is None:
        return shuffled(rows, spec.seed, spec.ratios)
    return stratified(labels, int(labels.max()) + 1, spec.seed, spec.ratios)


def stratified(y: NDArray[np.int64], classes: int, seed: int, ratios: Ratios) -> list[Rows]:
    """Row numbers of the three splits, each class shared out by the ratios.

    Every class of at least three rows stands in every split; rarer ones train first. `y` holds
    indices [n] below `classes`. The rows of a split are in random order.
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


def grouped(values: NDArray[Any], spec: SplitSpec) -> list[Rows]:
    """Groups in random order; each goes whole to the split that lacks most of its share."""
    found, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(found) < 3:
        raise bad_data(
            f"the column {spec.column!r} has {len(found)} group{'s' if len(found) > 1 else ''}; "
            "three splits need at least 3",
            field=f"columns.{spec.column}",
            hint="Choose a column with more groups, or split by ratio.",
        )
    generator = np.random.Generator(np.random.PCG64(spec.seed))
    order = generator.permutation(len(found))
    split_of = np.empty(len(found), np.int64)
    wanted = [ratio * len(values) for ratio in spec.ratios]
    held = [0, 0, 0]
    for place, group in enumerate(order):
        left = len(order) - place
        empty = [index for index in range(3) if held[index] == 0]
        among = empty if len(empty) >= left else range(3)
        best = max(among, key=lambda index: (wanted[index] - held[index]) / wanted[index])
        split_of[group] = best
        held[best] += int(counts[group])
    return [generator.permutation(np.flatnonzero(split_of[codes] == index)) for index in range(3)]


def by_time(times: NDArray[np.int64] | NDArray[np.float64], spec: SplitSpec) -> list[Rows]:
    """The oldest rows train, the newest test. Rows of one moment stay together where that leaves
    every split a row; a split's rows are in order of time."""
    order = np.argsort(times, kind="stable")
    if len(order) < 3:
        raise bad_data("three splits need at least 3 rows", field="rows", hint="Add rows.")
    ordered = times[order]
    bounds = np.cumsum(allocate(len(order), spec.ratios))[:-1].tolist()
    # Past the last row of the same moment: what is known then is not to be predicted.
    first, second = (int(np.searchsorted(ordered, ordered[b - 1], "right")) for b in bounds)
    if not 0 < first < second < len(order):
        first, second = bounds
    return [order[:first], order[first:second], order[second:]]


def by_column(
    values: NDArray[Any], labels: Rows | None, spec: SplitSpec, place: Callable[[int], str]
) -> list[Rows]:
    """As the cells say. Without validation rows some of the training rows become them."""
    words = np.array([SPLIT_WORDS.get(str(v).strip().lower(), "") for v in values.tolist()], object)
    if (words == "").any():
        row = int(np.argmax(words == ""))
        raise bad_data(
            f"the column {spec.column!r} has {str(values[row])[:40]!r} at {place(row)}, "
            "which names no split",
            field=f"columns.{spec.column}",
            hint="Its cells must be train, validation or test.",
        )
    train, validation, test = (np.flatnonzero(words == name) for name in NAMES)
    for name, rows in (("train", train), ("test", test)):
        if len(rows) == 0:
            raise bad_data(
                f"the column {spec.column!r} gives no row to {name}",
                field=f"columns.{spec.column}",
                hint="Mark rows for train and for test; validation may be left out.",
            )
    if len(validation) == 0 and len(train) > 1:
        train, validation = _held_out(train, labels, spec)
    return [train, validation, test]


def allocate(rows: int, ratios: Ratios) -> tuple[int, int, int]:
    """Share `rows` out by largest remainder, at least one to each split (the first splits, when
    there are fewer than three)."""
    if rows < 3:
        return (1 if rows else 0), (1 if rows > 1 else 0), 0
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


def _implied(path: Path, target: str | None, ratios: Ratios, seed: int) -> SplitSpec | None:
    """A column called `split` whose every cell names a split is taken at its word."""
    table = open_table(path)
    found = next((c for c in table.columns if c.name == SPLIT_COLUMN), None)
    if found is None or found.kind != "string" or found.missing or target == SPLIT_COLUMN:
        return None
    for _, group in table.groups([SPLIT_COLUMN]):
        words = {str(word).strip().lower() for word in group[SPLIT_COLUMN].unique().to_pylist()}
        if not words <= SPLIT_WORDS.keys():
            return None
    return SplitSpec("column", SPLIT_COLUMN, ratios, seed)


def _held_out(train: Rows, labels: Rows | None, spec: SplitSpec) -> tuple[Rows, Rows]:
    """Training rows without, and those of the validation share, each class by itself."""
    share = spec.ratios[1] / (spec.ratios[0] + spec.ratios[1])
    generator = np.random.Generator(np.random.PCG64(spec.seed))
    classes = (
        [train]
        if labels is None
        else [train[labels[train] == label] for label in np.unique(labels[train])]
    )
    held: list[Rows] = []
    for rows in classes:
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        held.append(generator.permutation(rows)[:count])
    validation = np.sort(np.concatenate(held))
    return np.setdiff1d(train, validation, assume_unique=True), validation


def _present(y: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    if y.ndim == 2:
        return np.asarray(y.any(axis=0))
    return np.bincount(y, minlength=classes) > 0


def _keys(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(str) if values.dtype.kind == "O" else np.nan_to_num(values, nan=np.inf)


def _check_present(values: NDArray[Any], name: str, place: Callable[[int], str]) -> None:
    absent = values == "" if values.dtype.kind == "O" else np.isnan(values)
    if absent.any():
        raise bad_data(
            f"the column {name!r} has no value at {place(int(np.argmax(absent)))}",
            field=f"columns.{name}",
            hint="Every row needs one to be split by it.",
        )


def _times(
    values: NDArray[Any], name: str, place: Callable[[int], str]
) -> NDArray[np.int64] | NDArray[np.float64]:
    """Numbers as they are; texts as ISO 8601 dates and times (with or without a zone)."""
    _check_present(values, name, place)
    if values.dtype.kind != "O":
        return values
    texts = pa.array(values.tolist(), pa.string())
    try:
        return _moments(texts)
    except pa.ArrowInvalid:
        pass
    for row in range(len(texts)):
        try:
            _moments(texts.slice(row, 1))
        except pa.ArrowInvalid:
            raise bad_data(
                f"the column {name!r} has {values[row][:40]!r} at {place(row)}, which is no time",
                field=f"columns.{name}",
                hint="Use numbers, or dates as 2026-11-24 or 2026-11-24T14:18:16Z.",
            ) from None
    raise bad_data(
        f"the column {name!r} has times with a zone and times without",
        field=f"columns.{name}",
        hint="Write all of them with Z or an offset, or none.",
    )


def _moments(texts: pa.StringArray) -> NDArray[np.int64]:
    try:
        plain = texts.cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        plain = texts.cast(pa.timestamp("us", "UTC"))
    found: NDArray[np.int64] = plain.cast(pa.int64()).to_numpy()
    return found
