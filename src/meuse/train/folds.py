"""Folds: which rows train, select and judge in each round of a cross-validation. Pure.

Knows the rows besides those of the test split, their labels and what they were split by; knows
no network. Held-out rows never choose the epoch they are judged at: a part of the others does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Examples, Frame, Splits

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows to share out. `how`: random, strata, group or time; `codes` [n] are the strata or the
    groups, or which moment a row is of, in order (time); rows of a time pool are in order."""

    how: str
    codes: Rows

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: Rows) -> Pool:
        return Pool(self.how, self.codes[rows])


@dataclass(frozen=True, slots=True)
class Fold:
    """Row numbers of the pool: disjoint, and only those of `held` are judged."""

    train: Rows
    validation: Rows
    held: Rows


def pool_of(splits: Splits) -> Pool:
    """The training and validation rows, in this order, and how folds must keep them.

    As the split was: groups stay whole, time runs forward, strata of a column are shared out;
    otherwise classes are strata, and rows without one class each are dealt at random.
    """
    by = splits.spec.get("by", "ratio")
    if by in ("group", "stratify", "time") and splits.by:
        values = np.concatenate([_comparable(part) for part in splits.by[:2]])
        if by == "time":
            later = np.r_[False, values[1:] != values[:-1]]
            return Pool("time", np.cumsum(later, dtype=np.int64))
        _, codes = np.unique(values, return_inverse=True)
        return Pool("group" if by == "group" else "strata", codes.astype(np.int64))
    y = np.concatenate([splits.train.y, splits.validation.y])
    if splits.task == "classification":
        return Pool("strata", y.astype(np.int64))
    return Pool("random", np.zeros(len(y), np.int64))


def folds_of(pool: Pool, k: int, share: float, seed: int) -> list[Fold]:
    """`k` folds; about `share` of a fold's other rows choose its best epoch.

    Every row is held out once, and strata are shared out evenly to a row. In time a fold trains
    on what lies before its held-out block only, so the first of k + 1 blocks is never held out
    (forward chaining). Raises `invalid_field` (`cv`) where rows, groups or moments are too few.
    """
    parts = k + 1 if pool.how == "time" else k
    units = len(np.unique(pool.codes)) if pool.how in ("group", "time") else len(pool)
    # Each fold needs a unit to hold out, and of the others one to train and one to select on.
    if units < max(parts, 3) or len(pool) < 2 * k:
        raise _too_few(pool, k, units)
    if pool.how == "time":
        blocks = _blocks(pool.codes, parts)
        if len(blocks[0]) < 2:
            raise _too_few(pool, k, units)
        rounds = [(np.concatenate(blocks[:i]), blocks[i]) for i in range(1, parts)]
    else:
        dealt = _dealt(pool, k, seed)
        rounds = [(np.flatnonzero(dealt != i), np.flatnonzero(dealt == i)) for i in range(k)]
    return [_fold(pool, others, held, share, seed) for others, held in rounds]


def _too_few(pool: Pool, k: int, units: int) -> MeuseError:
    what = {"group": "groups", "time": "moments"}.get(pool.how, "rows")
    return MeuseError(
        Code.INVALID_FIELD,
        f"{k} folds need more {what} than the {units} besides those of the test split",
        field="cv",
        hint="Use fewer folds, or more data.",
    )


def split_by(splits: Splits, fold: Fold) -> Splits:
    """The splits of one round: `test` are the held-out rows."""
    frame = _joined(splits.train.frame, splits.validation.frame)
    y = np.concatenate([splits.train.y, splits.validation.y])
    train, validation, test = (
        Examples(frame.take(rows), y[rows]) for rows in (fold.train, fold.validation, fold.held)
    )
    return Splits(
        train, validation, test, splits.features, splits.target, splits.task, splits.classes
    )


def _fold(pool: Pool, others: Rows, held: Rows, share: float, seed: int) -> Fold:
    rest = pool.take(others)
    count = max(2, round(1 / share))
    if pool.how == "time":
        moments = len(np.unique(rest.codes))
        blocks = _blocks(rest.codes, min(count, moments)) if moments > 1 else []
        if not blocks:  # one moment: its rows are all there is to learn from
            blocks = np.array_split(np.arange(len(rest)), 2)
        return Fold(others[np.concatenate(blocks[:-1])], others[blocks[-1]], held)
    units = len(np.unique(rest.codes)) if pool.how == "group" else len(rest)
    if units == 1:  # one large group: its rows choose the epoch among themselves
        rest, units = Pool("random", np.zeros(len(rest), np.int64)), len(rest)
    dealt = _dealt(rest, min(count, units), seed)
    return Fold(others[dealt != 0], others[dealt == 0], held)


def _dealt(pool: Pool, k: int, seed: int) -> Rows:
    """The part, below `k`, of each row; no part is empty when units are at least `k`."""
    generator = np.random.Generator(np.random.PCG64(seed))
    part = np.empty(len(pool), np.int64)
    if pool.how == "group":
        _, codes, counts = np.unique(pool.codes, return_inverse=True, return_counts=True)
        order = generator.permutation(len(counts))
        held, part_of = np.zeros(k, np.int64), np.empty(len(counts), np.int64)
        # The largest first, each to the part that has least: no part is far from its share.
        for group in order[np.argsort(-counts[order], kind="stable")]:
            part_of[group] = int(np.argmin(held))
            held[part_of[group]] += counts[group]
        return part_of[codes]
    shuffled = generator.permutation(len(pool))
    # Dealt like cards, stratum by stratum, going on where the last one ended.
    ordered = shuffled[np.argsort(pool.codes[shuffled], kind="stable")]
    part[ordered] = np.arange(len(pool)) % k
    return part


def _blocks(moments: Rows, count: int) -> list[Rows]:
    """`count` blocks of rows in order, none empty; a moment is never cut where moments are at
    least `count`."""
    starts = np.flatnonzero(np.r_[True, moments[1:] != moments[:-1]])
    bounds: list[int] = []
    for i in range(1, count):
        wanted = i * len(moments) / count
        last = len(starts) - (count - i)  # leave a moment to every block
        # Of the first block's rows some train and some select: it has two, where that can be.
        low = int(np.searchsorted(starts, bounds[-1], "right") if bounds else
                  np.searchsorted(starts, 2))  # fmt: skip
        nearest = int(np.argmin(np.abs(starts - wanted)))
        bounds.append(int(starts[min(max(nearest, low), last)]))
    return list(np.split(np.arange(len(moments)), bounds))


def _comparable(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(str) if values.dtype.kind == "O" else np.nan_to_num(values, nan=np.inf)


def _joined(first: Frame, second: Frame) -> Frame:
    return Frame(
        first.names,
        first.numeric,
        np.concatenate([first.numbers, second.numbers]),
        {n: np.concatenate([v, second.texts[n]]) for n, v in first.texts.items()},
        {n: np.concatenate([v, second.images[n]]) for n, v in first.images.items()},
    )
