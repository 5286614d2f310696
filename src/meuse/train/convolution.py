"""A convolution that is safe to train where torch's own is not. Knows torch alone."""

from __future__ import annotations

from torch import Tensor, nn


class Projection(nn.Conv2d):
    """A 1x1 convolution with a stride and without padding.

    In training it picks the pixels before it multiplies: the backward pass of a strided 1x1
    convolution in channels_last writes beyond its memory for some numbers of channels (4, 5, 6;
    torch 2.13 with oneDNN on AVX-512), which pruned networks have.
    """

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.training:
            made: Tensor = super()._conv_forward(input, weight, bias)
            return made
        down, across = self.stride
        return nn.functional.conv2d(input[:, :, ::down, ::across], weight, bias)


KINDS = (nn.Conv2d, Projection)
"""The classes of plain convolutions of images; others compute something else."""
