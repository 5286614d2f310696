"""Low-rank factors: exact where nothing is cut, best where something is, smaller always."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers_arrays import digit_images, digits
from helpers_jobs import RecordedJob
from meuse.compress.configs.low_rank import LowRank
from meuse.compress.material import Material
from meuse.compress.methods.low_rank import low_rank
from meuse.core.errors import Code, MeuseError
from meuse.evaluate.metrics import classification
from meuse.train import recipes, surgery, weights
from meuse.train.answers import Answers
from meuse.train.batches import Arrays, tensor_of
from meuse.train.options import LoopOptions
from meuse.train.prepare.steps import Image, Numbers, Preparation
from meuse.train.typed import convert

PIXELS = tuple(f"x{i}" for i in range(64))
TABLE = Preparation(
    tuple((name, "number") for name in PIXELS),
    Numbers(PIXELS, None, None, None, None, (0.0,) * 64, (1.0,) * 64),
)
IMAGES = Preparation((("image", "image"),), image=Image("image", 16, 16, 1))


def material_of(folder: Path, parts: tuple[Arrays, Arrays], preparation: Preparation) -> Material:
    train, validation = parts
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
        preparation=preparation,
        answers=Answers("classification", 10),
        loop=LoopOptions(learning_rate=0.003),
    )


def built(recipe: str, shape: tuple[int, ...], config: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    found = recipes.find(recipe)
    network: nn.Module = found.builder()(shape, 10, found.configure(config))
    return network


MLP: dict[str, Any] = {"hidden": [128, 96], "dropout": 0.0}
LENET: dict[str, Any] = {"channels": [8, 24], "hidden": [64, 32]}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Material]:
    material = material_of(tmp_path_factory.mktemp("mlp"), digits(), TABLE)
    network = built("mlp", (64,), MLP)
    material.fine_tune(network, 8, name="base")
    return network, material


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Material]:
    material = material_of(tmp_path_factory.mktemp("lenet"), digit_images(), IMAGES)
    network = built("lenet", (16, 16, 1), LENET)
    material.fine_tune(network, 4, name="base")
    return network, material


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def outputs(network: nn.Module, material: Material) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network.eval()(tensor_of(material.validation.x))
    return found


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("kind", ["channel", "spatial"])
def test_what_has_a_low_rank_is_factored_exactly(
    images: tuple[nn.Module, Material], kind: str, data: bool
) -> None:
    """A convolution that is two of rank 3, stride, padding and dilation too, comes out equal."""
    _, material = images
    torch.manual_seed(1)
    options: dict[str, Any] = {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)}
    wide = nn.Conv2d(6, 12, (3, 5), **options)
    weight = torch.randn(12, 3) @ torch.randn(3, 6 * 3 * 5)
    if kind == "spatial":
        pair = torch.randn(6 * 3, 3) @ torch.randn(3, 12 * 5)
        weight = pair.view(6, 3, 12, 5).permute(2, 0, 1, 3)
    with torch.no_grad():
        wide.weight.copy_(weight.reshape(wide.weight.shape))

    network = nn.Sequential(Pixels(), nn.Conv2d(1, 6, 3), nn.ReLU(), wide, nn.Flatten())
    network.append(nn.LazyLinear(10))
    before = outputs(network, material)
    config = LowRank(energy=1 - 1e-9, layers=("3",), data=data, convolutions=kind, epochs=0)  # type: ignore[arg-type]
    low_rank(network, material, config)
    assert network.edits[0]["rank"] == 3  # type: ignore[index]
    torch.testing.assert_close(outputs(network, material), before, rtol=1e-3, atol=1e-3)


class Pixels(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2).float() / 255


def test_without_data_it_is_the_best_approximation(tables: tuple[nn.Module, Material]) -> None:
    """The error of the weight is the singular values that were left out (Eckart and Young)."""
    network, material = copy.deepcopy(tables[0]), tables[1]
    weight = network.get_submodule("2").weight.detach().double()
    low_rank(network, material, LowRank(rank=20, layers=("2",), data=False, epochs=0))
    pair = network.get_submodule("2")
    error = weight - pair[1].weight.detach().double() @ pair[0].weight.detach().double()  # type: ignore[index]
    values = torch.linalg.svdvals(weight)
    assert float(error.square().sum()) == pytest.approx(float(values[20:].square().sum()), rel=1e-4)


@pytest.mark.parametrize("kind", ["channel", "spatial"])
def test_data_makes_the_outputs_closer(images: tuple[nn.Module, Material], kind: str) -> None:
    """At the same ranks, weighing by the inputs errs less on rows that it has not seen."""
    before = outputs(*images)
    errors = {}
    for data in (True, False):
        network = copy.deepcopy(images[0])
        config = {"rank": 4, "data": data, "convolutions": kind, "epochs": 0}
        low_rank(network, images[1], of(config))
        errors[data] = float((outputs(network, images[1]) - before).square().mean())
    assert errors[True] < 0.8 * errors[False]


def test_energy_leaves_alone_what_would_not_shrink(tables: tuple[nn.Module, Material]) -> None:
    """Ranks follow from the energy; a layer whose factors are larger stays one layer."""
    sizes = []
    for energy in (0.5, 0.9, 0.97):
        network = copy.deepcopy(tables[0])
        low_rank(network, tables[1], LowRank(energy=energy, epochs=0))
        sizes.append(parameters(network))
        for edit in network.edits:  # type: ignore[union-attr]
            pair = network.get_submodule(edit["module"])
            old = tables[0].get_submodule(edit["module"])
            assert parameters(pair) < parameters(old)
    assert sizes[0] < sizes[1] < sizes[2] <= parameters(tables[0])
    assert network.get_submodule("4") is not None
    assert isinstance(network.get_submodule("4"), nn.Linear)  # the classifier


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_budget_is_kept_to(tables: tuple[nn.Module, Material], share: float) -> None:
    """At most so many parameters, and nearly as many; training afterwards keeps the shapes."""
    network, budget = copy.deepcopy(tables[0]), int(share * parameters(tables[0]))
    low_rank(network, tables[1], LowRank(budget=budget, epochs=1))
    assert 0.93 * budget < parameters(network) <= budget
    assert tables[1].score(network) > tables[1].score(tables[0]) - 0.03


def test_factored_networks_are_saved_and_built_again(
    images: tuple[nn.Module, Material], tmp_path: Path
) -> None:
    """The file describes the changed shapes: the same outputs from a fresh process' view."""
    network = copy.deepcopy(images[0])
    low_rank(network, images[1], of({"energy": 0.8, "convolutions": "spatial", "epochs": 0}))
    assert {edit["kind"] for edit in network.edits} == {"factor", "factor_spatial"}  # type: ignore[union-attr]
    answers, classes = Answers("classification", 10), tuple(range(10))
    path = weights.save(network, "lenet", LENET, IMAGES, answers, classes, tmp_path / "w")
    again = weights.load(path.read_bytes()).network
    assert torch.equal(outputs(again, images[1]), outputs(network, images[1]))
    assert surgery.edits_of(again) == surgery.edits_of(network)


