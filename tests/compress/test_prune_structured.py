"""Neurons, filters and heads: the right ones go, what is left fits together, bad input."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch_pruning as tp
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers_arrays import digit_images, digits
from helpers_compress import built, digits_network, material_of, resumed, same, state
from meuse.compress.configs.prune_structured import METHODS, PruneStructured
from meuse.compress.material import Material
from meuse.compress.methods import channels
from meuse.compress.methods.structured import fewest, prune, target
from meuse.compress.weights import layers
from meuse.core.errors import Code, MeuseError
from meuse.train import export, loop, surgery
from meuse.train.batches import Arrays, tensor_of
from meuse.train.machine import products_of

ONE_SHOT = {"rounds": 1, "epochs": 0}
VIT = {"width": 16, "depth": 2, "heads": 4}
CNN = {"widths": (8, 16)}
WORDS = Arrays(np.random.default_rng(0).integers(2, 60, (40, 12)), np.arange(40) % 10)


def config_of(**given: Any) -> PruneStructured:
    config = METHODS[0].configure(given)
    assert isinstance(config, PruneStructured)
    return config


def untrained(recipe: str, folder: Path, **config: Any) -> tuple[nn.Module, Material]:
    """A network that nothing was learned by, in evaluation mode, and material."""
    if recipe == "text-classifier":
        parts = (WORDS, WORDS)
        config = {"vocabulary": 60, "width": 16, "heads": 4, "depth": 2}
    else:
        parts = digits() if recipe == "mlp" else digit_images()
    network = built(recipe, parts[0].x.shape[1:], **config).eval()
    return network, material_of(folder, parts, recipe)


@given(st.data())
def test_the_least_of_all_go(data: st.DataObject) -> None:
    """Exactly so many, no group beyond what it may lose, none spared for a greater one."""
    numbers = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=6)
    scores = [torch.tensor(s) for s in data.draw(st.lists(numbers, min_size=1, max_size=4))]
    allowed = [data.draw(st.integers(0, len(s))) for s in scores]
    count = data.draw(st.integers(0, sum(allowed)))
    found = fewest(scores, allowed, count)
    assert sum(map(len, found)) == count
    assert all(len(set(f)) == len(f) <= a for f, a in zip(found, allowed, strict=True))
    gone = [float(s[i]) for s, f in zip(scores, found, strict=True) for i in f]
    for score, indices, most in zip(scores, found, allowed, strict=True):
        spared = [float(v) for i, v in enumerate(score) if i not in indices]
        if spared and gone and len(indices) < most:
            assert min(spared) >= max(gone)


@given(st.integers(1, 300), st.floats(0.01, 0.99), st.sampled_from([1, 4, 8, 16]))
def test_widths_that_are_left(width: int, rate: float, multiple: int) -> None:
    """Within half a multiple of the rate, a multiple where one fits."""
    left = target(width, rate, multiple)
    assert left <= width
    if multiple == 1:
        assert left == width - round(width * rate)
    elif width >= multiple:
        assert left % multiple == 0 or left == width
        assert left >= 1


@pytest.mark.parametrize(
    ("recipe", "config", "out"),
    [
        ("mlp", {}, {"0": 128, "3": 64}),
        ("lenet", {}, {"body.0": 3, "body.3": 8, "body.7": 60, "body.10": 42}),
        ("cnn", CNN, {"body.0": 4, "body.3.path.0": 4, "body.4.path.3": 8}),
        ("vit", VIT, {"body.embed": 8, "body.encoder.blocks.1.feed.0": 32,
                      "body.encoder.blocks.0.project": 24}),
        ("text-classifier", {}, {"encoder.encoder.blocks.0.feed.0": 32,
                                 "encoder.encoder.blocks.1.project": 24}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_the_smaller_network_is_whole(
    recipe: str, config: dict[str, Any], out: dict[str, int], importance: str, tmp_path: Path
) -> None:
    """At a rate of 0.5 half of the outputs are left; edits rebuild it; the exported graph is
    smaller and computes the same; outputs and features are as before."""
    network, material = untrained(recipe, tmp_path, **config)
    sample = tensor_of(material.train.x[:2])
    before = sum(p.numel() for p in network.parameters()), products_of(network, sample)
    prune(network, material, config_of(rate=0.5, importance=importance, **ONE_SHOT))
    found = {layer.name: layer.weight.shape[0] for layer in layers(network)}
    assert {name: found[name] for name in out} == out
    assert found[layers(network)[-1].name] == 10
    assert sum(p.numel() for p in network.parameters()) < 0.65 * before[0]
    assert products_of(network, sample) < 0.65 * before[1]
    edits = json.loads(json.dumps(surgery.edits_of(network)))
    again = surgery.apply(untrained(recipe, tmp_path, **config)[0], edits)
    again.load_state_dict(network.state_dict())
    scores = loop.scores_of(network, material.validation.x)
    assert np.array_equal(loop.scores_of(again, material.validation.x), scores)
    if importance == "taylor" or recipe in ("mlp", "lenet"):
        return  # an export takes seconds
    graph = export.network_graph(network, material.train.x[:2])
    count = sum(math.prod(i.dims) for i in graph.graph.initializer if len(i.dims) > 1)
    assert count <= sum(p.numel() for p in network.parameters())
    onnx.checker.check_model(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (answer,) = session.run(None, {session.get_inputs()[0].name: material.validation.x[:8]})
    np.testing.assert_allclose(answer, scores[:8], atol=1e-4)


def silence(network: nn.Module, material: Material) -> None:
    """Make the first quarter of the channels of every group, and of heads, do nothing."""
    graph = channels.graph_of(network, tensor_of(material.train.x[:2]))
    with torch.no_grad():
        for group in graph.groups:
            for dep, _ in group.parts:
                module = dep.target.module
                if getattr(module, "weight", None) is None:
                    continue
                if graph.found.is_out_channel_pruning_fn(dep.handler):
                    module.weight[: group.width // 4] = 0
                    if module.bias is not None:
                        module.bias[: group.width // 4] = 0
        for heads in graph.heads:
            size = heads.join.in_features // heads.count
            whole = heads.project.weight.view(3, heads.count, size, -1)
            whole[:, 0] = 0
            heads.join.weight[:, :size] = 0


@pytest.mark.parametrize(
    ("recipe", "config", "rates"),
    [
        ("mlp", {}, {}),
        ("lenet", {"channels": (8, 16)}, {}),
        ("cnn", CNN, {}),
        ("vit", VIT, {"body.embed": 0}),  # layer normalisation feels a silent channel
    ],
)
def test_silent_channels_go_first_and_are_not_missed(
    recipe: str, config: dict[str, Any], rates: dict[str, float], tmp_path: Path
) -> None:
    """A quarter that does nothing is what goes, everywhere, and no score changes."""
    network, material = untrained(recipe, tmp_path, **config)
    if rates:
        with torch.no_grad():
            for block in network.body.encoder.blocks:
                block.feed[0].weight[:16] = 0
                block.feed[0].bias[:16] = 0
                block.project.weight.view(3, 4, 4, -1)[:, 1] = 0
                block.join.weight[:, 4:8] = 0
    else:
        silence(network, material)
    before = loop.scores_of(network, material.validation.x)
    parameters = sum(p.numel() for p in network.parameters())
    prune(network, material, config_of(rate=0.25, rates=rates, **ONE_SHOT))
    assert sum(p.numel() for p in network.parameters()) < 0.9 * parameters
    np.testing.assert_allclose(loop.scores_of(network, material.validation.x), before, atol=1e-5)


@pytest.mark.parametrize("recipe", ["mlp", "lenet", "cnn"])
def test_the_same_channels_as_the_library(recipe: str, tmp_path: Path) -> None:
    """torch-pruning's own pruner at the same rate leaves the same tensors."""
    config = CNN if recipe == "cnn" else {}
    network, material = untrained(recipe, tmp_path, **config)
    other = copy.deepcopy(network)
    prune(network, material, config_of(rate=0.5, **ONE_SHOT))
    sample = tensor_of(material.train.x[:2])
    pruner = tp.pruner.BasePruner(
        other, sample, importance=tp.importance.GroupMagnitudeImportance(), pruning_ratio=0.5,
        ignored_layers=[layers(other)[-1].module],
    )  # fmt: skip
    pruner.step()
    assert same(state(network), state(other))


