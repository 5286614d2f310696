"""What tells too much: features that predict the target alone, rows that splits share.

A feature's score is honest: half of the sampled rows teach a table from its values (numbers in
quantile bins) to the class or the mean, the other half are judged. For classes it is
(accuracy − base) / (1 − base), where base always says the most frequent class; for numbers it
is R². Knows columns' samples and splits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import invalid
from meuse.core.nouns import Frame
from meuse.data import targets
from meuse.data.canonical import Canonical
from meuse.data.columns import ColumnProfile
from meuse.data.sketches import NULL, Hashes
from meuse.data.split_spec import SplitSpec
from meuse.data.splits import NAMES, assign
from meuse.data.tables import Table, choose_target, column

LEAKS = 0.98
"""A score from which on a feature is suspected."""
LEAST_ROWS = 40
SHOWN = 10
CLASSES_SHOWN = 100
_BINS = 256
_ROWS_PER_BIN = 10


@dataclass(frozen=True, slots=True)
class Assigned:
    """The task that the target suggests, and the split (0, 1, 2) of each row."""

    task: str
    split_of: NDArray[np.int8] | None


def assigned(table: Canonical, target: str | None, split: SplitSpec | None) -> Assigned:
    """As training would split: by the target and the split's column alone."""
    if target is None:
        raise invalid(
            "target", "a split needs to know the target", "Name its column: target=label."
        )
    chosen = choose_target(table.columns, target)
    if chosen.kind == "image":
        raise invalid("target", f"the target {target!r} is an image", "Choose another column.")
    y = column(table, target)
    if chosen.missing:
        task = "regression" if y.dtype.kind == "f" else "classification"
    else:
        task = targets.infer_task(y)
    if split is None:
        return Assigned("regression" if y.dtype.kind == "f" else task, None)
    split.check(table.columns, target)
    if chosen.missing:
        raise invalid(
            "target",
            f"{chosen.missing:,} rows have no target: they cannot be split",
            "Leave out split, or choose another target.",
        )
    aside = {split.column: column(table, split.column)} if split.column else {}
    nothing = Frame.of_numbers(np.empty((table.rows, 0), np.float32))
    classes = None
    if task == "classification":
        classes, y = targets.class_indices(y, target, task, 3 if split.by == "ratio" else 1)
    rows = Table((), nothing, chosen, y, table.place, aside)
    split_of = np.full(table.rows, -1, np.int8)
    for number, positions in enumerate(assign(rows, y, classes, split)):
        split_of[positions] = number
    return Assigned(task, split_of)


class RowHashes:
    """Hashes of whole rows, and of rows without the target and what is set aside.

    Of more rows than `bound` only hashes that end in zeros are held: equal rows are held, or
    let go, together, so that what is found is a fair share.
    """

    def __init__(self, rows: int, bound: int, features: bool) -> None:
        self._zeros = max(0, math.ceil(math.log2(rows / bound)))
        self._mask = np.uint64((1 << self._zeros) - 1)
        self._rows = rows
        self._with_features = features
        self._whole: list[Hashes] = []
        self._features: list[Hashes] = []
        self._positions: list[NDArray[np.int64]] = []

    def begin(self, count: int) -> tuple[Hashes, Hashes]:
        """Where the columns of so many rows are mixed."""
        return np.zeros(count, np.uint64), np.zeros(count, np.uint64)

    def add(self, start: int, whole: Hashes, features: Hashes) -> None:
        self._whole.append(whole[(whole >> np.uint64(8)) & self._mask == 0])
        if self._with_features:
            held = (features >> np.uint64(8)) & self._mask == 0
            self._features.append(features[held])
            self._positions.append(np.flatnonzero(held) + start)

    def duplicates(self) -> dict[str, Any]:
        """Rows that are equal to one before them."""
        hashes = np.concatenate(self._whole)
        extra = (len(hashes) - len(np.unique(hashes))) << self._zeros
        extra = min(extra, self._rows)
        return {"rows": extra, "share": extra / self._rows, "exact": self._zeros == 0}

    def shared(self, split_of: NDArray[np.int8]) -> dict[str, Any]:
        """For each pair of splits the rows of the second whose features are those of a row of
        the first."""
        hashes = np.concatenate(self._features)
        which = split_of[np.concatenate(self._positions)]
        parts = [hashes[which == number] for number in range(len(NAMES))]
        pairs = []
        for first, second in ((0, 1), (0, 2), (1, 2)):
            found = int(np.isin(parts[second], parts[first]).sum())
            pairs.append(
                {
                    "first": NAMES[first],
                    "second": NAMES[second],
                    "rows": found << self._zeros,
                    "share": found / max(1, len(parts[second])),
                }
            )
        sizes = np.bincount(split_of[split_of >= 0], minlength=3)
        return {
            "rows": dict(zip(NAMES, sizes.tolist(), strict=True)),
            "shared": pairs,
            "exact": self._zeros == 0,
        }


