"""Which weights methods work on, and that pruned ones stay zero in training."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers_arrays import digit_images, digits
from helpers_jobs import RecordedJob
from meuse.compress.weights import hold, layers, round_all, vectors, zeros
from meuse.evaluate.metrics import classification
from meuse.train import loop, recipes
from meuse.train.options import LoopOptions


def network_of(recipe: str, shape: tuple[int, ...], **config: object) -> nn.Module:
    torch.manual_seed(0)
    found = recipes.find(recipe)
    network: nn.Module = found.builder()(shape, 10, found.configure(config))
    return network


KERAS = {
    "class_name": "Sequential",
    "config": {
        "name": "m",
        "layers": [
            {"class_name": "InputLayer", "config": {"batch_shape": [None, 16, 16, 1]}},
            {"class_name": "Conv2D", "config": {"name": "c", "filters": 4, "kernel_size": [3, 3]}},
            {"class_name": "Flatten", "config": {"name": "f"}},
            {"class_name": "Dense", "config": {"name": "d", "units": 10}},
        ],
    },
}


@pytest.mark.parametrize(
    ("recipe", "shape", "config", "count", "last"),
    [
        ("mlp", (64,), {}, 3, "6"),
        ("lenet", (16, 16, 1), {}, 5, "body.13"),
        ("cnn", (16, 16, 1), {"widths": [8, 16]}, 7, "body.8"),
        ("vit", (16, 16, 1), {"width": 8, "depth": 2, "heads": 2}, 10, "body.head"),
        ("text-classifier", (12,), {"width": 8, "heads": 2}, 9, "head"),
        ("keras", (16, 16, 1), {"model": KERAS}, 2, "d/kernel"),
    ],
)
def test_every_recipe_has_its_layers(
    recipe: str, shape: tuple[int, ...], config: dict[str, object], count: int, last: str
) -> None:
    """All matrices and kernels are found, the classifier is the last, rows are outputs."""
    network = network_of(recipe, shape, **config)
    found = layers(network)
    assert len(found) == count
    assert [layer.name for layer in found if layer.last] == [last]
    assert layers(network)[-1].rows(found[-1].weight).shape[0] == 10
    for layer in found:
        weight = layer.weight
        assert torch.equal(layer.from_rows(layer.rows(weight)), weight)
    counted = sum(layer.weight.numel() for layer in layers(network, embeddings=True))
    alone = sum(p.numel() for n, p in network.named_parameters() if "position" in n or p.ndim < 2)
    assert counted == sum(p.numel() for p in network.parameters()) - alone


@given(seed=st.integers(0, 2**20), share=st.floats(0, 1))
def test_leaving_hold_changes_nothing(seed: int, share: float) -> None:
    """Weights and names are the same afterwards, whatever is zero."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    for layer in layers(network):
        drawn = torch.rand(layer.weight.shape, generator=generator)
        layer.set(torch.where(drawn < share, 0.0, layer.weight))
    before = copy.deepcopy(network.state_dict())
    with hold(network), hold(network):
        x = torch.rand(4, 6, generator=generator)
        held = network(x)
    assert torch.equal(held, network(x))
    assert all(p.requires_grad for p in network.parameters())
    after = network.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("recipe", ["mlp", "lenet", "keras"])
def test_zeros_stay_zero_in_training(recipe: str, tmp_path: object) -> None:
    """After an epoch with momentum and decay the same weights are zero, and others moved."""
    images = recipe != "mlp"
    train, validation = digit_images() if images else digits()
    config = {"model": KERAS} if recipe == "keras" else {}
    network = network_of(recipe, train.x.shape[1:], **config)
    for layer in layers(network):
        layer.set(torch.where(layer.weight.abs() < layer.weight.abs().median(), 0, layer.weight))
    before = [layer.weight.clone() for layer in layers(network)]
    counted = zeros(network)
    options = LoopOptions(epochs=1, optimizer="adam", weight_decay=0.1, learning_rate=0.01)
    with hold(network):
        loop.run(
            RecordedJob(tmp_path), network, train, validation, "classification", options,
            classification, "hold",
        )  # fmt: skip
    assert zeros(network) == counted
    for layer, old in zip(layers(network), before, strict=True):
        assert torch.equal(layer.weight == 0, old == 0)
        assert not torch.equal(layer.weight, old)
        assert layer.module.training is False


def test_rounded_vectors_are_rounded_again() -> None:
    """What was trained is; what only begins with zeros and ones is not."""
    network = network_of("cnn", (16, 16, 1), widths=[4])
    own = vectors(network)
    begins = [bool((v == v[0]).all()) for v in own]
    assert any(begins)
    assert not all(begins)
    round_all(own)
    with hold(network), torch.no_grad():
        for vector in own:
            vector.add_(torch.linspace(0.001, 0.002, len(vector)))
    for vector, began in zip(own, begins, strict=True):
        assert torch.equal(vector.detach(), vector.detach().bfloat16().float()) is not began