def test_bn_scale_takes_the_smallest_scales(tmp_path: Path) -> None:
    """Channels whose batch normalisation is scaled least go; layers without any stay."""
    network, material = untrained("cnn", tmp_path, **CNN)
    inner = network.body[3].path[1]
    scales = torch.tensor([5.0, 1.0, 7.0, 2.0, 8.0, 3.0, 6.0, 4.0])
    with torch.no_grad():
        inner.weight.copy_(scales)
    prune(network, material, config_of(rate=0.5, importance="bn_scale", **ONE_SHOT))
    assert inner.weight.tolist() == [5.0, 7.0, 8.0, 6.0]


def test_global_pruning_takes_the_whole_rate_from_all_together(tmp_path: Path) -> None:
    """The count is exact, layers differ, none loses more than it may."""
    network, material = digits_network(tmp_path, "lenet", epochs=4)
    widths = {"body.0": 6, "body.3": 16, "body.7": 120, "body.10": 84}
    prune(network, material, config_of(rate=0.6, scope="global", most=0.75, **ONE_SHOT))
    left = {la.name: la.weight.shape[0] for la in layers(network) if la.name in widths}
    assert sum(left.values()) == sum(widths.values()) - round(0.6 * sum(widths.values()))
    assert all(left[name] >= width - math.floor(0.75 * width) for name, width in widths.items())
    assert len({round(left[name] / width, 1) for name, width in widths.items()}) > 1


