"""Clipping: limits hold, calibration never errs more than not clipping, bad input."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers_arrays import digits
from helpers_compress import built, digits_network, material_of, same, state
from meuse.compress.configs.clip import METHODS, Clip
from meuse.compress.methods.clip import best_limits, clip, second_moments
from meuse.compress.rounding import rounded
from meuse.compress.weights import layers, zeros
from meuse.core.errors import Code, MeuseError
from meuse.train.batches import Arrays


def config_of(**given: Any) -> Clip:
    config = METHODS[0].configure(given)
    assert isinstance(config, Clip)
    return config


@given(st.integers(0, 2**20), st.integers(2, 8), st.booleans(), st.booleans())
@settings(max_examples=30)
def test_calibrated_limits_are_the_best(
    seed: int, bits: int, channels: bool, by_outputs: bool
) -> None:
    """The error is that of the best of the grid, which has not clipping in it."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(5, 12, generator=generator) ** 3
    x = torch.randn(40, 12, generator=generator)
    second = x.T @ x / len(x) if by_outputs else None

    def error(limit: torch.Tensor | None) -> torch.Tensor:
        off = rounded(rows, bits, limit) - rows
        seen = off if second is None else x @ off.T / math.sqrt(len(x))
        return (seen**2).sum(dim=1 if second is None else 0)

    limit = best_limits(rows, bits, second, channels=channels)
    most = rows.abs().amax(dim=1, keepdim=True) if channels else rows.abs().max().view(1, 1)
    assert limit.shape == most.shape
    assert bool((limit <= most).all())
    tried = torch.stack([error(most * float(s)) for s in np.linspace(1, 0.2, 41)])
    best = tried.amin(dim=0) if channels else tried.sum(dim=1).amin()
    found = error(limit) if channels else error(limit).sum()
    torch.testing.assert_close(found, best, rtol=1e-3, atol=1e-6)


