"""Batches: rows of arrays in memory, by index, in an order that seed and epoch give.

Knows numpy and torch; knows no network and no loop. Arrays stay as they are (uint8 images
stay uint8); the network converts what a batch needs. No worker processes: a gather is far
cheaper than a step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from meuse.core.errors import Code, MeuseError
from meuse.train.options import Augment
from meuse.train.seeds import derive

FULL = 8192
"""Rows of one piece where a step takes the whole data."""


@dataclass(frozen=True, slots=True)
class Arrays:
    """Prepared features and targets, one row per example.

    `x`: float32 [n, f], uint8 or float32 [n, h, w, c], or int64 token ids [n, length].
    `y`: int64 class indices [n], float32 values [n], or float32 0/1 [n, k].
    """

    x: NDArray[Any]
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)


class Batches:
    """The training data as batches; `size` rows each, the last of an epoch may be smaller."""

    def __init__(
        self, arrays: Arrays, size: int, seed: int, augment: Augment | None, *, shuffle: bool
    ) -> None:
        self.rows = len(arrays)
        self.size = min(size, self.rows)
        self._x, self._y = tensor_of(arrays.x), tensor_of(arrays.y)
        self._seed = seed
        self._augment = augment
        self._shuffle = shuffle
        if augment is not None and self._x.ndim != 4:
            raise MeuseError(
                Code.INVALID_FIELD,
                "augment changes images, and the features are none",
                field="augment",
                hint="Leave augment out.",
            )

    def __len__(self) -> int:
        return (self.rows + self.size - 1) // self.size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from number `start` on."""
        if self._shuffle:
            order = torch.Generator().manual_seed(derive(self._seed, f"order:{epoch}"))
            shuffled = torch.randperm(self.rows, generator=order)
        for number in range(start, len(self)):
            place = slice(number * self.size, (number + 1) * self.size)
            if self._shuffle:
                chosen = shuffled[place]
                x, y = self._x[chosen], self._y[chosen]
            else:
                x, y = self._x[place], self._y[place]
            if self._augment is not None:
                purpose = f"augment:{epoch}:{number}"
                generator = torch.Generator().manual_seed(derive(self._seed, purpose))
                x = augmented(x, self._augment, generator)
            yield x, y

    def rows_of(self, number: int) -> int:
        """Rows of batch `number` of any epoch."""
        return min(self.size, self.rows - number * self.size)

    def sample(self) -> Tensor:
        """Two rows (one where there is only one), to try a network with."""
        return self._x[:2]


def tensor_of(array: NDArray[Any]) -> Tensor:
    """The array as a tensor on the same memory. Nothing here writes to it, so it may be
    read-only, such as a mapped file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array))


def augmented(x: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Images [n, h, w, c], each moved by up to `shift` pixels and mirrored or not.

    All in one gather: every image has its own row and column numbers.
    """
    n, height, width, _ = x.shape
    shift = augment.shift
    rows, columns = torch.arange(height).expand(n, -1), torch.arange(width).expand(n, -1)
    if augment.flip:
        mirrored = torch.randint(2, (n, 1), generator=generator, dtype=torch.bool)
        columns = torch.where(mirrored, columns.flip(1), columns)
    if shift:
        moves = torch.randint(2 * shift + 1, (2, n, 1), generator=generator)
        rows, columns = rows + moves[0], columns + moves[1]
        x = torch.nn.functional.pad(x, (0, 0, shift, shift, shift, shift))
    return x[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
