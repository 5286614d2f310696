"""Optimizers: steps against the published rules, written out in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from meuse.train import optimizers
from meuse.train.options import LoopOptions

GRADIENTS = np.random.default_rng(1).normal(size=(6, 2, 3)).astype(np.float64)
RATE = 0.05
START = 0.5


def walk(options: LoopOptions) -> np.ndarray:
    """The weight after every step with these gradients."""
    layer = nn.Linear(3, 2, bias=False)
    nn.init.constant_(layer.weight, START)
    optimizer = optimizers.make(options, layer)
    found = []
    for gradient in GRADIENTS:
        layer.weight.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        found.append(layer.weight.detach().numpy().copy())
    return np.array(found)


def rule(step: Callable[[np.ndarray, dict[str, Any], int], np.ndarray], decay: float = 0.0):
    """The weight after every step of a rule: (gradient, memory, number) → change."""
    weight, memory, found = np.full((2, 3), START), {}, []
    for number, gradient in enumerate(GRADIENTS, 1):
        weight = weight - step(gradient + decay * weight, memory, number)
        found.append(weight)
    return np.array(found)


def momentum(g: np.ndarray, memory: dict[str, Any], _: int, *, nesterov: bool = False):
    v = memory["v"] = 0.8 * memory["v"] + g if "v" in memory else g
    return RATE * (g + 0.8 * v if nesterov else v)


def adam(g: np.ndarray, memory: dict[str, Any], t: int) -> np.ndarray:
    m = memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
    v = memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * g**2
    return RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def rmsprop(g: np.ndarray, memory: dict[str, Any], _: int) -> np.ndarray:
    v = memory["v"] = 0.99 * memory.get("v", 0) + 0.01 * g**2
    return RATE * g / (np.sqrt(v) + 1e-8)


def adagrad(g: np.ndarray, memory: dict[str, Any], _: int) -> np.ndarray:
    v = memory["v"] = memory.get("v", 0) + g**2
    return RATE * g / (np.sqrt(v) + 1e-10)


RULES = {
    "gd": lambda g, memory, t: RATE * g,
    "sgd": momentum,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adam": adam,
    "adamw": adam,
}


@pytest.mark.parametrize("name", RULES)
def test_steps(name: str) -> None:
    """Every step is the one that the rule gives."""
    given = {"momentum": 0.8} if name == "sgd" else {}
    found = walk(LoopOptions(optimizer=name, learning_rate=RATE, **given))
    np.testing.assert_allclose(found, rule(RULES[name]), atol=2e-6)


def test_nesterov() -> None:
    """Nesterov's momentum looks one step ahead."""
    options = LoopOptions(optimizer="sgd", learning_rate=RATE, momentum=0.8, nesterov=True)
    wanted = rule(lambda *given: momentum(*given, nesterov=True))
    np.testing.assert_allclose(walk(options), wanted, atol=2e-6)


def test_decay_is_in_the_gradient_or_beside_it() -> None:
    """adam adds the decay to the gradient; adamw takes a share of the weight."""
    found = walk(LoopOptions(optimizer="adam", learning_rate=RATE, weight_decay=0.1))
    np.testing.assert_allclose(found, rule(adam, 0.1), atol=2e-6)
    found = walk(LoopOptions(optimizer="adamw", learning_rate=RATE, weight_decay=0.1))
    weight, memory = np.full((2, 3), START), {}
    for number, gradient in enumerate(GRADIENTS, 1):
        weight = weight * (1 - RATE * 0.1) - adam(gradient, memory, number)
        np.testing.assert_allclose(found[number - 1], weight, atol=2e-6)


@pytest.mark.parametrize("name", RULES)
def test_decay_spares_vectors(name: str) -> None:
    """Without a gradient a matrix shrinks, and a bias stays."""
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = optimizers.make(LoopOptions(optimizer=name, weight_decay=0.5), layer)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert (layer.weight.abs() < before[0].abs()).all()
    assert torch.equal(layer.bias, before[1])


def test_frozen_parameters_are_left_alone() -> None:
    """What takes no gradient is not the optimizer's."""
    layer = nn.Linear(3, 2)
    layer.weight.requires_grad_(False)
    optimizer = optimizers.make(LoopOptions(weight_decay=0.5), layer)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [layer.bias]
