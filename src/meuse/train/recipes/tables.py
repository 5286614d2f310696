"""Networks for tables: rows float32 [n, f]. Images are taken as rows of pixels."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from meuse.train.recipes.catalog import Linear, Mlp
from meuse.train.recipes.images import Normalise


def linear(shape: tuple[int, ...], outputs: int, config: Linear) -> nn.Module:
    """One linear layer: logistic or linear regression."""
    return _rows(shape, [nn.Linear(math.prod(shape), outputs)])


def mlp(shape: tuple[int, ...], outputs: int, config: Mlp) -> nn.Module:
    """Linear layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    width = math.prod(shape)
    for hidden in config.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        if config.dropout > 0:
            layers.append(nn.Dropout(config.dropout))
        width = hidden
    return _rows(shape, [*layers, nn.Linear(width, outputs)])


def _rows(shape: tuple[int, ...], layers: list[nn.Module]) -> nn.Module:
    if len(shape) == 1:
        return nn.Sequential(*layers)
    return _Pixels(shape[-1], layers)


class _Pixels(nn.Module):
    """Layers behind a normalisation."""

    def __init__(self, channels: int, layers: list[nn.Module]) -> None:
        super().__init__()
        self.normalise = Normalise(channels)
        self.body = nn.Sequential(nn.Flatten(), *layers)

    def adapt(self, x: NDArray[Any]) -> None:
        """See `Normalise`."""
        self.normalise.adapt(x)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(self.normalise(x))
        return scores
