"""Networks for images [n, h, w, c], uint8 or float32; normalisation is part of the network.

A batch in that order, permuted, already has torch's channels_last layout, in which oneDNN's
convolutions on CPU are fastest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meuse.core.errors import invalid
from meuse.train.convolution import Projection
from meuse.train.recipes.attention import Encoder
from meuse.train.recipes.catalog import Cnn, Lenet, Vit


class Normalise(nn.Module):
    """(pixels - mean) / deviation per channel, float32; both follow from the training images."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def adapt(self, x: NDArray[Any]) -> None:
        """Take mean and deviation of each channel of images [n, h, w, c]."""
        pixels = x.reshape(-1, x.shape[-1])
        if x.dtype == np.uint8:  # exactly, and without a copy in floating point
            counts = np.stack([np.bincount(c, minlength=256) for c in pixels.T]).astype(np.float64)
            values = np.arange(256)
            mean = counts @ values / len(pixels)
            std = np.sqrt(np.maximum(counts @ values**2 / len(pixels) - mean**2, 0))
        else:
            mean, std = pixels.mean(axis=0, dtype=np.float64), pixels.std(axis=0, dtype=np.float64)
        std = np.where(std > 1e-6, std, 1.0)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) / self.std


class Images(nn.Module):
    """Images [n, h, w, c] → normalised, channels first → body."""

    def __init__(self, channels: int, body: nn.Module) -> None:
        super().__init__()
        self.normalise = Normalise(channels)
        self.body = body

    def adapt(self, x: NDArray[Any]) -> None:
        self.normalise.adapt(x)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(self.normalise(x).permute(0, 3, 1, 2))
        return scores


def lenet(shape: tuple[int, ...], outputs: int, config: Lenet) -> nn.Module:
    """LeNet-5 (LeCun et al., Proc. IEEE 86(11), 1998) with ReLU and max pooling."""
    height, width, channels = _check(shape, 12, "lenet")
    first, second = config.channels
    side = (((height // 2) - 4) // 2) * (((width // 2) - 4) // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(channels, first, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    ]
    taken = second * side
    for given in config.hidden:
        layers += [nn.Linear(taken, given), nn.ReLU(), nn.Dropout(config.dropout)]
        taken = given
    return Images(channels, nn.Sequential(*layers, nn.Linear(taken, outputs)))


def cnn(shape: tuple[int, ...], outputs: int, config: Cnn) -> nn.Module:
    """A small ResNet (He et al., arXiv:1512.03385): a stem, stages of blocks, mean pooling."""
    _, _, channels = _check(shape, 2 ** (len(config.widths) - 1), "cnn")
    width = config.widths[0]
    layers: list[nn.Module] = [*_convolved(channels, width, 1), nn.ReLU()]
    for number, wider in enumerate(config.widths):
        for block in range(config.blocks):
            layers.append(Residual(width, wider, 2 if number and not block else 1))
            width = wider
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(config.dropout)]
    return Images(channels, nn.Sequential(*layers, nn.Linear(width, outputs)))


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, projected where the shape changes."""

    def __init__(self, taken: int, given: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            *_convolved(taken, given, stride), nn.ReLU(), *_convolved(given, given, 1)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or taken != given:
            self.shortcut = nn.Sequential(
                Projection(taken, given, 1, stride, bias=False), nn.BatchNorm2d(given)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.path(x) + self.shortcut(x))


def vit(shape: tuple[int, ...], outputs: int, config: Vit) -> nn.Module:
    """A small vision transformer (Dosovitskiy et al., arXiv:2010.11929), mean pooling."""
    height, width, channels = _check(shape, config.patch, "vit")
    patches = (height // config.patch) * (width // config.patch)
    return Images(channels, _Patches(channels, patches, outputs, config))


class _Patches(nn.Module):
    """Images [n, c, h, w] → patches → encoder → mean → scores."""

    def __init__(self, channels: int, patches: int, outputs: int, config: Vit) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, config.width, config.patch, config.patch)
        self.position = nn.Parameter(torch.randn(1, patches, config.width) * 0.02)
        self.encoder = Encoder(config.width, config.depth, config.heads, config.dropout)
        self.head = nn.Linear(config.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        scores: Tensor = self.head(self.encoder(tokens, None).mean(dim=1))
        return scores


def _convolved(taken: int, given: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(taken, given, 3, stride, 1, bias=False), nn.BatchNorm2d(given)]


def _check(shape: tuple[int, ...], smallest: int, recipe: str) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape[:2]) < smallest:
        raise invalid(
            "recipe",
            f"{recipe} takes images of at least {smallest} x {smallest} pixels, not rows of the "
            f"shape {list(shape)}",
            "Use another recipe, or larger images.",
        )
    height, width, channels = shape
    return height, width, channels
