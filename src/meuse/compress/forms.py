"""What a step has left of the forms that weights had: exact zeros, shared values.

Knows weights as `compress.weights` lists them; knows no method.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from meuse.compress import shared, weights

_TOLD = 0.5
"""Less than this share of what there was is told: training and cutting move it a little."""


@dataclass(frozen=True, slots=True)
class Forms:
    """Shares of all weights, 0 to 1: those that are zero, and those in layers of few values."""

    zero: float
    sharing: float


def of(network: nn.Module) -> Forms:
    found = [layer.weight for layer in weights.layers(network)]
    total = sum(weight.numel() for weight in found)
    if not total:
        return Forms(0.0, 0.0)
    zero = sum(int((weight == 0).sum()) for weight in found)
    few = sum(weight.numel() for weight in found if shared.values_of(weight) is not None)
    return Forms(zero / total, few / total)


def lost(before: Forms, after: Forms) -> list[str]:
    """Sentences on what there was of them before and is no longer."""
    told = []
    if after.zero < _TOLD * before.zero:
        told.append(f"{before.zero:.1%} of the weights were zero, {after.zero:.1%} are now")
    if after.sharing < _TOLD * before.sharing:
        told.append(
            f"{before.sharing:.1%} of the weights shared few values, {after.sharing:.1%} do now"
        )
    return told
