"""Keras models train here: by the platform's loop, seeds, checkpoints and export."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from helpers_arrays import digit_images
from helpers_arrays import digits as digit_rows
from helpers_jobs import RecordedJob
from helpers_keras import functional, layer, sequential
from helpers_tables import digits
from meuse.core.errors import MeuseError
from meuse.evaluate.metrics import for_task
from meuse.serve.engines.torch import TorchEngine
from meuse.train import recipes, weights
from meuse.train.export import network_graph
from meuse.train.loop import run, scores_of
from meuse.train.run import TrainResult, fit
from meuse.train.spec import TrainSpec

if find_spec("keras") is None:
    pytest.skip("Keras is not installed", allow_module_level=True)

DENSE = sequential(
    layer("Dense", units=256, activation="relu"),
    layer("Dropout", rate=0.3),
    layer("Dense", units=128, activation="relu"),
    layer("Dropout", rate=0.3),
    layer("Dense", units=10, activation="softmax"),
    shape=(64,),
)
CONV = sequential(
    layer("Reshape", target_shape=[8, 8, 1]),
    layer("Conv2D", filters=16, kernel_size=[3, 3], padding="same", activation="relu"),
    layer("BatchNormalization"),
    layer("MaxPooling2D", pool_size=[2, 2]),
    layer("Flatten"),
    layer("Dropout", rate=0.2),
    layer("Dense", units=10),
    shape=(64,),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def built(model: dict[str, Any], shape: tuple[int, ...], outputs: int, seed: int = 0) -> nn.Module:
    recipe = recipes.find("keras")
    torch.manual_seed(seed)
    network: nn.Module = recipe.builder()(shape, outputs, recipe.configure({"model": model}))
    return network


def train(folder: Path, job: RecordedJob, model: dict[str, Any], **more: Any) -> TrainResult:
    said = {"model_name": "m", "data": "d", "recipe": "keras", "config": {"model": model}}
    splits = digits(folder)
    return fit(job, splits, TrainSpec.from_dict(said | more), for_task(splits.task))


def test_dense_layers_learn_as_mlp_does(tmp_path: Path) -> None:
    """The same layers as Keras' and as the platform's own: the same accuracy on digits, over
    three seeds."""
    train_rows, kept = digit_rows()
    metric = for_task("classification")
    found: dict[str, list[float]] = {"keras": [], "mlp": []}
    for seed, name in itertools.product(range(3), found):
        config = {"model": DENSE} if name == "keras" else {}
        recipe = recipes.find(name)
        torch.manual_seed(seed)
        network = recipe.builder()((64,), 10, recipe.configure(config))
        options = recipe.options({"epochs": 10, "learning_rate": 0.002, "seed": seed})
        job = RecordedJob(tmp_path / f"{name}{seed}")
        run(job, network, train_rows, kept, "classification", options, metric, "d")
        found[name].append(metric(scores_of(network, kept.x), kept.y)["accuracy"])
    assert np.mean(found["keras"]) >= max(0.96, np.mean(found["mlp"]) - 0.01)


@pytest.mark.parametrize("model", [DENSE, CONV], ids=["dense", "conv"])
def test_models_are_trained_exported_and_served(tmp_path: Path, model: dict[str, Any]) -> None:
    """From raw rows: what is exported says the same as torch, and so do the weights alone."""
    job = RecordedJob(tmp_path / "job")
    result = train(tmp_path, job, model, epochs=6, learning_rate=0.003)
    splits = digits(tmp_path)
    assert result.metrics["test_accuracy"] >= 0.93
    assert ("softmax, is left out" in job.text) == (model is DENSE)
    session = onnxruntime.InferenceSession(result.model_path.read_bytes())
    label, probabilities = session.run(None, {"input": splits.test.frame.numbers})
    assert (label == splits.test.y).mean() == pytest.approx(result.metrics["test_accuracy"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    engine = TorchEngine((tmp_path / "job" / "model.safetensors").read_bytes(), 1, weights.build)
    answer = engine.run({"input": splits.test.frame.numbers})
    np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-4)


class PowerError(Exception):
    """The lights go out."""


class Interrupted(RecordedJob):
    def metrics(self, figures: dict[str, float], **labels: object) -> None:
        super().metrics(figures, **labels)
        if labels.get("epoch") == 3:
            raise PowerError


def test_runs_repeat_and_resume_bit_for_bit(tmp_path: Path) -> None:
    """With dropout and batch normalisation, in the same process and after an interruption."""
    how = {"epochs": 4, "checkpoint_seconds": 0, "batch_size": 512}
    with pytest.raises(PowerError):
        train(tmp_path, Interrupted(tmp_path / "a"), CONV, **how)
    runs = []
    for name in ("a", "b"):
        train(tmp_path, job := RecordedJob(tmp_path / name), CONV, **how)
        assert ("going on after epoch 2" in job.text) == (name == "a")
        runs.append(load_file(job.checkpoint))
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(value, runs[1][key]) for key, value in runs[0].items())
    files = [(tmp_path / name / "model.onnx").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    with safe_open(tmp_path / "a" / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()[weights.KEY])["config"]["model"] == CONV


def test_a_seed_gives_the_first_weights() -> None:
    """Whatever `random` was at; another seed gives others."""
    first, again, other = (built(DENSE, (64,), 10, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layer_1/kernel"], other["layer_1/kernel"])


def test_modes_follow_torch() -> None:
    """Dropout and batch statistics in training only; running statistics move in training only."""
    network = built(CONV, (64,), 10)
    x = torch.rand(32, 64)
    mean = network.get_buffer("layer_3/moving_mean")
    network.eval()
    before = mean.clone()
    assert torch.equal(network(x), network(x))
    assert torch.equal(mean, before)
    network.train()
    assert not torch.equal(network(x), network(x))
    assert not torch.equal(mean, before)


def test_weights_are_those_that_torch_holds() -> None:
    """What replaces a parameter, as a checkpoint or an engine does, is what Keras computes with;
    built without memory first, as the torch engine does."""
    network, x = built(CONV, (64,), 10).eval(), torch.rand(3, 64)
    with torch.device("meta"):
        other = built(CONV, (64,), 10).eval()
    assert all(value.is_meta for value in other.state_dict().values())
    other.load_state_dict(network.state_dict(), assign=True)
    assert torch.equal(network(x), other(x))
    with torch.no_grad():
        network.get_parameter("layer_7/bias").add_(1)
    torch.testing.assert_close(network(x), built_like(network, x))


def built_like(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    other = built(CONV, (64,), 10, seed=5).eval()
    other.load_state_dict(network.state_dict())
    found: torch.Tensor = other(x)
    return found


def test_it_is_what_keras_computes() -> None:
    """A model that Keras makes, and its own JSON built here with its weights, agree; every kind
    of layer of the functional one keeps its place."""
    network = built(functional(), (64,), 10).eval()
    import keras

    start = keras.Input((64,))
    a = keras.layers.Dense(16, activation="relu", name="a")(start)
    b = keras.layers.Dense(16, name="b")(start)
    end = keras.layers.Dense(10, activation="softmax", name="out")(keras.layers.Add()([a, b]))
    model = keras.Model(start, end)
    again = built(json.loads(model.to_json()), (64,), 10).eval()
    for variable in model.weights:
        again.state_dict()[variable.path].copy_(variable.value.detach())
    network.load_state_dict(again.state_dict())
    x = torch.rand(5, 64)
    wanted = model(x, training=False)
    torch.testing.assert_close(network(x).softmax(1), wanted)
    torch.testing.assert_close(again(x).softmax(1), wanted)


LSTM = layer("LSTM", units=4, return_sequences=True, dropout=0.1)
TEXT = (layer("Embedding", input_dim=40, output_dim=8),)
CASES: list[tuple[str, tuple[dict[str, Any], ...], int]] = [
    ("image", (
        layer("Rescaling", scale=1 / 255), layer("DepthwiseConv2D", kernel_size=3),
        layer("GroupNormalization", groups=1), layer("ELU"), layer("ZeroPadding2D"),
        layer("Conv2D", filters=4, kernel_size=3, strides=2, padding="same", activation="gelu"),
        layer("UpSampling2D"), layer("AveragePooling2D", pool_size=2), layer("PReLU"),
        layer("Permute", dims=[2, 1, 3]), layer("SpatialDropout2D", rate=0.1),
        layer("GlobalAveragePooling2D"), layer("Dense", units=1, activation="sigmoid"),
    ), 2),
    ("text", (
        *TEXT, layer("Conv1D", filters=8, kernel_size=3), layer("LeakyReLU"),
        layer("SpatialDropout1D", rate=0.1), layer("MaxPooling1D"),
        layer("AveragePooling1D", pool_size=2), layer("ZeroPadding1D"), layer("LayerNormalization"),
        layer("GlobalMaxPooling1D"), layer("RepeatVector", n=2), layer("GlobalAveragePooling1D"),
        layer("ReLU"), layer("Dense", units=3),
    ), 3),
    ("text", (*TEXT, LSTM, layer("GRU", units=4), layer("Dense", units=3)), 3),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "layers", "outputs"), CASES, ids=["image", "text", "recurrent"])
def test_every_layer_learns_and_is_exported(
    kind: str, layers: tuple[dict[str, Any], ...], outputs: int
) -> None:
    """Gradients reach every weight, and ONNX Runtime agrees at any batch size."""
    x = digit_images()[0].x[:17]
    if kind == "text":
        x = np.random.default_rng(0).integers(0, 40, (17, 3 if layers[1] == LSTM else 12))
    network = built(sequential(*layers), x.shape[1:], outputs)
    network(torch.from_numpy(x)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    network.eval()
    graph = network_graph(network, x[:2]).SerializeToString()
    session = onnxruntime.InferenceSession(graph)
    for batch in (1, 3, 17):
        (found,) = session.run(None, {"features": x[:batch]})
        wanted = network(torch.from_numpy(x[:batch])).detach().numpy()
        assert found.shape == (batch, outputs)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_one_unit_tells_two_classes() -> None:
    """Scores whose softmax is the sigmoid of the unit."""
    network = built(sequential(layer("Dense", units=1, activation="sigmoid")), (4,), 2)
    scores = network(torch.rand(5, 4))
    torch.testing.assert_close(scores.softmax(1)[:, 1], scores[:, 1].sigmoid())


WIDE = [layer("Dense", units=65_536), layer("Dense", units=65_536), layer("Dense", units=10)]


@pytest.mark.parametrize(
    ("model", "field", "told"),
    [
        (sequential(layer("Dense", units=10), shape=(63,)), "", r"takes rows of the shape \[63\]"),
        (sequential(layer("Dense", units=9)), ".config.layers[0]", "gives 9 outputs"),
        (sequential(layer("Reshape", target_shape=[8, 8])), ".config.layers[0]", "list of scores"),
        (sequential(layer("Conv2D", filters=1, kernel_size=3)), ".config.layers[0]", "Conv2D"),
        (
            sequential(layer("Reshape", target_shape=[7, 7])),
            ".config.layers[0]",
            "Reshape does not take",
        ),
        (sequential(*WIDE), "", "parameters"),
        (
            sequential(WIDE[0], layer("RepeatVector", n=1024), WIDE[2]),
            ".config.layers[1]",
            "numbers",
        ),
        (
            sequential(layer("Reshape", target_shape=[64, 1]), layer("RepeatVector", n=3)),
            ".config.layers[1]",
            "RepeatVector",
        ),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(model: dict[str, Any], field: str, told: str) -> None:
    """With the layer at fault, and before any memory is taken."""
    with pytest.raises(MeuseError, match=told) as caught:
        built(model, (64,), 10)
    assert caught.value.field == f"config.model{field}"