def of(config: dict[str, Any]) -> LowRank:
    found = convert(config, LowRank)
    assert isinstance(found, LowRank)
    return found


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"energy": 0}, "energy"),
        ({"energy": 1.5}, "energy"),
        ({"energy": 1.0}, "energy"),
        ({"rank": 0}, "rank"),
        ({"rank": 97}, "rank"),
        ({"rank": 60}, "rank"),
        ({"budget": 10}, "budget"),
        ({"budget": 10**8}, "budget"),
        ({"energy": 0.5, "rank": 3}, "rank"),
        ({"layers": ["nothing"]}, "layers.0"),
    ],
)
def test_what_does_not_fit_is_refused(
    tables: tuple[nn.Module, Material], config: dict[str, Any], field: str
) -> None:
    """The error names the field; the network is as it was."""
    network = copy.deepcopy(tables[0])
    with pytest.raises(MeuseError) as caught:
        low_rank(network, tables[1], of(config))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert parameters(network) == parameters(tables[0])
    assert torch.equal(outputs(network, tables[1]), outputs(*tables))


def test_a_classifier_alone_is_nothing_to_factor(tables: tuple[nn.Module, Material]) -> None:
    """Unless it is named."""
    with pytest.raises(MeuseError) as caught:
        low_rank(built("linear", (64,), {}), tables[1], LowRank())
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "layers")


def test_dead_inputs_do_no_harm(tables: tuple[nn.Module, Material]) -> None:
    """Columns of zeros in the data leave second moments singular."""
    network, material = copy.deepcopy(tables[0]), tables[1]
    dead = material.train.x.copy()
    dead[:, ::2] = 0
    material = replace(material, train=Arrays(dead, material.train.y))
    low_rank(network, material, LowRank(rank=8, layers=("0",), epochs=0))
    assert np.isfinite(outputs(network, material).numpy()).all()


def test_one_row_says_nothing_of_inputs(tables: tuple[nn.Module, Material]) -> None:
    """It would make factors for that row; by weights alone no row is needed."""
    network, material = copy.deepcopy(tables[0]), tables[1]
    one = replace(material, train=Arrays(material.train.x[:1], material.train.y[:1]))
    with pytest.raises(MeuseError) as caught:
        low_rank(network, one, LowRank(rank=8, layers=("0",), epochs=0))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
    assert "data to false" in str(caught.value.hint)
    assert parameters(network) == parameters(tables[0])
    low_rank(network, one, LowRank(rank=8, layers=("0",), epochs=0, data=False))
    assert parameters(network) < parameters(tables[0])
