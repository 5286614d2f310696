"""What the loop can be told: text as well as numbers, and precise refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.train.options import LOSSES, EarlyStopping, LoopOptions, Loss, Schedule
from meuse.train.typed import convert, schema


def test_numbers_and_truths_may_come_as_text() -> None:
    """Query parameters are text; they mean the same as JSON."""
    text = {"epochs": "5", "learning_rate": "0.1", "nesterov": "true", "optimizer": "sgd"}
    given = {"epochs": 5, "learning_rate": 0.1, "nesterov": True, "optimizer": "sgd"}
    assert convert(text, LoopOptions) == convert(given, LoopOptions)


def test_parts_may_be_named_or_spelled_out() -> None:
    """A loss or a schedule by its name has its defaults."""
    options = convert(
        {"loss": {"name": "huber", "delta": 2}, "schedule": "cosine", "early_stopping": {}},
        LoopOptions,
    )
    assert options.loss_for("regression") == Loss("huber", delta=2)
    assert options.plan == Schedule("cosine")
    assert options.early_stopping == EarlyStopping(5, 0.0)


@pytest.mark.parametrize(
    ("given", "field", "told"),
    [
        ({"epochs": 0}, "epochs", ">= 1"),
        ({"epochs": 1.5}, "epochs", "int"),
        ({"learning_rate": 0}, "learning_rate", "> 0"),
        ({"learning_rate": float("nan")}, "learning_rate", ""),
        ({"learning_rate": float("inf")}, "learning_rate", ""),
        ({"learning_rate": "fast"}, "learning_rate", ""),
        ({"optimizer": "lion"}, "optimizer", "lion"),
        ({"optimiser": "adam"}, "optimiser", "Did you mean 'optimizer'?"),
        ({"loss": {"name": "focal", "gamma": 0.5}}, "loss.gamma", ">= 1"),
        ({"loss": {"name": "focal", "gama": 2}}, "loss.gama", "'gamma'?"),
        ({"schedule": {"name": "cosine", "final": 2}}, "schedule.final", "<= 1"),
        ({"schedule": {"name": "one_cycle", "warmup_epochs": 1}}, "schedule", "rises by itself"),
        ({"nesterov": True}, "", "nesterov needs"),
        ({"class_weights": [1, -1]}, "class_weights[1]", ">= 0"),
        ({"early_stopping": {"patience": 0}}, "early_stopping.patience", ">= 1"),
        ({"augment": {"shift": 65}}, "augment.shift", "<= 64"),
        ([], "", "not an object"),
    ],
)
def test_refusals_name_the_field(given: Any, field: str, told: str) -> None:
    """Whatever is out of range or unknown is refused where it stands."""
    with pytest.raises(MeuseError) as caught:
        convert(given, LoopOptions)
    assert caught.value.code == Code.INVALID_FIELD
    assert caught.value.field == field
    assert told in str(caught.value)


def test_a_prefix_says_where_the_object_stands() -> None:
    """Errors inside a part of a request have the whole path."""
    with pytest.raises(MeuseError) as caught:
        convert({"delta": 0, "name": "huber"}, Loss, "spec.loss")
    assert caught.value.field == "spec.loss.delta"


@pytest.mark.parametrize("task", LOSSES)
def test_losses_belong_to_tasks(task: str) -> None:
    """Each task has a default, takes its own losses and refuses others by naming its own."""
    assert LoopOptions().loss_for(task).name == LOSSES[task][0]
    for name in LOSSES[task]:
        assert LoopOptions(loss=name).loss_for(task) == Loss(name)
    foreign = "mse" if task != "regression" else "bce"
    with pytest.raises(MeuseError) as caught:
        LoopOptions(loss=foreign).loss_for(task)
    assert caught.value.field == "loss"
    assert LOSSES[task][0] in str(caught.value.hint)


def test_defaults_that_follow_from_the_optimizer() -> None:
    """Momentum and rate, unless they are given."""
    assert LoopOptions(optimizer="sgd").inertia == 0.9
    assert LoopOptions(optimizer="sgd", momentum=0.0).inertia == 0
    assert LoopOptions(optimizer="rmsprop").inertia == 0
    assert LoopOptions(optimizer="adam").rate == 0.001
    assert LoopOptions(optimizer="adam", learning_rate=0.5).rate == 0.5


def test_the_schema_is_json_and_describes() -> None:
    """What the API publishes has every option, ranges and descriptions."""
    found = json.loads(json.dumps(schema(LoopOptions)))
    options = found["$defs"]["LoopOptions"]["properties"]
    assert set(options) == set(LoopOptions.__struct_fields__)
    assert options["epochs"]["minimum"] == 1
    assert "g++" in options["compile"]["description"]


def test_control_needs_no_torch_for_it() -> None:
    """Options, recipes and their configs are checked where torch is not loaded."""
    code = (
        "import sys\nfrom meuse.train import recipes, options, typed\n"
        "recipes.find('cnn').configure({}); recipes.find('cnn').options({})\n"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
