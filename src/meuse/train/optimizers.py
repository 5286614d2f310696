"""Optimizers: from options to one of torch's.

Knows torch.optim and the options' names; knows no loop and no schedule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from meuse.train.options import LoopOptions


def make(options: LoopOptions, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of `network`, at the options' learning rate.

    `gd` and `sgd` are torch's SGD, `adam` adds the decay to the gradient, `adamw` takes it
    from the weights (arXiv:1711.05101). The fused kernels do the same arithmetic in one pass.
    """
    groups = _groups(network, options.weight_decay)
    rate = options.rate
    match options.optimizer:
        case "gd":
            return torch.optim.SGD(groups, lr=rate, momentum=0.0, fused=True)
        case "sgd":
            return torch.optim.SGD(
                groups, lr=rate, momentum=options.inertia, nesterov=options.nesterov, fused=True
            )
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, momentum=options.inertia)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr=rate, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=rate, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, lr=rate, fused=True)


def _groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels; none for vectors (biases, normalisation)."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if not decay:
        return [{"params": trained, "weight_decay": 0.0}]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    found = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in found if group["params"]]
