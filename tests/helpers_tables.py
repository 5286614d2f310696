"""Small real tables: digits and diabetes of scikit-learn, and separable clouds of points."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from meuse.core.nouns import Splits
from meuse.data.splits import load_splits


def digits(folder: Path, seed: int = 0) -> Splits:
    """The 1,797 digits, split by `seed`."""
    from sklearn.datasets import load_digits

    path = folder / "digits.npz"
    source = load_digits()
    np.savez(path, x=source.data.astype(np.float32), label=source.target)
    return load_splits(path, "npz", target="label", task=None, seed=seed)


def diabetes(folder: Path, seed: int = 0) -> Splits:
    """The 442 rows of diabetes, a regression of disease progression."""
    from sklearn.datasets import load_diabetes

    path = folder / "diabetes.npz"
    source = load_diabetes(scaled=False)
    np.savez(path, x=source.data, progression=source.target)
    return load_splits(path, "npz", target="progression", task="regression", seed=seed)


def clouds(folder: Path, rows: int = 120, *, label: str = "text") -> Splits:
    """Two features on very different scales, three classes far apart."""
    generator = np.random.default_rng(7)
    y = np.arange(rows) % 3
    centres = np.array([[0.0, 0.0], [4.0, 4000.0], [-4.0, 4000.0]])
    x = centres[y] + generator.normal(size=(rows, 2)) * [0.5, 500.0]
    labels = np.array(["ash", "birch", "cedar"])[y] if label == "text" else y * 10
    path = folder / "clouds.npz"
    np.savez(path, x=x, label=labels)
    return load_splits(path, "npz", target="label", task=None, seed=0)
