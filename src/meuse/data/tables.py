"""Tables in any allowed format: what they hold, and their columns as numbers.

Knows the list of formats and who reads each; knows nothing of tasks or splits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import invalid
from meuse.core.nouns import Column
from meuse.data import csv_format, npz_format
from meuse.data.faults import MAX_BYTES, bad_data

FORMATS = ("csv", "npz")
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Table:
    """Features and one target, not yet split.

    `x` is float32 [rows, features]; `y` is [rows]: int64, float64 or text (`U`, object).
    `place(row)` says where a row stands in the file: `line 7` or `row 6`.
    """

    features: tuple[str, ...]
    x: NDArray[np.float32]
    target: Column
    y: NDArray[Any]
    place: Callable[[int], str]


def inspect(
    path: Path, format: str, *, max_bytes: int = MAX_BYTES
) -> tuple[int, tuple[Column, ...]]:
    """(rows, columns) of the table at `path`; `format` is csv or npz.

    Raises `invalid_data` with the line, column or array at fault, `too_large` above
    `max_bytes` uncompressed, and `invalid_field` for another format.
    """
    if format == "csv":
        return csv_format.inspect(path, max_bytes)
    if format == "npz":
        return npz_format.inspect(path, max_bytes)
    raise invalid("format", f"{format!r} is not a data format", "Use csv or npz.")


def read(path: Path, format: str, target: str | None, *, max_bytes: int = MAX_BYTES) -> Table:
    """The table with `target` (None: the last column) set apart from the features.

    Raises what `inspect` raises; `invalid_field` (field `target`) for an unknown column;
    `invalid_data` (field `columns.<name>`) for a feature that is text, missing or not
    finite, and (field `target`) for a missing target.
    """
    rows, columns = inspect(path, format, max_bytes=max_bytes)
    chosen = _choose_target(columns, target)
    features = [c for c in columns if c.name != chosen.name]
    for column in features:
        if column.kind == "string":
            raise bad_data(
                f"the column {column.name!r} holds text, a feature must be a number",
                field=f"columns.{column.name}",
                hint="Encode the text as numbers, drop the column, or make it the target.",
            )
    x = np.empty((rows, len(features)), np.float32)
    fill = _fill_csv if format == "csv" else _fill_npz
    y, place = fill(path, max_bytes, columns, chosen, x)
    _check_target(chosen, y, place)
    return Table(tuple(c.name for c in features), x, chosen, y, place)


def _choose_target(columns: tuple[Column, ...], target: str | None) -> Column:
    if len(columns) < 2:
        raise bad_data(
            f"the only column is {columns[0].name!r}; training needs a feature and a target",
            field="columns",
            hint="Separate columns by commas and give at least two.",
        )
    if target is None:
        return columns[-1]
    for column in columns:
        if column.name == target:
            return column
    names = ", ".join(c.name for c in columns[:50]) + (", …" if len(columns) > 50 else "")
    raise invalid("target", f"there is no column {target!r}", f"The columns are: {names}.")


Filled = tuple[NDArray[Any], Callable[[int], str]]


def _fill_csv(
    path: Path, max_bytes: int, columns: tuple[Column, ...], target: Column, x: NDArray[np.float32]
) -> Filled:
    """Write the features into `x`; return the target's values and the places of rows."""
    texts: list[str] = []
    lines: list[int] = []

    def place(row: int) -> str:
        return f"line {lines[row]}"

    for block in csv_format.blocks(path, max_bytes):
        start = len(lines)
        lines.extend(block.lines)
        feature = 0
        for column, cells in zip(columns, block.cells, strict=True):
            if column.name == target.name:
                texts.extend(cells)
                continue
            _put(x[start : len(lines), feature], csv_format.numbers(cells), column, start, place)
            feature += 1
    return _target_values(target, texts), place


def _fill_npz(
    path: Path, max_bytes: int, columns: tuple[Column, ...], target: Column, x: NDArray[np.float32]
) -> Filled:
    def place(row: int) -> str:
        return f"row {row + 1}"

    table = npz_format.load(path, max_bytes)
    features = [column for column in columns if column.name != target.name]
    for index, column in enumerate(features):
        _put(x[:, index], table[column.name].astype(np.float64), column, 0, place)
    y = table[target.name]
    return (y.astype(np.float64) if y.dtype.kind == "f" else y), place


def _put(
    into: NDArray[np.float32],
    values: NDArray[np.float64],
    column: Column,
    start: int,
    place: Callable[[int], str],
) -> None:
    """Write one column's values, all of which must be finite in float32."""
    good = np.abs(values) <= _FLOAT32_MAX  # false for NaN and infinity too
    if not good.all():
        row = int(np.argmin(good))
        what = "missing" if np.isnan(values[row]) else f"{values[row]} (not finite in float32)"
        raise bad_data(
            f"the column {column.name!r} has a value that is {what}, first at {place(start + row)}",
            field=f"columns.{column.name}",
            hint="Fill in or drop missing and infinite values before uploading.",
        )
    into[:] = values


def _target_values(target: Column, texts: list[str]) -> NDArray[Any]:
    if target.kind == "integer" and target.missing == 0:
        numbers = [int(text) for text in texts]
        if all(-(2**63) <= number < 2**63 for number in numbers):
            return np.array(numbers, np.int64)
    if target.kind == "string":
        return np.array(texts, object)
    return csv_format.numbers(texts)


def _check_target(target: Column, y: NDArray[Any], place: Callable[[int], str]) -> None:
    if y.dtype.kind in "OU":
        good = y != ""
    elif y.dtype.kind == "f":
        good = np.abs(y) <= _FLOAT32_MAX
    else:
        return
    if not good.all():
        row = int(np.argmin(good))
        raise bad_data(
            f"the target {target.name!r} is missing or not finite at {place(row)}",
            field="target",
            hint="Every row needs a target: fill it in or drop the row.",
        )
