"""k-means of numbers, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from meuse.compress.kmeans import Init, inertia, kmeans, nearest


def heavy(n: int, seed: int = 0) -> np.ndarray:
    """Like the weights of a trained layer: many small, few large."""
    return np.random.default_rng(seed).laplace(size=n) * 0.05 + 0.01


@pytest.mark.parametrize("k", [4, 16, 256])
@pytest.mark.parametrize("init", ["linear", "density"])
def test_it_is_not_worse_than_scikit_learn_from_the_same_start(k: int, init: Init) -> None:
    """Linear and density: where scikit-learn's Lloyd ends, or lower."""
    values = np.sort(heavy(5000))
    start = {
        "linear": np.linspace(values.min(), values.max(), k),
        "density": values[((np.arange(k) + 0.5) / k * 5000).astype(int)],
    }[init]
    peer = KMeans(k, init=start[:, None], n_init=1, tol=0, max_iter=2000).fit(values[:, None])
    assert inertia(values, kmeans(values, k, init)) <= 1.001 * peer.inertia_


@pytest.mark.parametrize("k", [2, 4, 16, 64, 256])
def test_optimal_is_not_worse_than_scikit_learn_at_its_best(k: int) -> None:
    """Not above the best of three of k-means++; all ways end at k values or fewer."""
    values = heavy(5000)
    peer = KMeans(k, n_init=3, random_state=0, tol=0).fit(values[:, None])
    assert inertia(values, kmeans(values, k, "optimal")) <= 1.0001 * peer.inertia_
    assert len(kmeans(values, k, "random", 1)) <= k


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.integers(1, 20),
    st.sampled_from(["optimal", "linear", "density", "random"]),
)
def test_centroids_are_means_of_what_is_nearest(values: list[float], k: int, init: Init) -> None:
    """Whatever the values, ties and single ones too; never more than k, never worse than one."""
    given_ = np.array(values)
    found = kmeans(given_, k, init)
    assert 1 <= len(found) <= k
    assert (np.diff(found) > 0).all()
    codes = nearest(given_, found)
    distances = np.abs(given_[:, None] - found)
    np.testing.assert_allclose(
        distances[np.arange(len(given_)), codes], distances.min(axis=1), atol=1e-6
    )
    spread = ((given_ - given_.mean()) ** 2).sum()
    assert inertia(given_, found) <= spread + 1e-6 * (1 + np.abs(given_).max() ** 2)
    if len(set(values)) <= k and init == "optimal":
        assert inertia(given_, found) <= 1e-6 * (1 + spread)


def test_few_values_are_found_exactly() -> None:
    """Four values, far from 0, are their own centroids."""
    values = np.repeat(np.array([1e4, 1e4 + 1, 1e4 + 2, 1e4 + 5]), 50)
    for init in ("optimal", "linear", "density"):
        np.testing.assert_allclose(kmeans(values, 4, init), np.unique(values), rtol=1e-12)
