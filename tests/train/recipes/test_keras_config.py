"""Keras models by their JSON: what is allowed is read, everything else refused by its place."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_keras import functional, layer, sequential
from meuse.core.errors import Code, MeuseError
from meuse.train import recipes
from meuse.train.recipes import keras_config
from meuse.train.recipes.keras_layers import LAYERS
from meuse.train.spec import TrainSpec

DENSE = layer("Dense", units=3, activation="softmax")
PLAIN = sequential(layer("Dense", units=4, activation="relu"), layer("Dropout", rate=0.5), DENSE)
AT = "config.model.config.layers[1]"


def refused(model: object) -> MeuseError:
    with pytest.raises(MeuseError) as caught:
        recipes.find("keras").configure({"model": model})
    assert caught.value.code is Code.INVALID_FIELD
    return caught.value


def test_a_sequential_model_is_a_chain() -> None:
    """Layers follow each other; the last activation is taken off and remembered."""
    graph = keras_config.read(PLAIN)
    assert [each.kind for each in graph.layers] == ["Dense", "Dropout", "Dense"]
    assert [each.inputs for each in graph.layers] == [("",), ("layer_0",), ("layer_1",)]
    assert graph.final == "softmax"
    assert graph.layers[-1].arguments["activation"] == "linear"
    assert graph.shape is None


def test_a_functional_model_is_a_graph() -> None:
    graph = keras_config.read(functional())
    assert graph.shape == (64,)
    assert {each.name: each.inputs for each in graph.layers} == {
        "a": ("in",), "b": ("in",), "sum": ("a", "b"), "out": ("sum",),
    }  # fmt: skip


@pytest.mark.parametrize("last", [layer("Softmax"), layer("Activation", activation="softmax")])
def test_an_activation_layer_at_the_end_is_taken_off(last: dict[str, Any]) -> None:
    graph = keras_config.read(sequential(layer("Dense", units=3), last))
    assert (len(graph.layers), graph.final) == (1, "softmax")


def test_text_and_object_are_the_same() -> None:
    """`model.to_json()` gives text; the stored config is the object and is read again."""
    recipe = recipes.find("keras")
    from_text = recipe.configure({"model": json.dumps(PLAIN)})
    assert from_text == recipe.configure({"model": PLAIN})
    spec = TrainSpec.from_dict(
        {"model_name": "m", "data": "d", "recipe": "keras", "config": {"model": PLAIN}}
    )
    assert TrainSpec.from_dict(spec.to_dict()) == spec


WRONG: list[tuple[dict[str, Any], str]] = [
    (layer("Lambda", function="x"), "class_name"),
    (layer("TorchModuleWrapper"), "class_name"),
    (layer("TFSMLayer", filepath="/etc/passwd"), "class_name"),
    ({**DENSE, "module": "os"}, "module"),
    ({**DENSE, "module": "keras.src.layers"}, "module"),
    ({**DENSE, "registered_name": "mine>Dense"}, "registered_name"),
    ({**DENSE, "extra": 1}, "extra"),
    ({**DENSE, "config": [1]}, "config"),
    (layer("Dense"), "config.units"),
    (layer("Dense", units=0), "config.units"),
    (layer("Dense", units=True), "config.units"),
    (layer("Dense", units=10**9), "config.units"),
    (layer("Dense", units=3, wings=2), "config.wings"),
    (layer("Dense", units=3, name="a/b"), "config.name"),
    (layer("Dense", units=3, dtype="float16"), "config.dtype"),
    (layer("Dense", units=3, trainable=False), "config.trainable"),
    (layer("Dense", units=3, lora_rank=4), "config.lora_rank"),
    (layer("Dense", units=3, kernel_regularizer="l2"), "config.kernel_regularizer"),
    (layer("Dense", units=3, kernel_constraint="max_norm"), "config.kernel_constraint"),
    (layer("Dense", units=3, activation="os.system"), "config.activation"),
    (
        layer("Dense", units=3, activation={"class_name": "function", "config": "f"}),
        "config.activation",
    ),
    (layer("Dense", units=3, kernel_initializer="evil"), "config.kernel_initializer"),
    (
        layer("Dense", units=3, kernel_initializer={"class_name": "Lambda", "config": {}}),
        "config.kernel_initializer.class_name",
    ),
    (
        layer("Dense", units=3, kernel_initializer={
            "module": "keras.initializers", "class_name": "HeNormal", "config": {"seed": 7},
        }),
        "config.kernel_initializer.config.seed",
    ),
    (layer("Dropout", rate=1.0), "config.rate"),
    (layer("Dropout", rate=0.5, seed=3), "config.seed"),
    (layer("Conv2D", filters=4, kernel_size=[3, 3, 3]), "config.kernel_size"),
    (layer("Conv2D", filters=4, kernel_size=[3, "3"]), "config.kernel_size[1]"),
    (layer("Conv2D", filters=4, kernel_size=3, data_format="channels_first"), "config.data_format"),
    (layer("Embedding", input_dim=5, output_dim=2, mask_zero=True), "config.mask_zero"),
    (layer("LSTM", units=4, stateful=True), "config.stateful"),
    (layer("GRU", units=4, reset_after=False), "config.reset_after"),
    (layer("Rescaling", scale=[1, 2]), "config.scale"),
    (layer("InputLayer", batch_shape=[None, 3]), "class_name"),
    (layer("Add"), "class_name"),
    (layer("Embedding", input_dim=5, output_dim=2), "class_name"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "field"), WRONG, ids=[f"{i}-{f}" for i, (_, f) in enumerate(WRONG)]
)
def test_what_is_not_on_the_list_is_refused(wrong: dict[str, Any], field: str) -> None:
    """By its very place in the model's JSON, before Keras or torch are there."""
    error = refused(sequential(layer("Dense", units=2), wrong, DENSE))
    assert error.field == f"{AT}.{field}"


