"""Slices: the same figure on parts of the rows, so that a mean hides nothing.

Knows columns, a score per row and numpy. Higher scores are better or, for errors, worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import invalid
from meuse.evaluate import bootstrap
from meuse.evaluate.figures import Floats
from meuse.evaluate.record import SMALL, Slice

QUANTILES = 5
"""A numeric column with more distinct values than `CATEGORIES` is cut into so many bins."""
CATEGORIES = 20
"""The most frequent values of a column have a slice each; the others share one."""
MAX_SLICES = 200
MISSING = "missing"
OTHER = "other values"


def by_column(
    columns: Mapping[str, NDArray[Any]],
    names: Sequence[str],
    score: Floats,
    *,
    worse_is_low: bool,
    seed: int = 0,
) -> tuple[list[Slice], int]:
    """(slices of the named columns, how many were left out beyond `MAX_SLICES`).

    `columns` hold float [n] (NaN: missing) or text [n] ("": missing); `score` [n] is the
    figure of each row, whose mean is told. Raises `invalid_field` for another column.
    """
    found: list[Slice] = []
    for name in names:
        if name not in columns:
            raise invalid(
                "slices",
                f"there is no column {name!r} to slice by",
                f"The columns are: {', '.join(list(columns)[:50])}.",
            )
        for value, rows in _parts(columns[name]):
            found.append(_slice(name, value, score[rows], seed))
    sign = 1 if worse_is_low else -1
    found.sort(key=lambda s: (s.small, sign * s.figure, -s.rows))
    return found[:MAX_SLICES], max(0, len(found) - MAX_SLICES)


def _slice(column: str, value: str, score: Floats, seed: int) -> Slice:
    rows = len(score)
    interval = None
    if rows > 1:
        count, _ = bootstrap.resamples_for(rows)
        chunks = bootstrap.weights(rows, count, seed)
        interval = bootstrap.interval(np.concatenate([score @ w / w.sum(axis=0) for w in chunks]))
    return Slice(column, value, rows, float(score.mean()), interval, rows < SMALL)


def _parts(values: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """(name, rows) of the parts of one column; they are apart and cover every row."""
    if values.dtype.kind in "OUS":
        missing = np.asarray(values == "", bool)
        yield from _categories(values, missing)
    else:
        numbers = values.astype(np.float64)
        missing = np.isnan(numbers)
        distinct = np.unique(numbers[~missing])
        if len(distinct) > CATEGORIES:
            yield from _ranges(numbers, missing)
        else:
            yield from _categories(numbers, missing)
    if missing.any():
        yield MISSING, missing


def _categories(
    values: NDArray[Any], missing: NDArray[np.bool_]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if missing.all():
        return
    distinct, which, counts = np.unique(values[~missing], return_inverse=True, return_counts=True)
    by_count = np.argsort(-counts, kind="stable")
    kept = by_count if len(distinct) <= CATEGORIES else by_count[:CATEGORIES]
    rest = ~missing
    for index in kept:
        # By number, not by value: as a scalar numpy would cut NULs off the end of a text.
        rows = np.zeros(len(values), bool)
        rows[~missing] = which == index
        rest &= ~rows
        yield _text(distinct[index]), rows
    if rest.any():
        yield OTHER, rest


def _ranges(numbers: Floats, missing: NDArray[np.bool_]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    present = numbers[~missing]
    bounds = np.unique(np.quantile(present, np.linspace(0, 1, QUANTILES + 1)))
    last = len(bounds) - 2
    for index in range(len(bounds) - 1):
        low, high = bounds[index], bounds[index + 1]
        below = numbers <= high if index == last else numbers < high
        rows = (numbers >= low) & below
        if rows.any():
            close = "]" if index == last else ")"
            yield f"[{_text(low)}, {_text(high)}{close}", rows


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
