"""Losses: from a network's outputs and the targets to one number.

Knows torch functions; knows no loop. Classification has logits [n, k] and class indices
int64 [n], multilabel logits [n, k] and 0/1 float32 [n, k], regression values [n, 1] and
float32 [n].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from numpy.typing import NDArray
from torch import Tensor

from meuse.core.errors import invalid
from meuse.train.options import Loss

Reduction = Literal["mean", "none"]
LossFunction = Callable[[Tensor, Tensor], Tensor]


def make(loss: Loss, task: str, weights: Tensor | None = None) -> LossFunction:
    """(outputs, targets) → the mean loss of the rows.

    `weights` [k]: for a classifier the mean is of each row's loss times its class's weight
    (not divided by the sum of weights, so that batches of any mixture count alike); with
    multilabel targets a class's weight multiplies the loss of its positives.
    """
    if task == "regression":
        return lambda outputs, y: _regression(loss, outputs.squeeze(1), y)
    if task == "multilabel":
        return lambda outputs, y: _multilabel(loss, outputs, y, weights)
    if weights is None:
        return lambda outputs, y: _classes(loss, outputs, y, "mean")
    return lambda outputs, y: (_classes(loss, outputs, y, "none") * weights[y]).mean()


def class_weights(
    given: tuple[float, ...] | str | None, y: NDArray[np.generic], task: str, outputs: int
) -> Tensor | None:
    """Weights float32 [k] from what the options say and the training targets.

    `balanced`: n / (k · rows of the class), so that the mean over the rows is 1; with
    multilabel targets negatives / positives of each class. A class without rows gets 0.
    Raises `invalid_field` for a regression or a wrong number of weights.
    """
    if given is None:
        return None
    if task == "regression":
        raise invalid("class_weights", "a regression has no classes", "Leave class_weights out.")
    if isinstance(given, str):
        if task == "multilabel":
            counts = np.asarray(y.sum(axis=0), np.float64)
            found = np.where(counts > 0, (len(y) - counts) / np.maximum(counts, 1), 0)
        else:
            counts = np.bincount(y.astype(np.int64), minlength=outputs).astype(np.float64)
            found = np.where(counts > 0, len(y) / (outputs * np.maximum(counts, 1)), 0)
        return torch.tensor(found, dtype=torch.float32)
    if len(given) != outputs:
        raise invalid(
            "class_weights",
            f"there are {len(given)} weights for {outputs} classes",
            "Give one weight per class in the order of the classes, or 'balanced'.",
        )
    return torch.tensor(given, dtype=torch.float32)


def _regression(loss: Loss, values: Tensor, y: Tensor) -> Tensor:
    if loss.name == "mae":
        return F.l1_loss(values, y)
    if loss.name == "huber":
        return F.huber_loss(values, y, delta=loss.delta)
    if loss.name == "quantile":  # Koenker and Bassett, Econometrica 46(1), 1978
        short = y - values
        return torch.maximum(loss.quantile * short, (loss.quantile - 1) * short).mean()
    return F.mse_loss(values, y)


def _classes(loss: Loss, logits: Tensor, y: Tensor, reduction: Reduction) -> Tensor:
    if loss.name == "bce":
        return _one_against_rest(loss, logits, y, reduction)
    if loss.name == "focal":
        rows = F.cross_entropy(logits, y, reduction="none")
        rows = _focal(rows, loss.gamma)
        return rows.mean() if reduction == "mean" else rows
    return F.cross_entropy(logits, y, label_smoothing=loss.smoothing, reduction=reduction)


def _one_against_rest(loss: Loss, logits: Tensor, y: Tensor, reduction: Reduction) -> Tensor:
    """Two classes: of the difference of the logits, so that softmax gives the probability.
    More: the mean over the classes, each against the rest."""
    if logits.shape[1] == 2:
        target = _smoothed(y.to(logits.dtype), loss.smoothing)
        margin = logits[:, 1] - logits[:, 0]
        return F.binary_cross_entropy_with_logits(margin, target, reduction=reduction)
    target = _smoothed(F.one_hot(y, logits.shape[1]).to(logits.dtype), loss.smoothing)
    rows = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)
    return rows.mean() if reduction == "mean" else rows


def _multilabel(loss: Loss, logits: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
    if loss.name == "focal":
        each = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        each = _focal(each, loss.gamma)
        return (each if weights is None else each * (1 + (weights - 1) * y)).mean()
    target = _smoothed(y, loss.smoothing)
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weights)


def _focal(entropy: Tensor, gamma: float) -> Tensor:
    """Lin et al., arXiv:1708.02002: -(1 - p)^gamma log p, from entropy = -log p."""
    return (-torch.expm1(-entropy)) ** gamma * entropy


def _smoothed(target: Tensor, smoothing: float) -> Tensor:
    return target * (1 - smoothing) + smoothing / 2 if smoothing else target
