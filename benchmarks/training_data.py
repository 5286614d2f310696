"""The real data of the training benchmark, from packages of Python and Debian, and the settings
that models of Fashion-MNIST are trained by."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.nouns import Column, Examples, Frame, Splits
from meuse.train.batches import Arrays

FASHION = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True, slots=True)
class Setting:
    """A recipe, its config, and loop options over the recipe's defaults."""

    recipe: str
    config: dict[str, Any]
    options: dict[str, Any]


# Chosen on the validation rows: see training_choice.py.
SETTINGS: dict[str, Setting] = {
    "mlp": Setting(
        "mlp",
        {"hidden": [300, 100], "dropout": 0.2},
        {
            "optimizer": "adamw",
            "learning_rate": 0.003,
            "weight_decay": 0.05,
            "schedule": "one_cycle",
            "epochs": 30,
            "batch_size": 256,
            "augment": {"flip": True},
        },
    ),
    "lenet": Setting("lenet", {}, {"augment": {"flip": True}}),
    # The widths of Caffe's LeNet, whose compression papers report.
    "lenet-caffe": Setting(
        "lenet",
        {"channels": [20, 50], "hidden": [500]},
        {
            "learning_rate": 0.003,
            "epochs": 6,
            "batch_size": 256,
            "augment": {"flip": True},
        },
    ),
    "cnn": Setting(
        "cnn",
        {"widths": [16, 64, 128]},
        {"learning_rate": 0.1, "epochs": 9, "augment": {"flip": True}},
    ),
}


@dataclass(frozen=True, slots=True)
class Fashion:
    """Fashion-MNIST: uint8 [n, 28, 28, 1]; one training image in ten is to validate on."""

    train: Arrays
    validation: Arrays
    test: Arrays


def fashion(seed: int = 0) -> Fashion | None:
    """The Debian package dataset-fashion-mnist; None where it is absent."""
    if not FASHION.is_dir():
        return None
    x, y = _images("train")
    order = np.random.default_rng(seed).permutation(len(y))
    kept, rest = order[: len(y) // 10], order[len(y) // 10 :]
    return Fashion(Arrays(x[rest], y[rest]), Arrays(x[kept], y[kept]), Arrays(*_images("t10k")))


def _images(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels = _idx(FASHION / f"{name}-images-idx3-ubyte.gz")[..., None]
    return pixels, _idx(FASHION / f"{name}-labels-idx1-ubyte.gz").astype(np.int64)


def _idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of bytes: two zeros, the type, the number of axes, their sizes, the values."""
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()


def folds(name: str, count: int = 5, seed: int = 0) -> Iterator[Splits]:
    """breast-cancer or diabetes of scikit-learn; each fold is the test split once, and one row
    in eight of the rest is to validate on."""
    from sklearn.datasets import load_breast_cancer, load_diabetes
    from sklearn.model_selection import KFold, StratifiedKFold

    if name == "breast-cancer":
        source, kind = load_breast_cancer(), StratifiedKFold
    else:
        source, kind = load_diabetes(scaled=False), KFold
    x = source.data.astype(np.float32)
    y = source.target.astype(np.int64 if name == "breast-cancer" else np.float32)
    for rest, test in kind(count, shuffle=True, random_state=seed).split(x, y):
        mixed = np.random.default_rng(seed).permutation(rest)
        cut = len(mixed) // 8
        yield _splits(x, y, (mixed[cut:], mixed[:cut], test))


def visits(seed: int) -> tuple[Splits, NDArray[Any], NDArray[Any]] | None:
    """RAND HIE of statsmodels: visits to a doctor, a regression over 20,190 rows, split 64 to 16
    to 20; and the columns and the target as scikit-learn takes them. None without statsmodels."""
    try:
        from statsmodels.datasets import randhie
    except ImportError:
        return None
    table = randhie.load_pandas().data
    y = table["mdvis"].to_numpy(np.float32)
    x = table.drop(columns="mdvis").to_numpy(np.float32)
    order = np.random.default_rng(seed).permutation(len(y))
    a, b = int(0.64 * len(y)), int(0.8 * len(y))
    return _splits(x, y, (order[:a], order[a:b], order[b:])), x, y


def _splits(x: NDArray[Any], y: NDArray[Any], rows: tuple[NDArray[Any], ...]) -> Splits:
    train, validation, test = (Examples(Frame.of_numbers(x[part]), y[part]) for part in rows)
    columns = tuple(Column(name, "float") for name in train.frame.names)
    if y.dtype == np.int64:
        return Splits(train, validation, test, columns, "target", "classification", (0, 1))
    return Splits(train, validation, test, columns, "target", "regression", None)