def _changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    model = deepcopy(functional())
    change(model)
    return model


SHARED: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda m: m.update(class_name="Model"), "class_name"),
    (lambda m: m.update(registered_name="mine>M"), "registered_name"),
    (lambda m: m.update(module="my.module"), "module"),
    (lambda m: m["config"].update(layers=[]), "config.layers"),
    (lambda m: m["config"].update(layers=m["config"]["layers"] * 99), "config.layers"),
    (
        lambda m: m["config"].update(output_layers=[["a", 0, 0], ["b", 0, 0]]),
        "config.output_layers",
    ),
    (lambda m: m["config"].update(output_layers=["nowhere", 0, 0]), "config"),
    (lambda m: m["config"]["layers"][2]["config"].update(name="a"), "config.layers[2].config.name"),
    (lambda m: m["config"]["layers"][2].update(inbound_nodes=[]), "config.layers[2].inbound_nodes"),
    (
        lambda m: m["config"]["layers"][2]["inbound_nodes"].append(
            m["config"]["layers"][2]["inbound_nodes"][0]
        ),
        "config.layers[2].inbound_nodes",
    ),
    (
        lambda m: m["config"]["layers"][2]["inbound_nodes"][0].update(kwargs={"training": True}),
        "config.layers[2].inbound_nodes[0].kwargs",
    ),
    (
        lambda m: m["config"]["layers"][2]["inbound_nodes"][0]["args"][0]["config"].update(
            keras_history=["out", 0, 0]
        ),
        "config.layers[2].inbound_nodes[0].args",
    ),
    (
        lambda m: m["config"]["layers"][2]["inbound_nodes"][0].update(args=[3.0]),
        "config.layers[2].inbound_nodes[0].args",
    ),
    (
        lambda m: m["config"]["layers"][0]["config"].update(batch_shape=[8, 64]),
        "config.layers[0].config.batch_shape",
    ),
    (
        lambda m: m["config"]["layers"][-1]["config"].update(activation="relu"),
        "config.layers[4].config.activation",
    ),
]


