"""Recipes: plain functions from the number of features and outputs to a network.

Knows torch modules; knows no data, no loop, no job and no file. A network takes standardised
rows [n, features] and gives scores [n, outputs]; `served` is what is made of it for callers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from torch import Tensor, nn

from meuse.core.nouns import Signature, TensorSpec


class MlpConfig(TypedDict):
    """`hidden`: widths of the hidden layers; `dropout`: share of hidden units left out."""

    hidden: Sequence[int]
    dropout: float


class LinearConfig(TypedDict):
    """Nothing to choose."""


def mlp(features: int, outputs: int, config: MlpConfig) -> nn.Module:
    """Linear layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    width = features
    for hidden in config["hidden"]:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        if config["dropout"] > 0:
            layers.append(nn.Dropout(config["dropout"]))
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def linear(features: int, outputs: int, config: LinearConfig) -> nn.Module:
    """One linear layer: logistic or linear regression."""
    return nn.Linear(features, outputs)


RECIPES: dict[str, Callable[[int, int, Any], nn.Module]] = {"mlp": mlp, "linear": linear}


class Standardised(nn.Module):
    """A network that takes raw rows: standardisation is part of the model.

    Rows [n, features] → logits [n, outputs]; where the target was standardised
    (regression), → values [n] in the target's own unit.
    """

    mean: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        body: nn.Module,
        mean: Tensor,
        std: Tensor,
        target: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__()
        self.body = body
        self.regression = target is not None
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        if target is not None:
            self.register_buffer("target_mean", target[0])
            self.register_buffer("target_std", target[1])

    def forward(self, rows: Tensor) -> Tensor:
        scores: Tensor = self.body((rows - self.mean) / self.std)
        if self.regression:
            return scores.squeeze(1) * self.target_std + self.target_mean
        return scores


class _Classifier(nn.Module):
    """Rows → (class index, probabilities)."""

    def __init__(self, model: Standardised) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(rows)
        return logits.argmax(dim=1), logits.softmax(dim=1)


def served(model: Standardised) -> nn.Module:
    """What answers requests: rows → (class index, probabilities), or → values."""
    return model if model.regression else _Classifier(model)


def signature_of(features: int, classes: tuple[str | int, ...] | None) -> Signature:
    """What `served` takes and gives; no classes: a regressor."""
    taken = (TensorSpec("input", "FP32", (-1, features)),)
    if classes is None:
        return Signature(taken, (TensorSpec("value", "FP32", (-1,)),))
    given = (
        TensorSpec("label", "INT64", (-1,)),
        TensorSpec("probabilities", "FP32", (-1, len(classes))),
    )
    return Signature(taken, given, classes)
