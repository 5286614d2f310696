"""Recipes: found by name, typed, and each able to learn real rows and to be exported."""

from __future__ import annotations

import logging
import warnings
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from helpers_arrays import diabetes, digit_images, digits
from helpers_jobs import RecordedJob
from meuse.core.errors import Code, MeuseError
from meuse.evaluate.metrics import for_task
from meuse.train import recipes
from meuse.train.batches import Arrays
from meuse.train.loop import run, scores_of
from meuse.train.recipes import Recipe
from meuse.train.recipes.images import Normalise

BUILT = tuple(n for n in recipes.names() if recipes.find(n).build and n != "keras")
"""`keras` has no network of its own: its tests give it some."""


def build(recipe: Recipe, shape: tuple[int, ...], outputs: int, **config: Any) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = recipe.builder()(shape, outputs, recipe.configure(config))
    return network


def sentences(rows: int = 64) -> Arrays:
    """Real text as token ids: lines of two libraries' sources, told apart."""
    from importlib.resources import files

    sources = [files(p).joinpath("__init__.py").read_text().split("\n") for p in ("numpy", "torch")]
    ids: dict[str, int] = {}
    x, y = np.zeros((rows, 12), np.int64), np.zeros(rows, np.int64)
    for row in range(rows):
        y[row] = row % 2
        lines = [line.split() for line in sources[row % 2] if len(line.split()) > 2]
        words = lines[row // 2][:12]
        x[row, : len(words)] = [ids.setdefault(w, len(ids) + 1) for w in words]
    return Arrays(x, y)


def few(kind: str) -> tuple[Arrays, int]:
    """A few real rows of a kind of features, and how many classes they have."""
    if kind == "text":
        return sentences(), 2
    train, _ = digits() if kind == "table" else digit_images()
    return Arrays(train.x[:64], train.y[:64]), 10


# Smaller than the defaults, so that the tests are quick.
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"widths": [8, 16]},
    "vit": {"depth": 2},
    "text-classifier": {"width": 32, "depth": 1, "vocabulary": 1024},
}

CASES = [(name, kind) for name in BUILT for kind in sorted(recipes.find(name).data)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_recipe_learns_a_few_rows_by_heart(tmp_path: Path, name: str, kind: str) -> None:
    """With the recipe's own defaults but for the number of epochs, and no regularisation."""
    recipe = recipes.find(name)
    rows, classes = few(kind)
    config = dict(SMALL.get(name, {}))
    if "dropout" in recipe.config.__struct_fields__:
        config["dropout"] = 0
    network = build(recipe, rows.x.shape[1:], classes, **config)
    options = recipe.options({"epochs": 40, "batch_size": 16})
    run(
        RecordedJob(tmp_path), network, rows, rows, "classification", options,
        for_task("classification"), "d",
    )  # fmt: skip
    found = for_task("classification")(scores_of(network, rows.x), rows.y)
    assert found["accuracy"] >= 0.98


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_recipe_is_exported(tmp_path: Path, name: str, kind: str) -> None:
    """As one ONNX graph that agrees with torch at any batch size."""
    recipe = recipes.find(name)
    rows, classes = few(kind)
    network = build(recipe, rows.x.shape[1:], classes, **SMALL.get(name, {})).eval()
    adapt = getattr(network, "adapt", None)
    if adapt is not None:
        adapt(rows.x)
    session = onnxruntime.InferenceSession(exported(network, rows.x[:2]))
    for batch in (1, 3, 17):
        (found,) = session.run(None, {"features": rows.x[:batch]})
        np.testing.assert_allclose(found, scores_of(network, rows.x[:batch]), atol=1e-4)


def exported(network: nn.Module, example: np.ndarray) -> bytes:
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        program = torch.onnx.export(
            network,
            (torch.from_numpy(example),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            input_names=["features"],
            verbose=False,
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def test_lenet_has_as_many_hidden_layers_as_it_is_told() -> None:
    """One or two; three are refused."""
    recipe = recipes.find("lenet")
    for hidden in ([84], [120, 84]):
        network = build(recipe, (28, 28, 1), 10, hidden=hidden)
        widths = [m.out_features for m in network.modules() if isinstance(m, nn.Linear)]
        assert widths == [*hidden, 10]
    with pytest.raises(MeuseError) as caught:
        recipe.configure({"hidden": [120, 84, 20]})
    assert caught.value.field == "config.hidden"


def test_a_regression_and_labels_have_their_outputs() -> None:
    """Whatever the task, a network gives [n, outputs]."""
    train, _ = diabetes()
    for outputs in (1, 7):
        network = build(recipes.find("mlp"), train.x.shape[1:], outputs)
        assert scores_of(network, train.x[:5]).shape == (5, outputs)


def test_padding_does_not_matter() -> None:
    """A text among longer ones is scored as among shorter; an empty one has a score too."""
    rows = sentences()
    network = build(recipes.find("text-classifier"), (12,), 2).eval()
    other = rows.x.copy()
    pad = other == 0
    with torch.no_grad():
        network.encoder.tokens.weight[0] += 100  # type: ignore[index, operator, union-attr]
    moved = scores_of(network, other)
    with torch.no_grad():
        network.encoder.tokens.weight[0] -= 100  # type: ignore[index, operator, union-attr]
    assert pad.any()
    np.testing.assert_allclose(scores_of(network, rows.x), moved, atol=1e-4)
    assert np.isfinite(scores_of(network, np.zeros((2, 12), np.int64))).all()


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_pixels_are_normalised_by_channel(kind: type) -> None:
    """Mean nothing, deviation one over the images shown; a constant channel is divided by one."""
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3)).astype(kind)
    x[..., 2] = 7
    layer = Normalise(3)
    layer.adapt(x)
    found = layer(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1, 2)), [1, 1, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "config", "field", "told"),
    [
        ("mlp", {"hidden": []}, "config.hidden", ">= 1"),
        ("mlp", {"hidden": [8192] * 4}, "config", "parameters"),
        ("mlp", {"width": 3}, "config.width", "hidden"),
        ("linear", {"hidden": [3]}, "config.hidden", "nothing to choose"),
        ("vit", {"heads": 3}, "config", "not a multiple"),
        ("cnn", {"widths": "32"}, "config.widths", "array"),
        ("text-classifier", {"vocabulary": 1}, "config.vocabulary", ">= 2"),
    ],
)
def test_configs_are_checked(name: str, config: Any, field: str, told: str) -> None:
    """By the field at fault, before anything is built."""
    with pytest.raises(MeuseError) as caught:
        recipes.find(name).configure(config)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["cnn", "lenet", "vit", "text-classifier"])
