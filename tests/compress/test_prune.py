"""Pruning of weights: masks as promised, zeros that stay, and what is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.utils.prune as reference
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from helpers_arrays import digits
from helpers_compress import digits_network, material_of, resumed, same, state
from helpers_jobs import RecordedJob
from helpers_tables import digits as digit_rows
from meuse.compress.configs.prune import METHODS, Prune
from meuse.compress.methods.prune import cubic, n_of_m, prune, smallest
from meuse.compress.weights import layers, zeros
from meuse.core.errors import Code, MeuseError
from meuse.evaluate.metrics import classification
from meuse.train import export
from meuse.train.run import NetworkFit, learn
from meuse.train.spec import TrainSpec

ONE_SHOT = {"rounds": 1, "epochs": 0}


def config_of(**given: Any) -> Prune:
    config = METHODS[0].configure(given)
    assert isinstance(config, Prune)
    return config


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Weights with ties and zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 4).round() / 4


@given(st.integers(0, 2**20), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_exactly_so_many_of_the_smallest(seed: int, rows: int, columns: int, rate: float) -> None:
    """The mask has the count asked for, and nothing kept is smaller than anything pruned."""
    tensors = [drawn(seed, rows, columns), drawn(seed + 1, columns, 2, 3)]
    count = round(rate * sum(t.numel() for t in tensors))
    masks = smallest(tensors, count)
    assert [m.shape for m in masks] == [t.shape for t in tensors]
    assert sum(int(m.sum()) for m in masks) == count
    gone = torch.cat([t[m].abs() for t, m in zip(tensors, masks, strict=True)])
    kept = torch.cat([t[~m].abs() for t, m in zip(tensors, masks, strict=True)])
    assert not len(gone) or not len(kept) or gone.max() <= kept.min()


@given(
    st.integers(0, 2**20), st.sampled_from([(1, 2), (2, 4), (4, 8), (1, 4), (3, 5)]),
    st.integers(1, 4), st.integers(1, 4), st.sampled_from([0, 1, -1, -2]),
)  # fmt: skip
def test_n_of_every_m_stay(
    seed: int, pattern: tuple[int, int], groups: int, others: int, axis: int
) -> None:
    """Every group of m neighbours along the axis keeps n, the largest."""
    kept, among = pattern
    shape = [others, others, others]
    shape[axis] = groups * among
    weight = drawn(seed, *shape)
    mask = n_of_m(weight, kept, among, axis)
    assert mask.shape == weight.shape
    pruned = weight.masked_fill(mask, 0).movedim(axis, -1).reshape(-1, among)
    split = mask.movedim(axis, -1).reshape(-1, among)
    assert bool(((~split).sum(dim=1) == kept).all())
    whole = weight.movedim(axis, -1).reshape(-1, among).abs()
    assert torch.equal(pruned.abs().sum(1), whole.topk(kept, dim=1).values.sum(1))


@given(st.integers(1, 50))
def test_the_schedule_is_the_papers(rounds: int) -> None:
    """Zhu and Gupta, equation 1, with s_i 0 and s_f 1: it rises ever slower, up to 1."""
    shares = [cubic(n, rounds) for n in range(1, rounds + 1)]
    assert shares[-1] == 1
    steps = np.diff([0.0, *shares])
    assert (steps > 0).all()
    assert (np.diff(steps) < 0).all()


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("recipe", ["mlp", "lenet"])
def test_the_mask_is_torchs(recipe: str, scope: str, tmp_path: Path) -> None:
    """One-shot pruning zeroes what torch.nn.utils.prune zeroes."""
    network, material = digits_network(tmp_path, recipe, epochs=2)
    other = copy.deepcopy(network)
    found = prune(network, material, config_of(rate=0.83, scope=scope, **ONE_SHOT))
    assert found is network
    parts = [(layer.module, "weight") for layer in layers(other)]
    if scope == "global":
        reference.global_unstructured(parts, reference.L1Unstructured, amount=0.83)
    else:
        for module, name in parts:
            reference.l1_unstructured(module, name, amount=0.83)
    for layer, (module, _) in zip(layers(network), parts, strict=True):
        assert torch.equal(layer.weight, module.weight)


def test_rates_of_layers(tmp_path: Path) -> None:
    """A named layer has its own rate, 0 leaves it alone, the others share theirs."""
    network, material = digits_network(tmp_path, "lenet", epochs=2)
    untouched = layers(network)[0].weight.clone()
    rates = {"body.0": 0, "body.3": 0.4}
    prune(network, material, config_of(rate=0.9, rates=rates, **ONE_SHOT))
    first, second, *rest = layers(network)
    assert torch.equal(first.weight, untouched)
    assert int((second.weight == 0).sum()) == round(0.4 * second.weight.numel())
    size = sum(layer.weight.numel() for layer in rest)
    assert sum(int((layer.weight == 0).sum()) for layer in rest) == round(0.9 * size)


def test_gradual_pruning_beats_one_shot(tmp_path: Path) -> None:
    """At the same 95 %, rounds with training keep the accuracy that one cut loses; every round
    has its zeros and none comes back."""
    network, material = digits_network(tmp_path, "mlp", epochs=10)
    before = material.score(network)
    cut, _ = digits_network(tmp_path, "mlp", epochs=10)
    prune(cut, material, config_of(rate=0.95, **ONE_SHOT))
    seen: list[int] = []
    watching = _Watching(material, seen)
    prune(network, watching, config_of(rate=0.95, rounds=4, epochs=2))
    assert watching.schedules == ["constant", "constant", "constant", "cosine"]
    size = zeros(network)[1]
    assert seen == [round(cubic(n, 4) * round(0.95 * size)) for n in range(1, 5)]
    assert zeros(network)[0] == seen[-1] == zeros(cut)[0]
    assert material.score(network) >= before - 0.06
    assert material.score(network) > material.score(cut) + 0.05


class _Watching:
    """Material that writes down the zeros before each training, and how its rate goes."""

    def __init__(self, material: Any, seen: list[int]) -> None:
        self._material = material
        self._seen = seen
        self.schedules: list[str] = []

    def fine_tune(self, network: nn.Module, *arguments: Any, **named: Any) -> Any:
        self._seen.append(zeros(network)[0])
        self.schedules.append(named["options"].schedule)
        return self._material.fine_tune(network, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._material, name)


def test_zeros_are_in_the_exported_file(tmp_path: Path) -> None:
    """Counted in the initializers of the whole exported model, after training on."""
    splits = digit_rows(tmp_path)
    spec = TrainSpec.from_dict({"model_name": "m", "data": "d", "epochs": 5})
    learned = learn(RecordedJob(tmp_path / "parent"), splits, spec, classification)
    assert isinstance(learned.fitted, NetworkFit)
    network, prepared = learned.fitted.network, learned.prepared
    material = material_of(tmp_path / "child", (prepared.train, prepared.validation))
    prune(network, material, config_of(rate=0.9, rounds=2, epochs=1))
    graph = export.network_graph(network, prepared.train.x[:2])
    path = tmp_path / "model.onnx"
    export.write(export.assemble(prepared.preparation, graph, prepared.answers), path)
    found = [numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer]
    matrices = [a for a in found if a.ndim == 2 and a.dtype == np.float32]
    assert len(matrices) == 3
    counted = sum(int((a == 0).sum()) for a in matrices)
    size = sum(a.size for a in matrices)
    assert counted == zeros(network)[0] == round(0.9 * size)


def test_a_pattern_holds_after_training(tmp_path: Path) -> None:
    """2:4 along the inputs: two of every four are zero in every row, in the exported file too."""
    network, material = digits_network(tmp_path, "mlp", epochs=5)
    before = material.score(network)
    prune(network, material, config_of(pattern="2:4", rounds=2, epochs=1))
    for layer in layers(network):
        groups = layer.weight.reshape(-1, 4)
        assert bool(((groups == 0).sum(dim=1) == 2).all())
    graph = export.network_graph(network, material.train.x[:2]).graph
    matrices = [a for a in map(numpy_helper.to_array, graph.initializer) if a.ndim == 2]
    assert [a.shape for a in matrices] == [tuple(w.weight.shape) for w in layers(network)]
    assert all(((a.reshape(-1, 4) == 0).sum(axis=1) == 2).all() for a in matrices)
    assert material.score(network) >= before - 0.02


def test_a_pattern_runs_over_input_channels(tmp_path: Path) -> None:
    """In a convolution neighbours are channels at the same place of the kernel."""
    network, material = digits_network(tmp_path, "lenet", epochs=2, channels=(8, 16))
    rates = {"body.0": 0}
    with pytest.raises(MeuseError) as caught:
        prune(network, material, config_of(pattern="4:8", rates=rates, **ONE_SHOT))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "pattern")
    assert "body.13 (84)" in caught.value.message
    rates["body.13"] = 0
    prune(network, material, config_of(pattern="4:8", rates=rates, **ONE_SHOT))
    second = layers(network)[1].weight
    assert second.shape == (16, 8, 5, 5)
    assert bool(((second == 0).sum(dim=1) == 4).all())


def test_sensitivity_spends_the_rate_where_it_costs_least(tmp_path: Path) -> None:
    """All together reach the rate; the layer that costs most is pruned least; the result is
    not worse than the same rate everywhere."""
    network, material = digits_network(tmp_path, "lenet", epochs=4)
    even, _ = digits_network(tmp_path, "lenet", epochs=4)
    prune(even, material, config_of(rate=0.85, scope="layer", **ONE_SHOT))
    prune(network, material, config_of(rate=0.85, rates="sensitivity", **ONE_SHOT))
    zero, size = zeros(network)
    assert abs(zero / size - 0.85) < 1e-3
    shares = {la.name: float((la.weight == 0).float().mean()) for la in layers(network)}
    assert max(shares.values()) - min(shares.values()) > 0.1
    assert material.score(network) > material.score(even)
    assert "rates by sensitivity: body.0 " in material.job.text  # type: ignore[attr-defined]


def test_a_pruned_parent_is_pruned_further(tmp_path: Path) -> None:
    """Its zeros stay and count; a rate that it has already is refused."""
    network, material = digits_network(tmp_path, "mlp", epochs=2)
    prune(network, material, config_of(rate=0.5, **ONE_SHOT))
    old = [layer.weight == 0 for layer in layers(network)]
    prune(network, material, config_of(rate=0.8, rounds=2, epochs=1))
    assert all(
        bool((layer.weight[mask] == 0).all())
        for layer, mask in zip(layers(network), old, strict=True)
    )
    zero, size = zeros(network)
    assert zero == round(0.8 * size)
    with pytest.raises(MeuseError) as caught:
        prune(network, material, config_of(rate=0.8, **ONE_SHOT))
    assert caught.value.field == "rate"
    assert "already" in caught.value.message


def test_a_killed_job_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Paused in the second round and started again, the weights are the same to the bit."""
    config = config_of(rate=0.9, rounds=3, epochs=1)
    network, material = digits_network(tmp_path / "whole", "mlp", epochs=2)
    wanted = state(prune(network, material, config))

    def again() -> nn.Module:
        return digits_network(tmp_path, "mlp", epochs=2)[0]

    job, found = resumed(
        material, tmp_path / "broken", "round-2: ", lambda m: prune(again(), m, config)
    )
    assert same(state(found), wanted)
    assert "round-1: going on after epoch 1 of 1" in job.text
    assert "round-2: going on after epoch 0 of 1, batch 1 of " in job.text


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": 1}, "rate"),
        ({"rate": 1.5}, "rate"),
        ({"rate": -0.1}, "rate"),
        ({"rate": math.nan}, "rate"),
        ({"rate": "nan"}, "rate"),
        ({"rate": "half"}, "rate"),
        ({"rates": {"0": 1}}, "rates.0"),
        ({"rates": {"0": math.nan}}, "rates.0"),
        ({"rates": "best"}, "rates"),
        ({"pattern": "2"}, "pattern"),
        ({"pattern": "4:4"}, "pattern"),
        ({"pattern": "0:4"}, "pattern"),
        ({"pattern": "2:4", "rate": 0.7}, "rate"),
        ({"pattern": "2:4", "rates": {"0": 0.5}}, "rates"),
        ({"rounds": 0}, "rounds"),
        ({"epochs": -1}, "epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"amount": 0.5}, "amount"),
    ],
)
def test_bad_options_are_refused(given: dict[str, Any], field: str) -> None:
    """Each by its name and with the fix."""
    with pytest.raises(MeuseError) as caught:
        config_of(**given)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "field", "told"),
    [
        ({"rates": {"body.9": 0.5}}, "rates.body.9", "Layers: 0, 3, 6"),
        ({"rate": 0.9999999}, "rate", "leaves none of the"),
        ({"rates": {"6": 0.9999}}, "rates.6", "leaves none of the 1280 weights of 6"),
        ({"rates": {"0": 0, "3": 0, "6": 0}}, "rates", "no layer is left"),
        ({"pattern": "3:7"}, "pattern", "7 does not divide the inputs of 0 (64)"),
        ({"rate": 0.995, "rates": "sensitivity"}, "rate", "beyond what sensitivity measures"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(
    given: dict[str, Any], field: str, told: str, tmp_path: Path
) -> None:
    """Before anything is changed."""
    network, material = digits_network(tmp_path, "mlp", epochs=2)
    before = state(network)
    with pytest.raises(MeuseError) as caught:
        prune(network, material, config_of(**given, **ONE_SHOT))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert told in str(caught.value)
    assert same(state(network), before)


def test_a_network_with_nothing_to_prune_is_refused(tmp_path: Path) -> None:
    """No linear layer, no convolution."""
    material = material_of(tmp_path, digits())
    with pytest.raises(MeuseError) as caught:
        prune(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), material, config_of())
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "method")