@given(st.integers(0, 2**20), st.integers(2, 8))
def test_rounding_has_its_levels(seed: int, bits: int) -> None:
    """No more than 2^bits - 1 values, off by at most half a step; zero stays zero."""
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed))
    rows[0] = 0
    rows[1, 7] = 0
    found = rounded(rows, bits)
    step = rows.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert bool(((found - rows).abs() <= step / 2 + 1e-6).all())
    assert max(len(row.unique()) for row in found) <= 2**bits - 1
    assert float(found[1, 7]) == 0
    assert not found[0].any()


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(6, 4), (9, 6)),
        (nn.Linear(6, 4), (5, 7, 6)),
        (nn.Conv2d(3, 4, 3, 2, 1), (5, 3, 9, 8)),
        (nn.Conv2d(3, 4, (1, 3), padding=(0, 2), dilation=(1, 2)), (5, 3, 6, 9)),
        (nn.Conv1d(3, 4, 3, 2, 1), (5, 3, 11)),
    ],
)
def test_moments_give_the_error_of_outputs(module: nn.Module, shape: tuple[int, ...]) -> None:
    """The mean square of what other weights change in the outputs."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    network = nn.Sequential(module)
    (layer,) = layers(network)
    moments = second_moments(network, [layer], x.numpy())["0"]
    other = copy.deepcopy(module)
    off = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        other.weight.add_(off)
        changed = other(x) - module(x)
    outputs = changed.movedim(-1 if isinstance(module, nn.Linear) else 1, -1).reshape(-1, 4)
    rows = layer.rows(off)
    torch.testing.assert_close(
        ((rows @ moments) * rows).sum(dim=1), (outputs**2).mean(dim=0), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("error", ["outputs", "weights"])
def test_rounding_to_three_bits_hurts_less_after_calibration(error: str, tmp_path: Path) -> None:
    """The validation scores of the rounded network move less, and it is not less right."""
    network, material = digits_network(tmp_path, "lenet", epochs=4)
    plain = copy.deepcopy(network)
    clipped = clip(copy.deepcopy(network), material, config_of(bits=3, error=error))
    x = torch.from_numpy(material.validation.x)
    with torch.no_grad():
        wanted = network(x)
        off = []
        for candidate in (plain, clipped):
            for layer in layers(candidate):
                layer.set(layer.from_rows(rounded(layer.rows(layer.weight), 3)))
            off.append(float(((candidate(x) - wanted) ** 2).mean()))
    assert off[1] < (0.8 if error == "outputs" else 0.95) * off[0]
    assert material.score(clipped) >= material.score(plain) - 0.01


def test_limits_hold(tmp_path: Path) -> None:
    """By value no magnitude is greater, by norm no output's weights are longer, by percentile
    that share stays as it is; what is within the limit is not touched."""
    network, material = digits_network(tmp_path, "mlp", epochs=2)
    before = [layer.weight.clone() for layer in layers(network)]

    def after(**given: Any) -> list[torch.Tensor]:
        changed = clip(copy.deepcopy(network), material, config_of(**given))
        return [layer.weight for layer in layers(changed)]

    for old, new in zip(before, after(by="value", value=0.1), strict=True):
        assert torch.equal(new, old.clamp(-0.1, 0.1))
    for old, new in zip(before, after(by="norm", norm=0.5), strict=True):
        assert float(new.norm(dim=1).max()) <= 0.5 + 1e-6
        short = old.norm(dim=1) <= 0.5
        assert torch.equal(new[short], old[short])
    whole = after(by="percentile", percentile=95, channels=False, layers=["3"])
    assert torch.equal(whole[0], before[0])
    limit = np.percentile(before[1].abs().numpy(), 95, method="lower")
    assert float(whole[1].abs().max()) == pytest.approx(float(limit))
    for old, new in zip(before, after(by="percentile", percentile=90), strict=True):
        share = (new == old).float().mean(dim=1)
        assert bool((share >= 0.9 - 1.5 / old.shape[1]).all())
        assert bool((share < 1).all())


def test_training_on_keeps_limits_and_zeros(tmp_path: Path) -> None:
    """After epochs the limit holds, the zeros of a pruned parent are zero, and others moved."""
    network, material = digits_network(tmp_path, "mlp", epochs=5)
    before = material.score(network)
    for layer in layers(network):
        layer.set(layer.weight.masked_fill(layer.weight.abs() < 0.02, 0.0))
    counted, old = zeros(network), state(network)
    clip(network, material, config_of(by="value", value=0.15, epochs=2))
    assert zeros(network) == counted
    assert max(float(layer.weight.abs().max()) for layer in layers(network)) <= np.float32(0.15)
    assert not same(state(network), old)
    assert material.score(network) >= before - 0.03


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"by": "value"}, "value"),
        ({"by": "norm"}, "norm"),
        ({"by": "value", "value": 0}, "value"),
        ({"by": "value", "value": math.nan}, "value"),
        ({"value": 0.5}, "value"),
        ({"by": "percentile", "percentile": 100}, "percentile"),
        ({"bits": 1}, "bits"),
        ({"by": "median"}, "by"),
        ({"samples": 1}, "samples"),
    ],
)
def test_bad_options_are_refused(given: dict[str, Any], field: str) -> None:
    """Each by its name and with the fix."""
    with pytest.raises(MeuseError) as caught:
        config_of(**given)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert caught.value.hint


def test_what_does_not_fit_the_network_is_refused(tmp_path: Path) -> None:
    """Unknown layers, limits beyond every weight, one row, nothing to clip."""
    material = material_of(tmp_path, digits())
    network = built("mlp", (64,))
    for options, field in (
        ({"layers": ["9"]}, "layers"),
        ({"by": "value", "value": 100}, "value"),
        ({"by": "norm", "norm": 100}, "norm"),
    ):
        with pytest.raises(MeuseError) as caught:
            clip(network, material, config_of(**options))
        assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    with pytest.raises(MeuseError) as caught:
        clip(nn.Sequential(nn.Flatten()), material, config_of())
    assert caught.value.field == "method"
    one = Arrays(material.train.x[:1], material.train.y[:1])
    with pytest.raises(MeuseError) as caught:
        clip(network, material_of(tmp_path, (one, material.validation)), config_of())
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
