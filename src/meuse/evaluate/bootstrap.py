"""Bootstrap: how far figures would move had other rows been drawn.

Knows figures under weights only. The same seed and number of rows give the same resamples,
so figures of two models on the same rows are resampled as pairs. Sources: Efron and
Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile interval); for
many rows each is counted by a Poisson draw of its own: Chamandy, Muralidharan, Najmi and
Naidu, Estimating Uncertainty for Massive Data Streams (2012).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from meuse.evaluate.figures import Figures, Floats

RESAMPLES = 1000
LEAST = 100
"""Fewer resamples than this would say nothing about the ends of an interval."""
WORK = 100_000_000
"""Rows drawn at most, over all resamples: large splits take fewer resamples."""
RANK_WORK = 30_000_000
"""Rows sorted at most, over resamples and classes: the AUC of many classes takes fewer."""
MANY = 5000
"""From so many rows on, Poisson draws: no scattered counting."""
_CHUNK = 1_000_000  # weights held at once

Samples = Mapping[str, Floats]
"""Figures by name, one entry per resample."""


def resamples_for(rows: int, classes: int = 0) -> tuple[int, int]:
    """(resamples of sums, resamples of ranks) for so many rows."""
    sums = int(np.clip(WORK // max(rows, 1), LEAST, RESAMPLES))
    if classes == 0:
        return sums, 0
    return sums, min(sums, int(np.clip(RANK_WORK // (rows * classes), LEAST, RESAMPLES)))


def weights(rows: int, count: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn in each of `count` resamples, in chunks [rows, b]."""
    generator = np.random.Generator(np.random.PCG64(seed))
    step = max(1, _CHUNK // rows)
    for start in range(0, count, step):
        size = min(step, count - start)
        if rows >= MANY:
            drawn = generator.integers(0, 65536, size=(rows, size), dtype=np.uint16)
            yield _POISSON[drawn]
        else:
            flat = generator.integers(0, rows, size=(rows, size)) * size + np.arange(size)
            counts = np.bincount(flat.ravel(), minlength=rows * size)
            yield counts.reshape(rows, size).astype(np.float64)


def _poisson_table() -> Floats:
    """The count that each of 65,536 equally likely draws stands for (Poisson, mean 1)."""
    bounds = np.cumsum([math.exp(-1) / math.factorial(i) for i in range(9)])
    return np.searchsorted(bounds, (np.arange(65536) + 0.5) / 65536).astype(np.float64)


_POISSON = _poisson_table()


def samples(figures: Figures, rows: int, seed: int) -> dict[str, Floats]:
    """The figures of every resample. Ranks may have fewer: the first ones."""
    count, ranked = resamples_for(rows, figures.classes)
    found: dict[str, list[Floats]] = {}
    done = 0
    for chunk in weights(rows, count, seed):
        parts = figures.sums(chunk)
        if done < ranked:
            parts |= figures.ranks(chunk[:, : ranked - done])
        for name, values in parts.items():
            found.setdefault(name, []).append(values)
        done += chunk.shape[1]
    return {name: np.concatenate(parts) for name, parts in found.items()}


def interval(values: Floats) -> tuple[float, float] | None:
    """The middle 95% of resampled figures; None when they are undefined."""
    defined = values[np.isfinite(values)]
    if len(defined) < LEAST // 2:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def difference(before: Floats, after: Floats) -> tuple[float, float] | None:
    """The interval of `after` minus `before`, paired by resample."""
    count = min(len(before), len(after))
    return interval(after[:count] - before[:count])