def test_features_of_another_kind_are_refused(name: str) -> None:
    """Rows of a table are no images; images too small say how small."""
    shape = (28, 28, 1) if name == "text-classifier" else (3, 3, 1)
    with pytest.raises(MeuseError) as caught:
        build(recipes.find(name), shape, 2)
    assert caught.value.field == "recipe"


def test_unknown_recipes_are_refused_with_all_names() -> None:
    with pytest.raises(MeuseError) as caught:
        recipes.find("resnet")
    assert caught.value.field == "recipe"
    assert "cnn" in str(caught.value.hint)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_describes_itself(name: str) -> None:
    """A summary, a schema and options that the loop takes."""
    recipe = recipes.find(name)
    assert recipe.summary
    assert recipe.schema()["$defs"]
    assert recipe.options({}).epochs > 0
    assert bool(recipe.build) != bool(recipe.fit)


def test_what_is_given_goes_over_the_recipes_defaults() -> None:
    """Another optimizer brings its own rate; a rate that is given stays."""
    cnn = recipes.find("cnn")
    assert cnn.options({}).nesterov
    other = cnn.options({"optimizer": "adam"})
    assert (other.rate, other.nesterov) == (cnn.rates["adam"], False)
    assert cnn.options({"optimizer": "rmsprop"}).rate == 0.001
    assert cnn.options({"learning_rate": 0.5}).rate == 0.5
    assert cnn.options({"epochs": None}).epochs == cnn.options({}).epochs


def test_other_packages_add_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point; what is no recipe, or has a name that is taken, is an error."""
    extra = Recipe("extra", "", frozenset(), frozenset(), recipes.find("linear").config, "x:y")
    module = __name__

    def points(value: str) -> None:
        found = EntryPoints([EntryPoint("extra", value, recipes.GROUP)])
        monkeypatch.setattr(recipes, "entry_points", lambda group: found)
        recipes._all.cache_clear()

    monkeypatch.setitem(globals(), "EXTRA", extra)
    try:
        monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.attr])
        points(f"{module}:EXTRA")
        assert recipes.find("extra") is extra
        points(f"{module}:CASES")
        with pytest.raises(MeuseError, match="is no recipe"):
            recipes.names()
    finally:
        monkeypatch.undo()
        recipes._all.cache_clear()
