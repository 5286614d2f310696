"""What a training job may be asked to do."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from helpers_keras import layer, sequential
from meuse.core.errors import Code, MeuseError
from meuse.train import recipes
from meuse.train.options import RATES
from meuse.train.spec import TrainSpec

BARE = {"model_name": "digits", "data": "digits"}


def test_defaults() -> None:
    """A name and a dataset are enough; everything else has a sensible default."""
    spec = TrainSpec.from_dict(BARE)
    assert spec.recipe == "mlp"
    assert (spec.loop.optimizer, spec.loop.epochs, spec.seed) == ("adam", 30, 0)
    assert (spec.target, spec.task) == (None, None)
    assert spec.loop.learning_rate == spec.loop.rate
    assert set(spec.config) == {"hidden", "dropout"}


@pytest.mark.parametrize("recipe", [n for n in recipes.names() if recipes.find(n).build])
@pytest.mark.parametrize("optimizer", RATES)
def test_every_recipe_has_a_rate_for_every_optimizer(recipe: str, optimizer: str) -> None:
    """The learning rate may be left out with any recipe and optimizer."""
    config = {"model": sequential(layer("Dense", units=2))} if recipe == "keras" else {}
    given = {"recipe": recipe, "optimizer": optimizer, "config": config}
    spec = TrainSpec.from_dict({**BARE, **given})
    assert spec.loop.optimizer == optimizer
    assert spec.loop.rate > 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data": "digits:12", "target": " label ", "task": "Classification"},
        {"recipe": "linear", "optimizer": "SGD", "learning_rate": "10", "epochs": "5"},
        {"optimizer": "GD", "learning_rate": 1, "batch_size": "64", "seed": "7", "target": None},
        {"config": {"hidden": ["8", 4], "dropout": "0"}, "epochs": 3.0},
        {"config": {"hidden": [8192, 8192, 4000]}},
    ],
)
def test_a_spec_round_trips(fields: dict[str, Any]) -> None:
    """to_dict gives JSON that from_dict turns into the same spec."""
    spec = TrainSpec.from_dict({**BARE, **fields})
    assert TrainSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_values_may_come_as_text() -> None:
    """Query parameters are text; they mean the same as JSON."""
    text = {"optimizer": "Adam", "learning_rate": "0.01", "epochs": "10", "batch_size": "8"}
    json_values = {"optimizer": "adam", "learning_rate": 0.01, "epochs": 10, "batch_size": 8}
    assert TrainSpec.from_dict({**BARE, **text}) == TrainSpec.from_dict({**BARE, **json_values})


@pytest.mark.parametrize(
    ("fields", "field", "hint"),
    [
        ({"model_name": None}, "model_name", "match"),
        ({"model_name": "Digits"}, "model_name", "match"),
        ({"model_name": "../x"}, "model_name", "match"),
        ({"data": None}, "data", "digits:2"),
        ({"data": 3}, "data", "digits:2"),
        ({"data": "Digits"}, "data", "match"),
        ({"data": "digits:"}, "data", "digits:2"),
        ({"data": "digits:0"}, "data", "digits:2"),
        ({"data": "digits:latest"}, "data", "digits:2"),
        ({"recipe": "resnet"}, "recipe", "linear, mlp"),
        ({"recipe": ["mlp"]}, "recipe", "linear, mlp"),
        ({"target": ""}, "target", "column"),
        ({"target": 3}, "target", "column"),
        ({"task": "ranking"}, "task", "classification, binary, multiclass, multilabel, regression"),
        ({"optimizer": "lion"}, "optimizer", "gd, rmsprop, sgd"),
        ({"optimizer": 1}, "optimizer", "gd, rmsprop, sgd"),
        ({"learning_rate": 0}, "learning_rate", "above 0"),
        ({"learning_rate": "-1"}, "learning_rate", "above 0"),
        ({"learning_rate": "nan"}, "learning_rate", "above 0"),
        ({"learning_rate": float("inf")}, "learning_rate", "above 0"),
        ({"learning_rate": 10**400}, "learning_rate", "above 0"),
        ({"learning_rate": 1e40}, "learning_rate", "at most 1000"),
        ({"learning_rate": "fast"}, "learning_rate", "above 0"),
        ({"learning_rate": "1_0"}, "learning_rate", "above 0"),
        ({"learning_rate": True}, "learning_rate", "above 0"),
        ({"epochs": 0}, "epochs", "1 to 10000"),
        ({"epochs": 10_001}, "epochs", "1 to 10000"),
        ({"epochs": 1.5}, "epochs", "1 to 10000"),
        ({"epochs": "many"}, "epochs", "1 to 10000"),
        ({"epochs": "٣x"}, "epochs", "1 to 10000"),
        ({"epochs": "+-3"}, "epochs", "1 to 10000"),
        ({"epochs": True}, "epochs", "1 to 10000"),
        ({"epochs": [1]}, "epochs", "1 to 10000"),
        ({"batch_size": 0}, "batch_size", "1 to"),
        ({"seed": -1}, "seed", "0 to"),
        ({"lr": 0.1}, "lr", "learning_rate"),
        ({"config": [1]}, "config", "hidden"),
        ({"config": {"depth": 3}}, "config.depth", "hidden, dropout"),
        ({"config": {"hidden": []}}, "config.hidden", "list of 1 to 16"),
        ({"config": {"hidden": 128}}, "config.hidden", "list of 1 to 16"),
        ({"config": {"hidden": [0]}}, "config.hidden[0]", "1 to 8192"),
        ({"config": {"hidden": [10**6]}}, "config.hidden[0]", "1 to 8192"),
        ({"config": {"hidden": [8] * 17}}, "config.hidden", "1 to 16"),
        ({"config": {"hidden": [8192] * 3}}, "config", "Options"),
        ({"config": {"dropout": 1}}, "config.dropout", "0 to 0.9"),
        ({"config": {"dropout": "x"}}, "config.dropout", "0 to 0.9"),
        ({"recipe": "linear", "config": {"hidden": [8]}}, "config.hidden", "nothing to choose"),
    ],
)
def test_a_bad_field_is_refused_by_name(fields: dict[str, Any], field: str, hint: str) -> None:
    """Every refusal names the field and says what is allowed."""
    with pytest.raises(MeuseError) as caught:
        TrainSpec.from_dict({**BARE, **fields})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert hint in str(caught.value.hint)


def test_specs_need_no_heavy_library() -> None:
    """The control process validates specs of all jobs without torch, numpy or an engine."""
    script = (
        "import sys, meuse.train.spec, meuse.compress.spec;"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'safetensors'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
