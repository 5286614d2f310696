"""Training with NNCF's simulation of integers, and the IR that it leaves."""

from __future__ import annotations

import copy
import io
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers_jobs import RecordedJob
from helpers_keras import layer, sequential
from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Qat
from meuse.compress.material import Material
from meuse.compress.methods import ir, qat_nncf
from meuse.compress.methods.qat import qat
from meuse.compress.pipeline import Pipeline
from meuse.compress.run import run as compress
from meuse.compress.spec import CompressSpec, steps_from
from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Engine
from meuse.evaluate.metrics import classification, for_task
from meuse.serve import engines
from meuse.serve.engines.openvino import OpenVinoEngine
from meuse.train import loop, recipes
from meuse.train.batches import Arrays
from meuse.train.prepare.steps import Preparation, Tokens
from meuse.train.typed import convert

NNCF = Qat(backend="nncf", epochs=1)
STEP = {"method": "qat", "backend": "nncf", "epochs": 1}


pytestmark = pytest.mark.skipif(
    find_spec("nncf") is None or find_spec("torchao") is None,
    reason="NNCF or torchao is not installed, which meuse[nncf] brings",
)


def trained(recipe: str, config: dict[str, Any], images: Any, folder: Path) -> nn.Module:
    """A network of a recipe, trained for a moment on the digits of `images`."""
    found, material = recipes.find(recipe), images.material
    torch.manual_seed(0)
    network: nn.Module = found.builder()((16, 16, 1), 10, found.configure(config))
    options = found.options({"epochs": 3})
    loop.run(
        RecordedJob(folder), network, material.train, material.validation, "classification",
        options, classification, recipe,
    )  # fmt: skip
    return network


def read(model: bytes) -> Any:
    import openvino as ov  # after the engine, which leaves out what tells its makers

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
    import openvino as ov

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
    assert isinstance(made, Artifact)
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


def test_pruned_weights_stay_zero(images: Any, tmp_path: Path) -> None:
    """A filter's corner that was zero before is the code 0 in the file."""
    network = copy.deepcopy(images.network)
    with torch.no_grad():
        network.body[0].weight[:, :, 0, 0] = 0
    made = qat(network, replace(images.material, job=RecordedJob(tmp_path)), NNCF)
    assert isinstance(made, Artifact)
    (first,) = [
        op.data
        for op in read(made.data).get_ops()
        if op.get_type_name() == "Constant" and tuple(op.get_output_shape(0)) == (8, 1, 3, 3)
    ]
    assert first.dtype == np.int8
    assert (first[:, :, 0, 0] == 0).all()
    assert (first != 0).mean() > 0.7


def test_a_job_leaves_a_version_of_ir(classifier: Any, tmp_path: Path) -> None:
    """Table rows, preparation and all: one file, no network; done twice it is read back, no
    step follows, and a report tells of it."""
    parent, splits = classifier.parent, classifier.splits
    job = RecordedJob(tmp_path)
    spec = CompressSpec.from_dict(
        {"model": parent.ref, "steps": [STEP], "goal": {"max_drop": 0.02}, "sensitivity": False}
    )
    done = compress(job, parent, splits, spec, load)
    assert list(done.files.values()) == ["openvino"]
    assert done.recipe is None
    after = done.report["after"]
    assert after["format"] == "openvino"
    assert after["bytes"] < 0.4 * done.report["before"]["bytes"]
    pipeline = Pipeline(job, parent, splits, spec.seed, for_task(splits.task), load)
    again = pipeline.apply(spec.steps, lambda step, outputs: None)
    assert "step-1 was done before" in job.text
    assert again.artifact.data == done.model_path.read_bytes()
    for follower in ({"method": "prune", "rate": 0.5}, {"method": "quantize"}):
        with pytest.raises(MeuseError) as caught:
            steps_from([STEP, follower])
        assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "steps.1.method")


def load(artifact: Artifact) -> Engine:
    return engines.load(artifact.format, artifact.data, 1)


def test_an_engine_that_answers_otherwise_is_refused(images: Any, tmp_path: Path) -> None:
    """The file is compared with the simulation before it leaves the method."""
    material = replace(images.material, job=RecordedJob(tmp_path))
    artifact = ir.pack(ir.model_of(images.artifact.data))
    wanted = images.answers(images.artifact)[1]
    qat_nncf._compare(artifact, material, slice(0, 64), wanted[:64])
    with pytest.raises(MeuseError) as caught:
        qat_nncf._compare(artifact, material, slice(0, 64), wanted[64:128])
    assert caught.value.code == Code.INTERNAL


def test_what_it_cannot_do_is_refused_before_training(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts, whose preparation OpenVINO cannot express; no layers; too few rows; no package.
    Nothing is trained and no row is read."""
    material = replace(images.material, job=RecordedJob(tmp_path))
    words = Preparation((("text", "string"),), tokens=Tokens("text", ("a", "b"), 12, True))
    few = Arrays(material.train.x[:1], material.train.y[:1])
    for given, network, code, field in (
        (replace(material, preparation=words), images.network, Code.INVALID_DATA, "model"),
        (material, nn.Flatten(), Code.INVALID_DATA, "model"),
        (replace(material, train=few), images.network, Code.INVALID_DATA, "data"),
    ):
        with pytest.raises(MeuseError) as caught:
            qat(copy.deepcopy(network), given, NNCF)
        assert (caught.value.code, caught.value.field) == (code, field)
    for package in ("torchao", "nncf"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MeuseError) as caught:
            qat(copy.deepcopy(images.network), material, NNCF)
        assert (caught.value.code, caught.value.field) == (Code.UNAVAILABLE, "backend")
        assert "meuse[nncf]" in str(caught.value.hint)


def test_scales_are_trained() -> None:
    """NNCF has no other way."""
    with pytest.raises(MeuseError) as caught:
        convert({"backend": "nncf", "scales": "minmax"}, Qat, "steps.0")
    assert caught.value.field == "steps.0.scales"


def test_trees_have_nothing_to_train(classifier: Any, tmp_path: Path) -> None:
    """What is known as a finished graph only (trees, uploads) is refused, and told what works."""
    parent = replace(classifier.parent, weights=None)
    splits = classifier.splits
    pipeline = Pipeline(RecordedJob(tmp_path), parent, splits, 0, for_task(splits.task), load)
    with pytest.raises(MeuseError) as caught:
        pipeline.apply(steps_from([STEP]), lambda step, outputs: None)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "steps.0.method")
    assert "quantize" in str(caught.value.hint)


@pytest.mark.skipif(find_spec("keras") is None, reason="keras is not installed")
@pytest.mark.parametrize("backend", ["own", "nncf"])
def test_keras_layers_are_none_of_torchs(images: Any, tmp_path: Path, backend: str) -> None:
    """Keras computes a Dense itself: neither simulation gets between, and it is said."""
    recipe = recipes.find("keras")
    model = sequential(layer("Flatten"), layer("Dense", units=10), shape=(16, 16, 1))
    network = recipe.builder()((16, 16, 1), 10, recipe.configure({"model": model}))
    material = replace(images.material, job=RecordedJob(tmp_path))
    with pytest.raises(MeuseError) as caught:
        qat(network, material, convert({"backend": backend}, Qat))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
    assert "Linear layers and 2-D convolutions can" in str(caught.value.hint)
