"""What a recipe with a training of its own is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TrainArrays:
    """Prepared features [n, …] and targets: class indices [n], labels 0 and 1 [n, k], or
    standardised values [n]; `outputs` scores a row."""

    x: NDArray[Any]
    y: NDArray[Any]
    validation_x: NDArray[Any]
    validation_y: NDArray[Any]
    task: str
    outputs: int
