"""Small real data as the training loop takes it: prepared arrays to train and to validate on."""

from __future__ import annotations

import numpy as np

from meuse.train.batches import Arrays

Parts = tuple[Arrays, Arrays]


def digits() -> Parts:
    """The 1,797 digits, 64 pixels a row, 0 to 1."""
    from sklearn.datasets import load_digits

    source = load_digits()
    return _split((source.data / 16).astype(np.float32), source.target.astype(np.int64))


def digit_images() -> Parts:
    """The same as images uint8 [n, 16, 16, 1], each pixel doubled."""
    parts = digits()
    images = [(p.x.reshape(-1, 8, 8, 1) * 255).astype(np.uint8) for p in parts]
    large = [i.repeat(2, 1).repeat(2, 2) for i in images]
    return Arrays(large[0], parts[0].y), Arrays(large[1], parts[1].y)


def diabetes() -> Parts:
    """The 442 rows of diabetes, features and target standardised."""
    from sklearn.datasets import load_diabetes

    source = load_diabetes()
    y = (source.target - source.target.mean()) / source.target.std()
    x = source.data / source.data.std(axis=0)
    return _split(x.astype(np.float32), y.astype(np.float32))


def clouds(rows: int = 120) -> Parts:
    """Two features, three classes far apart."""
    generator = np.random.default_rng(7)
    y = np.arange(rows) % 3
    centres = np.array([[0.0, 0.0], [4.0, 4.0], [-4.0, 4.0]])
    x = centres[y] + generator.normal(size=(rows, 2)) * 0.5
    return _split(x.astype(np.float32), y)


def _split(x: np.ndarray, y: np.ndarray) -> Parts:
    order = np.random.default_rng(0).permutation(len(y))
    rest, kept = order[len(y) // 5 :], order[: len(y) // 5]
    return Arrays(x[rest], y[rest]), Arrays(x[kept], y[kept])
