"""The figures of numeric columns: what fills gaps, where values are cut off, how they scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meuse.core.nouns import Frame
from meuse.train.prepare.options import ColumnOptions, PrepareOptions
from meuse.train.prepare.steps import Numbers

_FLOAT32 = np.finfo(np.float32)


def fit_numbers(
    frame: Frame, names: Sequence[str], options: PrepareOptions, *, gaps: bool = False
) -> Numbers:
    """The step for these columns of `frame`, none of which is missing everywhere.

    `gaps` says that other rows of the data have some, so that they must be filled.
    """
    where = {name: i for i, name in enumerate(frame.numeric)}
    chosen = [options.of(name) for name in names]
    values = frame.numbers[:, [where[name] for name in names]].astype(np.float32)
    missing = np.isnan(values)
    fill = None
    if gaps or missing.any():
        fill = np.array([_fill(values[:, i], o) for i, o in enumerate(chosen)], np.float32)
        values = np.where(missing, fill, values)
    low = high = None
    if any(o.clip for o in chosen):
        bounds = [_bounds(values[:, i], o) for i, o in enumerate(chosen)]
        low, high = np.array(bounds, np.float32).T
        values = np.clip(values, low, high)
    log = np.array([o.log for o in chosen])
    if log.any():
        logged = np.sign(values) * np.log1p(np.abs(values))
        values = np.where(log, logged, values).astype(np.float32)
    shift, scale = _scaling(values, chosen)
    return Numbers(
        tuple(names),
        _listed(fill),
        _listed(low),
        _listed(high),
        tuple(log.tolist()) if log.any() else None,
        tuple(shift.tolist()),
        tuple(scale.tolist()),
    )


def moments(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation along the rows, float32; a deviation of 0 becomes 1."""
    mean = np.asarray(values.mean(axis=0, dtype=np.float64))
    std = np.asarray(values.std(axis=0, dtype=np.float64))
    std = np.where(std > 1e-12 * np.maximum(1, np.abs(mean)), std, 1.0)
    return mean.astype(np.float32), std.astype(np.float32)


def _scaling(
    values: NDArray[np.float32], chosen: Sequence[ColumnOptions]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    shift, scale = moments(values)
    if any(o.scale == "minmax" for o in chosen):
        least, most = values.min(axis=0), values.max(axis=0)
        span = np.where(most > least, most - least, 1).astype(np.float32)
        by_range = np.array([o.scale == "minmax" for o in chosen])
        shift, scale = np.where(by_range, least, shift), np.where(by_range, span, scale)
    plain = np.array([o.scale == "none" for o in chosen])
    return np.where(plain, np.float32(0), shift), np.where(plain, np.float32(1), scale)


def _fill(values: NDArray[np.float32], options: ColumnOptions) -> float:
    if options.missing == "zero":
        return 0.0
    if options.missing == "mean":
        return float(np.nanmean(values, dtype=np.float64))
    if options.missing in ("median", "refuse"):  # refused where there are gaps; a use elsewhere
        return float(np.nanmedian(values))
    return float(options.missing)


def _bounds(values: NDArray[np.float32], options: ColumnOptions) -> tuple[float, float]:
    if options.clip is None:
        return float(_FLOAT32.min), float(_FLOAT32.max)
    low, high = np.quantile(values.astype(np.float64), options.clip)
    return float(low), float(high)


def _listed(values: NDArray[np.float32] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values.tolist())
