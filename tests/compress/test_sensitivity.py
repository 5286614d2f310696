"""What each layer can bear alone, and rates that follow from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers_compress import digits_network, same, state
from meuse.compress import sensitivity
from meuse.compress.sensitivity import BITS, RATES, TOLD_RATES, allocate, pruning, rounding, told
from meuse.compress.weights import layers
from meuse.core.errors import Code, MeuseError


def test_one_layer_at_a_time_and_nothing_is_left_changed(tmp_path: Path) -> None:
    """When scored exactly one layer differs, by its rate or its levels; then all is as before."""
    network, _ = digits_network(tmp_path, "mlp", epochs=1)
    before = state(network)
    weights = {layer.name: layer.weight.clone() for layer in layers(network)}
    seen: list[tuple[str, int, int]] = []

    def score(tried: nn.Module) -> float:
        changed = [la for la in layers(tried) if not torch.equal(la.weight, weights[la.name])]
        (layer,) = changed
        levels = max(len(row.unique()) for row in layer.weight)
        seen.append((layer.name, int((layer.weight == 0).sum()), levels))
        return len(seen) / 100

    rows = pruning(network, score, (0.5, 0.9))
    assert same(state(network), before)
    assert [(row["layer"], row["rate"]) for row in rows] == [
        (name, rate) for name in weights for rate in (0.5, 0.9)
    ]
    assert [row["figure"] for row in rows] == [n / 100 for n in range(1, 7)]
    assert [zero for _, zero, _ in seen] == [
        round(rate * weights[name].numel()) for name in weights for rate in (0.5, 0.9)
    ]
    seen.clear()
    rows = rounding(network, score)
    assert same(state(network), before)
    assert [(row["layer"], row["bits"]) for row in rows] == [
        (name, bits) for name in weights for bits in (8, 4)
    ]
    assert all(
        levels <= 2 ** row["bits"] - 1 for row, (_, _, levels) in zip(rows, seen, strict=True)
    )


def test_real_layers_bear_less_the_more_is_asked(tmp_path: Path) -> None:
    """Half of a layer's weights cost little, nearly all cost much; 8 bits cost nothing."""
    network, material = digits_network(tmp_path, "mlp", epochs=5)
    whole = material.score(network)
    for row in pruning(network, material.score, (0.5, 0.99)):
        assert (row["figure"] > whole - 0.03) if row["rate"] == 0.5 else row["figure"] < whole
    assert all(row["figure"] > whole - 0.01 for row in rounding(network, material.score, (8,)))


def test_a_report_tells_of_layers_in_their_order(tmp_path: Path) -> None:
    """Every rate and width that is asked for, with the drop from the whole network; nothing is
    left changed. A figure that is not finite is None."""
    network, material = digits_network(tmp_path, "mlp", epochs=1)
    before, whole = state(network), material.score(network)
    rows = told(network, material.score, prunes=True, rounds=True)
    names = [layer.name for layer in layers(network)]
    changes = [*({"rate": rate} for rate in TOLD_RATES), *({"bits": width} for width in BITS)]
    assert [{k: row[k] for k in row if k not in ("figure", "drop")} for row in rows] == [
        {"layer": name, **change} for name in names for change in changes
    ]
    assert all(row["drop"] == whole - row["figure"] for row in rows)
    assert same(state(network), before)
    assert {*told(network, material.score, prunes=False, rounds=True)[0]} == {
        "layer", "bits", "figure", "drop",
    }  # fmt: skip
    rows = told(network, lambda tried: -np.inf, prunes=False, rounds=True)
    assert {(row["figure"], row["drop"]) for row in rows} == {(None, None)}


def test_a_reports_cost_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without time the largest layer alone is told of, and never more layers than the most."""
    network, material = digits_network(tmp_path, "mlp", epochs=1)
    found = layers(network)
    largest = max(found, key=lambda layer: layer.weight.numel()).name
    rows = told(network, material.score, prunes=True, rounds=False, seconds=0.0)
    assert {row["layer"] for row in rows} == {largest}
    monkeypatch.setattr(sensitivity, "MAX_LAYERS", 2)
    rows = told(network, material.score, prunes=True, rounds=False)
    assert {row["layer"] for row in rows} == {layer.name for layer in found[:2]}


@given(st.data())
def test_rates_add_up_and_cost_alike(data: st.DataObject) -> None:
    """The total is met; a layer that is cheaper everywhere is not pruned less."""
    names = ["a", "b", "c"][: data.draw(st.integers(1, 3))]
    drops = st.lists(st.floats(0, 0.3), min_size=len(RATES), max_size=len(RATES))
    curves = {name: np.cumsum(data.draw(drops)) for name in names}
    rows = [
        {"layer": name, "rate": rate, "figure": 0.9 - float(drop)}
        for name, found in curves.items()
        for rate, drop in zip(RATES, found, strict=True)
    ]
    sizes = {name: data.draw(st.integers(1, 1000)) for name in names}
    total = data.draw(st.floats(0.01, 0.97))
    rates = allocate(rows, 0.9, sizes, total)
    reached = sum(rates[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert reached == pytest.approx(total, abs=1e-6)
    assert all(0 <= rate <= max(RATES) for rate in rates.values())
    for cheap in names:
        for dear in names:
            if (curves[cheap] <= curves[dear]).all():
                assert rates[cheap] >= rates[dear] - 1e-6


def test_more_than_was_measured_is_refused() -> None:
    """Rates are not guessed beyond the last that was tried."""
    rows = [{"layer": "a", "rate": rate, "figure": 0.9} for rate in RATES]
    with pytest.raises(MeuseError) as caught:
        allocate(rows, 0.9, {"a": 100}, 0.99)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "rate")
