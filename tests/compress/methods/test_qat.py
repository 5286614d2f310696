"""Training with integers simulated, and the same integers in the exported file."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, numpy_helper

from helpers_graphs import graph, optimized
from helpers_jobs import RecordedJob
from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Qat
from meuse.compress.methods.qat import qat
from meuse.core.errors import Code, MeuseError
from meuse.train import export, fakequant, loop, recipes, surgery
from meuse.train.batches import Arrays


@pytest.mark.parametrize("scales", ["learned", "minmax"])
def test_the_runtime_answers_as_the_simulation(images: Any, tmp_path: Path, scales: str) -> None:
    """Convolutions are integers in the file, its answers are those of the simulated network,
    pruned weights stay zero, and it is as good as its parent within 2 points."""
    network = copy.deepcopy(images.network)
    conv = network.body[0]
    with torch.no_grad():
        conv.weight[:, :, 0, 0] = 0
    material = replace(images.material, job=RecordedJob(tmp_path))
    before = material.score(network)
    made = qat(network, material, Qat(epochs=1, scales=scales))  # type: ignore[arg-type]
    assert material.score(made) >= before - 0.02
    whole = export.assemble(
        material.preparation, export.network_graph(made, material.train.x[:2]), material.answers
    )
    artifact = Artifact("onnx", whole.SerializeToString())
    scores = loop.scores_of(made, material.validation.x)
    wanted = material.answers.last_of(scores)
    label, found = images.answers(artifact)
    # Sums in another order round to the next level here and there.
    assert np.median(np.abs(found - wanted).max(axis=1)) < 5e-3
    assert (label == scores.argmax(axis=1)).mean() > 0.99
    kinds = optimized(artifact, tmp_path)
    assert kinds.count("QLinearConv") == 6
    assert "Conv" not in kinds
    assert kinds.count("QGemm") == 1
    weights = [i for i in graph(artifact).initializer if i.data_type == TensorProto.INT8]
    first = next(numpy_helper.to_array(i) for i in weights if list(i.dims) == [8, 1, 3, 3])
    assert (first[:, :, 0, 0] == 0).all()


def test_what_is_trained_on_is_exported_as_it_was_simulated(images: Any, tmp_path: Path) -> None:
    """A later step trains scales too: they are final when it ends, and the file's."""
    network = copy.deepcopy(images.network)
    material = replace(images.material, job=RecordedJob(tmp_path))
    made = qat(network, material, Qat(epochs=1))
    scales = [layer.weight_scale.clone() for layer in fakequant.layers(made)]
    material.fine_tune(made, 2, learning_rate=0.02, name="more")
    assert all(not layer.grown.any() for layer in fakequant.layers(made))
    assert not all(map(torch.equal, scales, (one.weight_scale for one in fakequant.layers(made))))
    whole = export.assemble(
        material.preparation, export.network_graph(made, material.train.x[:2]), material.answers
    )
    scores = loop.scores_of(made, material.validation.x)
    label, found = images.answers(Artifact("onnx", whole.SerializeToString()))
    wanted = material.answers.last_of(scores)
    assert np.median(np.abs(found - wanted).max(axis=1)) < 5e-3
    assert (label == scores.argmax(axis=1)).mean() > 0.99


def test_training_makes_up_for_rounding(tmp_path: Path) -> None:
    """With scales that are far too coarse, training of weights and scales finds its way back."""
    from helpers_arrays import digits

    train, validation = digits()
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    surgery.apply(
        network,
        [{"kind": "fake_quant", "module": m, "levels": 63, "learned": True} for m in ("0", "2")],
    )
    for layer in fakequant.layers(network):
        layer.fit()
        with torch.no_grad():
            layer.weight_scale.mul_(20)  # three levels are left
            layer.given.scale.fill_(0.01 if layer is network[0] else 0.03)
    options = recipes.find("mlp").options({"epochs": 12, "learning_rate": 0.01})
    from meuse.evaluate.metrics import classification

    found = loop.run(
        RecordedJob(tmp_path), network, train, validation, "classification", options,
        classification, "x",
    )  # fmt: skip
    assert found.figures["accuracy"] > 0.93


def test_edits_bring_the_network_back(images: Any, tmp_path: Path) -> None:
    """The edits, as JSON, and the state rebuild the same network."""
    network = copy.deepcopy(images.network)
    material = replace(images.material, job=RecordedJob(tmp_path))
    made = qat(network, material, Qat(epochs=1))
    edits = json.loads(json.dumps(surgery.edits_of(made)))
    recipe = recipes.find("cnn")
    again = recipe.builder()((16, 16, 1), 10, recipe.configure({"widths": [8, 16]}))
    surgery.apply(again, edits)
    again.load_state_dict(made.state_dict())
    x = material.validation.x[:32]
    np.testing.assert_array_equal(loop.scores_of(again, x), loop.scores_of(made, x))


def test_too_few_rows_and_no_layers_are_refused(images: Any) -> None:
    """Both are told before anything is changed or trained."""
    few = Arrays(images.material.train.x[:1], images.material.train.y[:1])
    with pytest.raises(MeuseError) as caught:
        qat(copy.deepcopy(images.network), replace(images.material, train=few), Qat())
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
    with pytest.raises(MeuseError) as caught:
        qat(torch.nn.Flatten(), images.material, Qat())
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
