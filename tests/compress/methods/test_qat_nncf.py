"""Training with NNCF's simulation of integers, and the IR that it leaves."""

from __future__ import annotations

import copy
import io
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from torch import nn

from helpers_jobs import RecordedJob
from meuse.compress.configs.quantize import Qat
from meuse.compress.material import Material
from meuse.compress.method import Method
from meuse.compress.methods import qat_nncf
from meuse.compress.methods.qat import qat
from meuse.compress.pipeline import Pipeline
from meuse.compress.run import run as compress
from meuse.compress.spec import CompressSpec, steps_from
from meuse.core.errors import Code, MeuseError
from meuse.evaluate.metrics import classification, for_task
from meuse.serve import engines
from meuse.serve.engines.openvino import OpenVinoEngine
from meuse.train import loop, recipes
from meuse.train.batches import Arrays
from meuse.train.prepare.steps import Preparation, Tokens
from meuse.train.typed import convert

NNCF = Qat(backend="nncf", epochs=1)
STEP = {"method": "qat", "backend": "nncf", "epochs": 1}


@pytest.fixture(autouse=True, scope="module")
def _parts() -> None:
    pytest.importorskip("nncf", reason="NNCF is not installed")
    pytest.importorskip("torchao", reason="torchao is not installed, which nncf.strip imports")


def trained(recipe: str, config: dict[str, Any], images: Any, folder: Path) -> nn.Module:
    """A network of a recipe, trained for a moment on the digits of `images`."""
    found, material = recipes.find(recipe), images.material
    torch.manual_seed(0)
    network: nn.Module = found.builder()((16, 16, 1), 10, found.configure(config))
    options = found.options({"epochs": 4})
    loop.run(
        RecordedJob(folder), network, material.train, material.validation, "classification",
        options, classification, recipe,
    )  # fmt: skip
    return network


def read(model: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(model)) as file:
        return ov.Core().read_model(file.read("model.xml"), file.read("model.bin"))


def integers(graph: Any) -> list[tuple[int, ...]]:
    """Shapes of the constants that are int8."""
    found = [op for op in graph.get_ops() if op.get_type_name() == "Constant"]
    return [
        tuple(op.get_output_shape(0))
        for op in found
        if op.get_element_type().get_type_name() == "i8" and len(op.get_output_shape(0)) > 1
    ]


def kernels(graph: Any) -> list[str]:
    """What convolutions and matrix products run by."""
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    kinds = ("Convolution", "FullyConnected")
    return [i["primitiveType"].value for i in told if i["layerType"].value in kinds]


@pytest.mark.parametrize(
    ("recipe", "config", "layers"),
    [("mlp", {}, 3), ("lenet", {}, 5), ("cnn", {"widths": [8, 16]}, 7)],
)
def test_what_was_trained_runs_in_integers(
    images: Any, tmp_path: Path, recipe: str, config: dict[str, Any], layers: int
) -> None:
    """The engine takes raw rows under the parent's names and is as good within 2 points; every
    weight is a byte in the file, and every layer's kernel is one of integers."""
    network = trained(recipe, config, images, tmp_path / "float")
    material: Material = replace(images.material, job=RecordedJob(tmp_path / "int8"))
    before = material.score(network)
    sizes = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    made = qat(network, material, NNCF)
    assert made.format == "openvino"
    engine = OpenVinoEngine(made.data, "openvino")
    assert [spec.name for spec in engine.signature.inputs] == ["image"]
    assert [spec.name for spec in engine.signature.outputs] == ["label", "probabilities"]
    found = engine.run(dict(material.validation_rows))
    assert (found["label"] == material.validation_y).mean() >= before - 0.02
    assert (found["probabilities"].argmax(axis=1) == found["label"]).all()
    graph = read(made.data)
    shapes = integers(graph)
    assert sorted(int(np.prod(shape)) for shape in shapes) == sorted(sizes)
    assert len(made.data) < sum(sizes) + 25_000
    kinds = kernels(graph)
    assert len(kinds) == layers
    assert all(kind.lower().endswith("_i8") for kind in kinds), kinds
