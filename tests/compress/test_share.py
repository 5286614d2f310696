"""Weight sharing: few values per layer, kept through training and export."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from helpers_arrays import digits
from helpers_jobs import RecordedJob
from meuse.compress import weights
from meuse.compress.configs.share import Share
from meuse.compress.kmeans import Init, kmeans
from meuse.compress.material import Material
from meuse.compress.methods.share import share
from meuse.compress.shared import Shared, values_of
from meuse.compress.weights import hold, layers
from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Paused
from meuse.evaluate.metrics import classification
from meuse.serve import engines, packed
from meuse.train import export, loop, recipes
from meuse.train.answers import Answers
from meuse.train.batches import Arrays
from meuse.train.options import LoopOptions
from meuse.train.prepare.steps import Numbers, Preparation
from meuse.train.seeds import derive
from meuse.train.typed import convert


def material_of(folder: Path, checkpoint_seconds: float = 30.0) -> Material:
    train, validation = digits()
    return Material(
        job=RecordedJob(folder),
        rows={},
        validation_rows={},
        validation_y=validation.y,
        task="classification",
        metric=classification,
        seed=0,
        digest="d",
        train=train,
        validation=validation,
        outputs=10,
        preparation=Preparation(
            (("x", "number"),), Numbers(("x",), None, None, None, None, (0.0,), (1.0,))
        ),
        answers=Answers("classification", 10),
        loop=LoopOptions(epochs=3, learning_rate=0.003, checkpoint_seconds=checkpoint_seconds),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    torch.manual_seed(0)
    recipe = recipes.find("mlp")
    network: nn.Module = recipe.builder()((64,), 10, recipe.configure({"dropout": 0.0}))
    material = material_of(tmp_path_factory.mktemp("base"))
    material.fine_tune(network, 8, learning_rate=0.003, name="base")
    return network


@pytest.fixture
def material(tmp_path: Path) -> Material:
    return material_of(tmp_path)


@pytest.fixture
def network(trained: nn.Module) -> nn.Module:
    return copy.deepcopy(trained)


def prune(network: nn.Module, rate: float) -> None:
    for layer in layers(network):
        bound = layer.weight.abs().quantile(rate)
        layer.set(torch.where(layer.weight.abs() <= bound, 0.0, layer.weight))


def exported(network: nn.Module, x: np.ndarray) -> dict[str, np.ndarray]:
    """The weights of the exported file, by name, matrices only."""
    graph = export.network_graph(network, x[:2]).graph
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    return {name: value for name, value in found.items() if value.ndim == 2}


def distinct(weight: np.ndarray) -> int:
    return len(np.unique(weight[weight != 0]))


@pytest.mark.parametrize("bits", [2, 3, 5])
@pytest.mark.parametrize("epochs", [0, 2])
def test_every_layer_has_so_many_values_in_the_exported_file(
    network: nn.Module, material: Material, bits: int, epochs: int
) -> None:
    """Counted in the file, after training too; biases are nobody's business."""
    share(network, material, Share(bits=bits, epochs=epochs))
    found = exported(network, material.train.x)
    assert len(found) == 3
    for value in found.values():
        assert 2 ** (bits - 1) < distinct(value) <= 2**bits
        assert (value != 0).all()


def test_bits_of_single_layers_and_small_ones(network: nn.Module, material: Material) -> None:
    """By name; a layer with too few weights is left alone and told of."""
    prune(network, 0.0)
    first, _, last = layers(network)
    last.set(torch.where(torch.rand(last.weight.shape) < 0.99, 0.0, last.weight))
    kept = last.weight.clone()
    share(network, material, Share(bits=4, layers={first.name: 2}, epochs=1))
    counts = [distinct(layer.weight.numpy()) for layer in layers(network)]
    assert counts[:2] == [4, 16]
    assert torch.equal(layers(network)[2].weight != 0, kept != 0)
    assert counts[2] == distinct(kept.numpy())
    assert f"left as they are: {last.name}" in material.job.text  # type: ignore[attr-defined]


def test_pruned_weights_stay_pruned(network: nn.Module, material: Material) -> None:
    """Zeros are the same ones after sharing and training, and no value is zero."""
    prune(network, 0.8)
    before = [layer.weight == 0 for layer in layers(network)]
    share(network, material, Share(bits=3, epochs=2))
    for layer, zero in zip(layers(network), before, strict=True):
        assert torch.equal(layer.weight == 0, zero)
        assert distinct(layer.weight.numpy()) <= 8


def test_training_the_values_wins_back_what_sharing_cost(
    network: nn.Module, material: Material
) -> None:
    """At two bits the values alone, trained, are worth some points of accuracy."""
    rough = share(copy.deepcopy(network), material, Share(bits=2, epochs=0))
    cost = material.score(network) - material.score(rough)
    share(network, material, Share(bits=2, epochs=4, learning_rate=0.003))
    assert cost > 0.004
    assert material.score(network) > material.score(rough) + cost / 3