def test_rounds_with_training_keep_accuracy(tmp_path: Path) -> None:
    """Half of all channels in two rounds: nearly as good, and better than without training;
    zeros of a pruned parent stay, batch normalisation and multiples fit."""
    network, material = digits_network(tmp_path, "mlp", epochs=10)
    before = material.score(network)
    cut = copy.deepcopy(network)
    prune(cut, material, config_of(rate=0.7, **ONE_SHOT))
    prune(network, material, config_of(rate=0.7, multiple=8, rounds=2, epochs=2))
    assert [layer.weight.shape[0] for layer in layers(network)] == [80, 40, 10]
    assert material.score(network) >= before - 0.04
    assert material.score(network) > material.score(cut)
    text = material.job.text  # type: ignore[attr-defined]
    assert "round 2 of 2: 50,826 → " in text


def test_a_killed_job_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Paused in the second round, whose shapes the parent does not have."""
    config = config_of(rate=0.5, rounds=2, epochs=1, importance="taylor")
    network, material = digits_network(tmp_path, "mlp", epochs=2)
    wanted = state(prune(copy.deepcopy(network), material, config))

    def again(broken: Material) -> nn.Module:
        return prune(copy.deepcopy(network), broken, config)

    job, found = resumed(material, tmp_path / "broken", "round-2: ", again)
    assert same(state(found), wanted)
    assert "round-2: going on after epoch 0 of 1, batch 1 of " in job.text


@pytest.mark.parametrize("widths", [(6, 12), (4, 8)])
def test_narrow_residual_networks_train(widths: tuple[int, int], tmp_path: Path) -> None:
    """Strided 1x1 convolutions of few channels corrupted memory in their backward pass."""
    digits_network(tmp_path, "cnn", epochs=1, widths=widths)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": 1}, "rate"),
        ({"rate": 1.5}, "rate"),
        ({"rate": math.nan}, "rate"),
        ({"rates": {"0": 1.0}}, "rates.0"),
        ({"importance": "size"}, "importance"),
        ({"most": 1}, "most"),
        ({"multiple": 0}, "multiple"),
    ],
)
def test_bad_options_are_refused(given: dict[str, Any], field: str) -> None:
    """Each by its name and with the fix."""
    with pytest.raises(MeuseError) as caught:
        config_of(**given)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("recipe", "given", "field", "told"),
    [
        ("lenet", {"rate": 0.95}, "rate", "leaves no channel of body.0 (6)"),
        ("lenet", {"rates": {"body.0": 0.95}}, "rates.body.0", "leaves no channel"),
        ("lenet", {"rate": 0.95, "scope": "global"}, "rate", "more than the layers may lose"),
        ("lenet", {"rates": {"body.13": 0.5}}, "rates.body.13", "there is no layer 'body.13'"),
        ("lenet", {"importance": "bn_scale"}, "importance", "needs batch normalisation"),
        ("lenet", {"rate": 0.001}, "rate", "no whole channel"),
        ("cnn", {"rates": {"body.0": 0.5, "body.3.path.3": 0.2}}, "rates.body.3.path.3", "alike"),
        ("linear", {}, "method", "no neurons, filters or heads"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(
    recipe: str, given: dict[str, Any], field: str, told: str, tmp_path: Path
) -> None:
    """Before anything is changed or trained."""
    network, material = untrained(recipe, tmp_path, **(CNN if recipe == "cnn" else {}))
    before = state(network)
    with pytest.raises(MeuseError) as caught:
        prune(network, material, config_of(**given))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert told in str(caught.value)
    assert same(state(network), before)
    assert surgery.edits_of(network) == []


def test_channels_with_trained_scales_are_not_cut(tmp_path: Path) -> None:
    """Scales of integers are per channel: they would be those of others."""
    network, material = untrained("lenet", tmp_path)
    surgery.apply(
        network, [{"kind": "fake_quant", "module": "body.0", "levels": 63, "learned": True}]
    )
    with pytest.raises(MeuseError, match="quantized layers") as caught:
        prune(network, material, config_of(rate=0.5))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "method")


def test_one_row_has_no_gradient_to_go_by(tmp_path: Path) -> None:
    """Importance by gradients is refused on it, before anything is cut."""
    network, material = untrained("lenet", tmp_path)
    before = state(network)
    one = replace(material, train=Arrays(material.train.x[:1], material.train.y[:1]))
    with pytest.raises(MeuseError) as caught:
        prune(network, one, config_of(rate=0.5, importance="taylor"))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
    assert same(state(network), before)