def balance(target: ColumnProfile, task: str) -> dict[str, Any]:
    """The target's name and task; for classes, how frequent they are."""
    told: dict[str, Any] = {"name": target.name, "task": task}
    if task != "classification":
        return told
    counted = target.counter.top(CLASSES_SHOWN)
    total = sum(target.counter.counts.values())
    told["classes"] = [
        {"value": value, "count": count, "share": count / total} for value, count in counted
    ]
    if target.counter.exact and len(target.counter.counts) == len(counted) > 1:
        told["imbalance"] = counted[0][1] / counted[-1][1]
    return told


def predictors(
    features: Sequence[ColumnProfile], target: ColumnProfile, task: str
) -> list[dict[str, Any]]:
    """The features that predict the target best by themselves, with their scores."""
    known = target.hashes != NULL
    if task == "regression":
        if not target.column.numeric:
            return []
        known &= np.isfinite(target.numbers)
    if known.sum() < LEAST_ROWS:
        return []
    order = np.random.default_rng(0).permutation(np.flatnonzero(known))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    bins = min(_BINS, max(4, len(order) // (2 * _ROWS_PER_BIN)))
    scored = []
    for feature in features:
        keys = _keys(feature, bins)
        if task == "classification":
            _, y = np.unique(target.hashes, return_inverse=True)
            score = _class_score(keys, y, *halves)
        else:
            score = _number_score(keys, target.numbers, *halves)
        scored.append({"name": feature.name, "score": round(score, 4)})
    scored.sort(key=lambda entry: (-float(str(entry["score"])), str(entry["name"])))
    return scored[:SHOWN]


def _keys(feature: ColumnProfile, bins: int) -> NDArray[Any]:
    """Values as few keys: numbers with many values in quantile bins."""
    if not feature.column.numeric or len(np.unique(feature.hashes)) <= bins:
        return feature.hashes
    numbers = feature.numbers
    finite = numbers[np.isfinite(numbers)]
    if len(finite) == 0:
        return feature.hashes
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, bins + 1)[1:-1]))
    keys = np.searchsorted(edges, numbers).astype(np.int64)
    keys[np.isnan(numbers)] = -1
    return keys


def _coded(
    keys: NDArray[Any], taught: NDArray[np.int64], judged: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int, NDArray[np.int64], NDArray[np.bool_]]:
    """(codes that teach, how many there are, codes that are judged, which were taught)."""
    words, codes = np.unique(keys[taught], return_inverse=True)
    at = np.minimum(np.searchsorted(words, keys[judged]), len(words) - 1)
    return codes, len(words), at, words[at] == keys[judged]


def _class_score(
    keys: NDArray[Any],
    y: NDArray[np.int64],
    taught: NDArray[np.int64],
    judged: NDArray[np.int64],
) -> float:
    codes, count, at, seen = _coded(keys, taught, judged)
    pairs, numbers = np.unique(np.stack([codes, y[taught]]), axis=1, return_counts=True)
    order = np.argsort(numbers, kind="stable")
    best = np.zeros(count, np.int64)
    best[pairs[0][order]] = pairs[1][order]  # the most frequent is written last
    common = np.bincount(y[taught]).argmax()
    answers = np.where(seen, best[at], common)
    base = float((y[judged] == common).mean())
    right = float((y[judged] == answers).mean())
    return max(0.0, (right - base) / (1 - base)) if base < 1 else 0.0


def _number_score(
    keys: NDArray[Any],
    y: NDArray[np.float64],
    taught: NDArray[np.int64],
    judged: NDArray[np.int64],
) -> float:
    codes, count, at, seen = _coded(keys, taught, judged)
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.bincount(codes, y[taught], count) / np.bincount(codes, minlength=count)
        answers = np.where(seen, means[at], y[taught].mean())
        spread = float(np.square(y[judged] - y[judged].mean()).sum())
        missed = float(np.square(y[judged] - answers).sum())
    if not spread or not np.isfinite(spread):
        return 0.0
    return max(0.0, 1 - missed / spread)