@pytest.mark.parametrize("init", ["linear", "density", "random"])
def test_values_are_those_of_k_means_from_the_start_that_was_asked_for(
    network: nn.Module, material: Material, init: Init
) -> None:
    """Of each layer by itself; the three starts end at different values."""
    starts: tuple[Init, ...] = ("linear", "density", "random")
    before = {layer.name: layer.weight.numpy().copy() for layer in layers(network)}
    share(network, material, Share(bits=3, epochs=0, init=init))
    made = [np.unique(layer.weight.numpy()).tolist() for layer in layers(network)]
    ends = {
        start: [
            kmeans(weights.ravel(), 8, start, derive(material.seed, f"share:{name}"))
            .astype(np.float32)
            .tolist()
            for name, weights in before.items()
        ]
        for start in starts
    }
    assert [start for start in starts if ends[start] == made] == [init]


def test_a_group_has_one_codebook_through_training(network: nn.Module, material: Material) -> None:
    """Values of all layers together are as many as one codebook has, in the exported file."""
    share(network, material, Share(bits=4, epochs=2, groups="all"))
    found = np.concatenate(
        [value.ravel() for value in exported(network, material.train.x).values()]
    )
    assert len(found) == sum(layer.weight.numel() for layer in layers(network))
    assert 8 < distinct(found) <= 16
    # And again without a record of the groups: they are read off the values.
    material.fine_tune(network, 1, learning_rate=0.01, name="more")
    after = np.concatenate([layer.weight.numpy().ravel() for layer in layers(network)])
    assert 8 < distinct(after) <= 16
    assert set(after.tolist()) != set(found.tolist())


class Tied(nn.Module):
    """An embedding and an output of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.embed(x).mean(dim=1))
        return found


def test_tied_layers_are_one_weight_through_training(material: Material) -> None:
    """An embedding and the output share weight and gradient, and the file stores it once."""
    torch.manual_seed(1)
    network = Tied()
    tokens = torch.randint(0, 10, (200, 6)).numpy()
    data = Arrays(tokens, tokens[:, 0])
    material = replace(material, train=data, validation=data)
    share(network, material, Share(bits=3, epochs=2, tied=(("embed", "head"),)))
    assert torch.equal(network.embed.weight, network.head.weight)
    assert distinct(network.head.weight.detach().numpy()) == 8
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, ["n"])],
            [onnx.helper.make_tensor_value_info("y", 1, ["n"])],
            [
                numpy_helper.from_array(weight.detach().numpy(), name)
                for name, weight in network.state_dict().items()
                if name.endswith("weight")
            ],
        )
    )
    sizes = packed.sizes(model.SerializeToString())
    assert sizes["head.weight"] < 4 < sizes["embed.weight"]


def test_the_gradient_of_a_value_is_the_mean_of_its_weights() -> None:
    """Against autograd on plain weights, with zeros and across two layers of one codebook."""
    torch.manual_seed(0)
    table = torch.tensor([-1.5, 0.25, 0.5, 2.0])
    network = nn.Sequential(nn.Linear(8, 30, bias=False), nn.Linear(30, 5, bias=False))
    for layer in layers(network):
        drawn = table[torch.randint(0, 4, layer.weight.shape)]
        layer.set(torch.where(torch.rand(drawn.shape) < 0.3, 0.0, drawn))
    plain = copy.deepcopy(network)
    x = torch.randn(6, 8)
    plain(x).square().sum().backward()
    with hold(network):
        network(x).square().sum().backward()
        (values,) = [p for p in network.parameters() if p.numel()]
        found = values.grad
    assert found is not None
    grads = torch.cat([layer.module.weight.grad.flatten() for layer in layers(plain)])
    flat = torch.cat([layer.weight.flatten() for layer in layers(plain)])
    wanted = torch.stack([grads[flat == value].mean() for value in table])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), k=st.integers(1, 300), zeros=st.sampled_from((0.0, 0.5, 0.95)))
def test_leaving_hold_changes_nothing(seed: int, k: int, zeros: float) -> None:
    """Whatever is shared, pruned, both or neither: bit for bit the same, plain parameters."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 30))
    table = torch.randn(k, generator=generator)
    for layer in layers(network):
        drawn = table[torch.randint(0, k, layer.weight.shape, generator=generator)]
        layer.set(torch.where(torch.rand(drawn.shape, generator=generator) < zeros, 0.0, drawn))
    before = copy.deepcopy(network.state_dict())
    with hold(network):
        network(torch.ones(1, 40))
        held = [p for _, p in network.named_parameters()]
    after = network.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert len(held) == 4


