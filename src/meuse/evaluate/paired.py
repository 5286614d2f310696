"""Paired comparison: by how much two models differ on the same rows.

Knows per-row scores only, whatever they measure; higher is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_CHUNK = 4_000_000  # draws held at once


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of `after - before` over `n` rows, with its 95% interval [low, high]."""

    mean: float
    low: float
    high: float
    n: int


def paired_difference(
    before: NDArray[Any], after: NDArray[Any], seed: int, *, resamples: int = RESAMPLES
) -> PairedDifference:
    """The mean difference of paired per-row scores and a bootstrap interval.

    `before` and `after` are [n] scores of the same rows (1 and 0 for right and wrong, or
    any number), n ≥ 1. Rows are resampled with replacement as pairs; the interval runs from
    the 2.5th to the 97.5th percentile of the resampled means. Source: Efron and Tibshirani,
    An Introduction to the Bootstrap (1993), chapter 13 (percentile interval). The same seed
    gives the same interval. Raises ValueError when the lengths differ or are 0.
    """
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    if np.shape(before) != np.shape(after) or difference.ndim != 1 or difference.size == 0:
        raise ValueError("before and after must be two equally long, non-empty lists of scores")
    generator = np.random.Generator(np.random.PCG64(seed))
    n = len(difference)
    step = max(1, _CHUNK // n)
    means = np.empty(resamples, np.float64)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        draws = generator.integers(0, n, size=(count, n))
        means[start : start + count] = difference[draws].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return PairedDifference(float(difference.mean()), float(low), float(high), n)