@pytest.mark.parametrize(("change", "field"), SHARED)
def test_a_graph_that_is_none_is_refused(change: Callable[[Any], object], field: str) -> None:
    """Cycles, shared layers, several ends, calls with arguments, models of one's own."""
    assert refused(_changed(change)).field == f"config.model.{field}"


@pytest.mark.parametrize(
    "model",
    [None, 3, "no JSON", "[]", "{}", "[" * 100_000, " " * (2 << 20), {"class_name": float("nan")}],
)
def test_what_is_no_model_is_refused(model: object) -> None:
    assert str(refused(model).field).startswith("config.model")


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, part in parts:
        found.append((*path, key))
        if isinstance(part, dict | list):
            found += _places(part, (*path, key))
    return found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["Lambda", "Dense", "softmax", "keras.layers", "__keras_tensor__"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(st.sampled_from([PLAIN, functional()]), st.data())
def test_any_change_is_read_or_refused(model: dict[str, Any], data: st.DataObject) -> None:
    """Whatever stands anywhere: a graph of the allow-list, or an error that names a place."""
    changed = deepcopy(model)
    *path, last = data.draw(st.sampled_from(_places(model)))
    part: Any = changed
    for key in path:
        part = part[key]
    part[last] = data.draw(JSON)
    try:
        graph = keras_config.read(keras_config.parse(changed))
    except MeuseError as error:
        named = str(error.field)
        assert named.startswith("model")
    else:
        assert {each.kind for each in graph.layers} <= set(LAYERS)


@pytest.mark.parametrize(
    ("last", "task", "outputs", "fits"),
    [
        ({"units": 3, "activation": "softmax"}, "classification", 3, True),
        ({"units": 3}, "classification", 3, True),
        ({"units": 1, "activation": "sigmoid"}, "classification", 2, True),
        ({"units": 2, "activation": "sigmoid"}, "classification", 2, False),
        ({"units": 1, "activation": "softmax"}, "classification", 2, False),
        ({"units": 3, "activation": "sigmoid"}, "multilabel", 3, True),
        ({"units": 3, "activation": "softmax"}, "multilabel", 3, False),
        ({"units": 1}, "regression", 1, True),
        ({"units": 1, "activation": "sigmoid"}, "regression", 1, False),
    ],
)
def test_the_last_activation_fits_the_task(
    last: dict[str, Any], task: str, outputs: int, fits: bool
) -> None:
    """And the log says that it is left out while training."""
    recipe = recipes.find("keras")
    config = recipe.configure({"model": sequential(layer("Dense", **last))})
    if fits:
        told = recipe.remarks(config, "table", task, outputs)
        assert [last["activation"] in note for note in told] == [True] * ("activation" in last)
        return
    with pytest.raises(MeuseError) as caught:
        recipe.remarks(config, "table", task, outputs)
    assert caught.value.field == "config.model.config.layers[0].config.activation"


def test_embeddings_are_for_texts() -> None:
    """A text's ids are embedded, its vocabulary is the embedding's; a table's numbers are not."""
    recipe = recipes.find("keras")
    texts = recipe.configure({"model": sequential(
        layer("Embedding", input_dim=50, output_dim=4), layer("Flatten"), DENSE,
    )})  # fmt: skip
    assert texts.vocabulary == 50  # type: ignore[attr-defined]
    with pytest.raises(MeuseError):
        recipe.remarks(texts, "table", "classification", 3)
    with pytest.raises(MeuseError):
        recipe.remarks(recipe.configure({"model": PLAIN}), "text", "classification", 3)


def test_checking_needs_neither_keras_nor_torch() -> None:
    """Control validates: the check is pure."""
    code = (
        "import json, sys; from meuse.train import recipes; "
        "recipes.find('keras').configure({'model': sys.argv[1]}); "
        "print([m for m in ('keras', 'torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(PLAIN)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