def test_dense_weights_are_held_by_nothing() -> None:
    """A trained layer has as many values as weights, and no form."""
    torch.manual_seed(0)
    network = nn.Linear(50, 50)
    assert values_of(network.weight.detach()) is None
    with hold(network):
        assert not any(isinstance(m, Shared) for m in network.modules())


def test_a_killed_training_of_values_goes_on(network: nn.Module, tmp_path: Path) -> None:
    """A run that is paused and started again ends at the same bits."""
    material = material_of(tmp_path, checkpoint_seconds=0.0)
    other = copy.deepcopy(network)
    share(network, material, Share(bits=3, epochs=2))
    job = Pausing(material.job.folder / "again", 60)
    again = replace(material, job=job)
    with pytest.raises(Paused):
        share(copy.deepcopy(other), again, Share(bits=3, epochs=2))
    job.left = 10**9
    share(other, again, Share(bits=3, epochs=2))
    assert "going on after epoch" in job.text
    for one, two in zip(layers(network), layers(other), strict=True):
        assert torch.equal(one.weight, two.weight)


class Pausing(RecordedJob):
    """Asks for a pause at the n-th look."""

    def __init__(self, folder: Path, left: int) -> None:
        super().__init__(folder)
        self.left = left

    def paused(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_shared_weights_are_packed_and_served(network: nn.Module, material: Material) -> None:
    """Pruned, shared, packed: the engine computes what the network computes, 20 times smaller."""
    prune(network, 0.9)
    share(network, material, Share(bits=3, epochs=1))
    graph = export.network_graph(network, material.train.x[:2])
    model = bytes(graph.SerializeToString())
    data = packed.pack(model)
    assert len(model) / len(data) > 20
    x = material.validation.x[:9]
    got = engines.load("packed", data).run({"features": x})["scores"]
    np.testing.assert_allclose(got, loop.scores_of(network, x), atol=1e-4)


def test_vectors_in_bfloat16_take_half_of_their_bytes(
    network: nn.Module, material: Material
) -> None:
    """The packed file keeps them without loss, and is smaller by two bytes for each."""
    sizes, vectors = {}, sum(p.numel() for p in network.parameters() if p.ndim == 1)
    for kind in ("float32", "bfloat16"):
        shared = share(copy.deepcopy(network), material, Share(bits=3, epochs=1, vectors=kind))
        for parameter in shared.parameters():
            if parameter.ndim == 1:
                rounded = parameter.detach().bfloat16().float()
                assert torch.equal(parameter.detach(), rounded) is (kind == "bfloat16")
        graph = export.network_graph(shared, material.train.x[:2]).SerializeToString()
        sizes[kind] = len(packed.pack(graph))
        assert onnx.load_from_string(packed.unpack(packed.pack(graph))) == (
            onnx.load_from_string(graph)
        )
    assert sizes["float32"] - sizes["bfloat16"] > 1.5 * vectors


def of(**config: Any) -> Share:
    found = convert(config, Share)
    assert isinstance(found, Share)
    return found


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"bits": 1}, "bits"),
        ({"bits": 9}, "bits"),
        ({"layers": {"0": 12}}, "layers"),
        ({"layers": {"nothing": 4}}, "layers.nothing"),
        ({"init": "kmeans++"}, "init"),
        ({"epochs": -1}, "epochs"),
        ({"groups": [["0"]]}, "groups"),
        ({"groups": [["0", "other"]]}, "groups.0"),
        ({"groups": [["0", "2"], ["2", "4"]]}, "groups.1"),
        ({"groups": [["0", "0"]]}, "groups.0"),
        ({"groups": [["0", "2"]], "layers": {"0": 2}}, "layers"),
        ({"tied": [["0", "2"]]}, "tied.0"),
        ({"tied": [["0", "2"]], "groups": [["2", "4"]]}, "tied.0"),
    ],
)
def test_what_does_not_fit_is_refused(
    network: nn.Module, material: Material, config: dict[str, Any], field: str
) -> None:
    """The error names the field, before any weight has changed."""
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(MeuseError) as caught:
        share(network, material, of(**config))
    assert caught.value.code == Code.INVALID_FIELD
    assert str(caught.value.field).startswith(field)
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)


def test_nothing_to_share_is_refused(material: Material) -> None:
    """A network of a few weights."""
    with pytest.raises(MeuseError) as caught:
        share(nn.Linear(4, 3), material, Share(bits=4))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "bits")


def test_hold_is_what_training_uses() -> None:
    """`weights.hold` is the one that knows codes (guards the seam)."""
    network = nn.Linear(32, 32)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([-1.0, 1.0])[torch.randint(0, 2, (32, 32))])
    with weights.hold(network):
        assert any(isinstance(m, Shared) for m in network.modules())
