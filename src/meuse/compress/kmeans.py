"""k-means of numbers. Knows numpy alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Init = Literal["optimal", "linear", "density", "random"]
Values = NDArray[np.float64]
Places = NDArray[np.int64]

_ROUNDS = 1000
_SETTLED = 1e-12  # of the spread: centroids that move less have settled
_BINS = 768


def kmeans(values: NDArray[np.floating], k: int, init: Init, seed: int = 0) -> Values:
    """At most `k` centroids of `values` [n], sorted; n is 1 or more.

    Lloyd's algorithm until nothing moves (Least squares quantization in PCM, IEEE Trans. Inf.
    Theory 28(2), 1982). In one dimension clusters are runs of the sorted values: a round takes
    k binary searches and differences of prefix sums. It starts at centroids that are evenly
    spaced between the extremes (`linear`), at quantiles (`density`) or at values drawn
    (`random`), as in Deep Compression, arXiv:1510.00149, section 3.2; or at the best clusters
    that there are of some 800 narrow bins (`optimal`), found by dynamic programming (Wang and
    Song, Ckmeans.1d.dp, The R Journal 3(2), 2011). A cluster that ran empty takes half of the
    one with the largest sum of squares.
    """
    sums = _Sums(np.sort(values.astype(np.float64)))
    centroids = _start(sums, k, init, seed)
    settled = _SETTLED * max(float(sums.values[-1] - sums.values[0]), 1e-300)
    for _ in range(_ROUNDS):
        edges = sums.edges(centroids)
        moved = _filled(sums, edges, sums.means(edges, centroids))
        change = np.abs(moved - centroids).max()
        centroids = moved
        if change <= settled:
            break
    return np.unique(centroids)


def nearest(values: NDArray[np.floating], centroids: Values) -> Places:
    """The place of the centroid closest to each value."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values).astype(np.int64)


def inertia(values: NDArray[np.floating], centroids: Values) -> float:
    """The sum of squared distances to the closest centroids."""
    return float(((values - centroids[nearest(values, centroids)]) ** 2).sum())


class _Sums:
    """Sorted values with their prefix sums."""

    def __init__(self, values: Values) -> None:
        self.values = values
        self._mean = values.mean()
        shifted = values - self._mean  # squares of what lies far from 0 would cancel
        self._first = np.concatenate([[0.0], np.cumsum(shifted)])
        self._second = np.concatenate([[0.0], np.cumsum(shifted**2)])

    def edges(self, centroids: Values) -> Places:
        """Where clusters begin and end, [k + 1]."""
        middles = (centroids[1:] + centroids[:-1]) / 2
        inner = np.searchsorted(self.values, middles, side="right")
        return np.concatenate([[0], inner, [len(self.values)]])

    def of(self, starts: Places, ends: Places) -> tuple[Values, Values]:
        """(means, sums of squared distances to them) of runs; an empty run has the mean of all."""
        counts = np.maximum(ends - starts, 1)
        first, second = self._first[ends] - self._first[starts], self._second[ends]
        squares = np.maximum(second - self._second[starts] - first**2 / counts, 0)
        return first / counts + self._mean, squares

    def means(self, edges: Places, empty: Values) -> Values:
        return np.where(np.diff(edges) > 0, self.of(edges[:-1], edges[1:])[0], empty)


def _start(sums: _Sums, k: int, init: Init, seed: int) -> Values:
    values = sums.values
    if init == "optimal":
        return _optimal(sums, k)
    if init == "linear":
        return np.linspace(values[0], values[-1], k)
    if init == "density":
        places = (np.arange(k) + 0.5) / k * len(values)
        return values[np.minimum(places.astype(np.int64), len(values) - 1)]
    drawn = np.random.default_rng(seed).choice(values, k, replace=len(values) < k)
    return np.sort(drawn)


def _optimal(sums: _Sums, k: int) -> Values:
    """The means of the best `k` runs of bins: half of these are as wide, half as full."""
    n = len(sums.values)
    wide = np.linspace(sums.values[0], sums.values[-1], _BINS // 2)
    full = np.linspace(0, n, _BINS // 2 + 1).astype(np.int64)
    bounds = np.union1d(full, np.searchsorted(sums.values, wide))
    ends = bounds[1:]
    # costs[i, j]: of one run from bound i to end j; none where it would be empty.
    costs = sums.of(bounds[:-1, None], ends[None, :])[1]
    costs[bounds[:-1, None] >= ends[None, :]] = np.inf
    best, came = costs[0], []
    for _ in range(min(k, len(ends)) - 1):
        through = np.concatenate([[np.inf], best[:-1]])[:, None] + costs
        came.append(through.argmin(axis=0))
        best = through[came[-1], np.arange(len(ends))]
    place, edges = len(ends) - 1, [n]
    for back in reversed(came):
        start = int(back[place])
        edges.append(int(bounds[start]))
        place = start - 1
    edges.append(0)
    found = np.array(edges[::-1])
    return sums.of(found[:-1], found[1:])[0]


def _filled(sums: _Sums, edges: Places, centroids: Values) -> Values:
    """Empty clusters become halves of those that cost most."""
    empty = np.flatnonzero(np.diff(edges) == 0)
    if not len(empty):
        return centroids
    costs = sums.of(edges[:-1], edges[1:])[1]
    found = centroids.copy()
    for place, costly in zip(empty, np.argsort(-costs), strict=False):
        if costs[costly] <= 0:
            break
        low, high = edges[costly], edges[costly + 1]
        middle = int(np.clip(np.searchsorted(sums.values, centroids[costly]), low + 1, high - 1))
        found[costly], found[place] = sums.of(np.array([low, middle]), np.array([middle, high]))[0]
    return np.sort(found)
