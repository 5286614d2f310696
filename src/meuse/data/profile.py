"""What a dataset version looks like: figures of every column, and what its owner should know.

One pass over the row groups of the canonical file. Memory is a row group, a sample of rows and
bounded sketches, whatever the size; a figure that is not exact says so. Knows the canonical
file; knows neither HTTP nor pages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.data import leaks, sketches
from meuse.data.canonical import Canonical, open_table
from meuse.data.columns import ColumnProfile
from meuse.data.profile_page import FORMAT
from meuse.data.split_spec import SplitSpec
from meuse.data.suspects import suspects

SAMPLE_BYTES = 64 << 20
SAMPLE_ROWS = 50_000
LEAST_SAMPLE = 1_000
ROW_HASHES = 4_000_000
"""Rows whose hashes are held to find duplicates; of more, a share of the hashes."""
DISTINCT_HASHES = 10_000_000
"""Of all columns together."""
Progress = Callable[[float], None]
Rows = NDArray[np.int64]


def profile(
    path: Path,
    target: str | None = None,
    split: SplitSpec | None = None,
    progress: Progress = lambda fraction: None,
) -> dict[str, Any]:
    """The profile (JSON) of the canonical file at `path`.

    With a `target` it tells of classes and of features that predict it alone; with a `split`
    (it needs a target) also of rows that two splits share. Raises `invalid_field` (`target`,
    `split.…`) for columns that are not there, `invalid_data` for what cannot be split so.
    """
    table = open_table(path)
    places = leaks.assigned(table, target, split) if target or split else None
    sample = chosen_rows(table.rows, sample_size(table.rows, len(table.columns)))
    bound = min(100_000, max(1_000, DISTINCT_HASHES // len(table.columns)))
    columns = [ColumnProfile(column, sample, bound) for column in table.columns]
    left_out = {target, *(split.sets_aside if split else ())} if target else set()
    rows = leaks.RowHashes(table.rows, ROW_HASHES, bool(target))
    for start, group in table.groups([column.name for column in table.columns]):
        whole, features = rows.begin(len(group))
        for column in columns:
            hashes = column.add(start, group[column.name].combine_chunks())
            whole *= sketches.NULL | np.uint64(1)
            whole += hashes
            if column.name not in left_out and target:
                features *= sketches.NULL | np.uint64(1)
                features += hashes
        rows.add(start, whole, features)
        progress((start + len(group)) / table.rows)
    return _told(table, columns, rows, sample, target, split, places)


def _told(
    table: Canonical,
    columns: list[ColumnProfile],
    rows: leaks.RowHashes,
    sample: Rows,
    target: str | None,
    split: SplitSpec | None,
    places: leaks.Assigned | None,
) -> dict[str, Any]:
    figures = [column.figures() for column in columns]
    by_name = {column.name: column for column in columns}
    whole: dict[str, Any] = {
        "format": FORMAT,
        "rows": table.rows,
        "sampled_rows": len(sample),
        "columns": figures,
        "duplicates": rows.duplicates(),
        "target": None,
        "split": None,
    }
    if target is not None:
        assert places is not None
        aside = split.sets_aside if split else frozenset()
        features = [c for c in columns if c.name != target and c.name not in aside]
        whole["target"] = {
            **leaks.balance(by_name[target], places.task),
            "predicted_by": leaks.predictors(features, by_name[target], places.task),
        }
        if split is not None and places.split_of is not None:
            whole["split"] = {"spec": split.to_dict(), **rows.shared(places.split_of)}
    whole["warnings"] = suspects(whole)
    return whole


def sample_size(rows: int, columns: int) -> int:
    """Rows that are looked at one by one: quantiles, histograms and predictors come from them."""
    fit = SAMPLE_BYTES // (8 * columns)
    return min(rows, max(LEAST_SAMPLE, min(SAMPLE_ROWS, fit)))


def chosen_rows(rows: int, wanted: int) -> Rows:
    """So many row numbers, sorted, at random (the same in every run)."""
    if wanted >= rows:
        return np.arange(rows)
    random = np.random.default_rng(0)
    if rows < 100 * wanted:
        return np.sort(random.choice(rows, wanted, replace=False, shuffle=False))
    drawn = np.unique(random.integers(0, rows, 2 * wanted))
    return np.sort(random.permutation(drawn)[:wanted])
