"""Real outputs on real data: scikit-learn's models on its sets, half of the rows held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Real:
    """What a model gave for the held-out rows, the truth, and those rows' features."""

    outputs: NDArray[Any]
    y: NDArray[Any]
    x: NDArray[Any]
    names: list[str]


def _held_out(data: Any, model: Any, how: str) -> Real:
    half = np.arange(len(data.target)) % 2 == 0
    model.fit(data.data[half], data.target[half])
    outputs = getattr(model, how)(data.data[~half])
    return Real(outputs, data.target[~half], data.data[~half], list(data.feature_names))


@pytest.fixture(scope="session")
def cancer() -> Real:
    """Two classes."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.naive_bayes import GaussianNB

    return _held_out(load_breast_cancer(), GaussianNB(), "predict_proba")


@pytest.fixture(scope="session")
def digits() -> Real:
    """Ten classes."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    return _held_out(load_digits(), KNeighborsClassifier(9), "predict_proba")


@pytest.fixture(scope="session")
def diabetes() -> Real:
    """Values."""
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Ridge

    return _held_out(load_diabetes(), Ridge(), "predict")


@pytest.fixture(scope="session")
def digit_labels() -> Real:
    """Three labels of a digit: even, a prime, more than four."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    data = load_digits()
    digit = data.target
    labels = np.column_stack([digit % 2 == 0, np.isin(digit, [2, 3, 5, 7]), digit > 4])
    data.target = labels.astype(int)
    found = _held_out(data, KNeighborsClassifier(9), "predict_proba")
    p = np.column_stack([each[:, 1] for each in found.outputs])
    return Real(p, found.y, found.x, found.names)
