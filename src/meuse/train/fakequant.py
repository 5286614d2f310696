"""Layers that compute in float32 as if in 8-bit integers, and can be trained so.

A weight w is scale · round(w / scale), one symmetric scale per output; what a layer reads (and
what a convolution gives, where nothing that is quantized reads it at once) is
scale · (round(x / scale) + zero - zero) with codes from 0 to 255. Rounding passes gradients on
as if it were not there (Bengio et al., arXiv:1308.3432), to values and to scales (Esser et
al., arXiv:1902.08153), whose logarithm is trained (Jain et al., arXiv:1903.08066). Exported,
every one is a QuantizeLinear and a DequantizeLinear, with which ONNX Runtime computes the same
in integers (`train.integers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

from meuse.train.convolution import Projection

_LEAST = 1e-8
_KEPT = 0.9  # of the range seen so far, when scales follow the values


class Activation(nn.Module):
    """Values rounded to 256 levels of one scale. `watching` only widens the range."""

    scale: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        self.watching = False
        self.grown = nn.Parameter(torch.zeros(()), requires_grad=learned)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return _exported(x, self.scale, self.zero)
        if self.watching:
            self._widen(x, 0.0)
            return x
        if self.training and not self.learned:
            self._widen(x, _KEPT)
        scale, zero = self.scale * self.grown.exp(), self.zero.float()
        codes = (_round(x / scale) + zero).clamp(0, 255)
        return (codes - zero) * scale

    @torch.no_grad()
    def settle(self) -> None:
        """Take the trained change up into the scale."""
        self.scale.mul_(self.grown.exp())
        self.grown.zero_()

    @torch.no_grad()
    def _widen(self, x: Tensor, kept: float) -> None:
        low, high = x.min().clamp(max=0), x.max().clamp(min=0)
        if kept and bool(self.high > self.low):
            self.low.lerp_(low, 1 - kept)
            self.high.lerp_(high, 1 - kept)
        else:
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        self.scale.copy_(((self.high - self.low) / 255).clamp(min=_LEAST))
        self.zero.copy_((-self.low / self.scale).round().clamp(0, 255).byte())


class Layer(nn.Module):
    """What a quantized linear layer or convolution has besides: scales. Mixed in before it."""

    weight: Tensor
    weight_scale: Tensor
    zeros: Tensor

    def prepare(self, levels: int, learned: bool, output: bool) -> None:
        """`levels` is the largest code of a weight: 127, or 63 where 16-bit sums saturate."""
        self.levels = levels
        self.learned = learned
        outputs = self.weight.shape[0]
        made: dict[str, Any] = {"device": self.weight.device}
        self.grown = nn.Parameter(torch.zeros(outputs, **made), requires_grad=learned)
        self.register_buffer("weight_scale", torch.ones(outputs, **made))
        self.register_buffer("zeros", torch.zeros(outputs, dtype=torch.int8, **made))
        self.given = Activation(learned)
        self.made = Activation(learned) if output else nn.Identity()

    @torch.no_grad()
    def fit(self) -> None:
        """Scales that just hold the largest weight of each output."""
        largest = self.weight.detach().flatten(1).abs().amax(1)
        largest = torch.where(largest > 0, largest, torch.ones_like(largest))
        self.weight_scale.copy_((largest / self.levels).clamp(min=_LEAST))

    def rounded(self) -> Tensor:
        """The weight as integers stand for it."""
        weight = self.weight
        if torch.compiler.is_exporting():
            return _exported(weight, self.weight_scale, self.zeros, axis=0)
        if self.training and not self.learned:
            self.fit()
        scale = self.weight_scale * self.grown.exp()
        scale = scale.view(-1, *[1] * (weight.ndim - 1))
        return _round(weight / scale).clamp(-self.levels, self.levels) * scale

    @torch.no_grad()
    def settle(self) -> None:
        """Make what was trained what is exported: final scales, and weights on their grid."""
        self.weight_scale.mul_(self.grown.exp())
        self.grown.zero_()
        for part in self.children():
            if isinstance(part, Activation):
                part.settle()
        self.eval()
        self.weight.copy_(self.rounded())


class Linear(Layer, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.made(F.linear(self.given(x), self.rounded(), self.bias))
        return made


class Conv2d(Layer, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias
        made: Tensor = self.made(self._conv_forward(self.given(x), self.rounded(), bias))
        return made


class Strided(Layer, Projection):
    def forward(self, input: Tensor) -> Tensor:
        made: Tensor = self.made(self._conv_forward(self.given(input), self.rounded(), self.bias))
        return made


def fake_quant(network: nn.Module, name: str, edit: Mapping[str, Any]) -> None:
    """The edit {"kind": "fake_quant", "module", "levels", "learned", "output"}: the layer with
    scales, not yet fitted."""
    module = network.get_submodule(name)
    kind = KINDS.get(type(module))
    levels = edit.get("levels")
    if kind is None or levels not in (63, 127):
        raise ValueError(f"{type(module).__name__} with {levels} levels cannot be quantized")
    module.__class__ = kind
    assert isinstance(module, Layer)
    module.prepare(levels, bool(edit.get("learned")), bool(edit.get("output")))


KINDS: dict[type, type[Layer]] = {nn.Linear: Linear, nn.Conv2d: Conv2d, Projection: Strided}
"""The classes of layers that can be quantized, each with its quantized one."""


def fold_norm(network: nn.Module, name: str, edit: Mapping[str, Any]) -> None:
    """The edit {"kind": "fold_norm", "module", "norm"}: a convolution that has taken up the
    batch normalisation behind it, which becomes nothing."""
    module, norm = network.get_submodule(name), str(edit.get("norm"))
    if not isinstance(module, nn.Conv2d) or not isinstance(
        network.get_submodule(norm), nn.BatchNorm2d
    ):
        raise ValueError("only a convolution takes up a batch normalisation")
    if module.bias is None:
        module.bias = nn.Parameter(torch.zeros(module.out_channels, device=module.weight.device))
    parent, _, last = norm.rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())


def layers(network: nn.Module) -> list[Layer]:
    """The quantized layers."""
    return [module for module in network.modules() if isinstance(module, Layer)]


def _round(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _exported(x: Tensor, scale: Tensor, zero: Tensor, **attributes: int) -> Tensor:
    """The pair of ONNX nodes, for `torch.onnx.export` alone."""
    told: dict[str, Any] = {"attrs": attributes, "shape": x.shape}
    kind = zero.dtype
    codes = torch.onnx.ops.symbolic("QuantizeLinear", (x, scale, zero), dtype=kind, **told)
    wide = (codes, scale, zero)
    made: Tensor = torch.onnx.ops.symbolic("DequantizeLinear", wide, dtype=x.dtype, **told)
    return made
