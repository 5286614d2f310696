"""The compression benchmark: each pair of methods on a few digits."""

from __future__ import annotations

import compression
import compression_base as bases
import compression_peer_methods as ways
import compression_peers as peers
import numpy as np
import pytest
import torch

from helpers_arrays import digit_images
from meuse.compress import catalog
from meuse.compress.spec import steps_from
from meuse.core.nouns import Splits
from meuse.train import recipes
from meuse.train.batches import Arrays


def test_worse_is_what_the_intervals_leave_no_doubt_of() -> None:
    assert peers.worse(0.0, 1.02, 1.05) == []
    assert peers.worse(-0.1, 0.5, 1.06) == ["latency"]
    assert peers.worse(0.001, 1.03, 0.9) == ["metric", "bytes"]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries' ways as methods, for one test."""
    monkeypatch.setattr(catalog, "METHODS", dict(catalog.METHODS))


def test_singular_values_give_the_error_of_the_truncated_weights() -> None:
    """Eckart and Young: the squared error of a layer's weights is the sum of the squares of the
    singular values that were left out."""
    torch.manual_seed(0)
    recipe = recipes.find("lenet")
    network = recipe.builder()((16, 16, 1), 10, recipe.configure({}))
    weights = {n: p.detach().clone() for n, p in network.named_parameters() if p.ndim == 2}
    ways.torch_svd(network, None, ways.Options(rank=4))  # type: ignore[arg-type]
    factored = {n: m for n, m in network.named_modules() if isinstance(m, torch.nn.Sequential)}
    checked = 0
    for name, weight in weights.items():
        pair = factored.get(name.removesuffix(".weight"))
        if pair is None:
            continue
        left = torch.linalg.svdvals(weight)[4:].square().sum()
        error = (weight - pair[1].weight @ pair[0].weight).square().sum()
        torch.testing.assert_close(error, left, rtol=1e-3, atol=1e-5)
        checked += 1
    assert checked == 2  # all but the classifier


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Splits, dict[str, bases.Base]]:
    """Digits of 16 x 16 pixels, and both bases."""
    train, rest = digit_images()
    parts = [Arrays(rest.x[half], rest.y[half]) for half in (slice(0, 180), slice(180, None))]
    splits = bases.image_splits(train, *parts)
    folder = tmp_path_factory.mktemp("bases")
    options = {"epochs": 3, "augment": None, "learning_rate": 0.003}
    return splits, {
        recipe: bases.base(splits, recipe, config, options, 0, folder / recipe)
        for recipe, config in peers.BASES.items()
    }


@pytest.mark.slow
@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("pair", peers.PAIRS, ids=lambda pair: f"{pair.name} / {pair.peer}")
def test_both_sides_of_a_pair_make_a_smaller_model(
    pair: peers.Pair, few: tuple[Splits, dict[str, bases.Base]]
) -> None:
    """A library whose call has changed fails here, not after an hour of the benchmark."""
    splits, found = few
    base = found[pair.base]
    told = peers.measured(pair, base, splits, max_seconds=0.2)
    assert max(told["bytes"], told["peer_bytes"]) < len(base.parent.artifact.data)
    assert np.isfinite([told["metric"], told["peer_metric"], told["latency"]["ratio"]]).all()
    assert min(told["metric"], told["peer_metric"]) > 0.15  # chance has 0.1


@pytest.mark.usefixtures("known")
def test_all_steps_are_what_methods_take() -> None:
    """Of pairs and of every part."""
    peers.register()
    for steps in (
        *compression.STEPS.values(),
        *(s for p in peers.PAIRS for s in (p.ours, p.theirs)),
    ):
        assert len(steps_from(steps)) == len(steps)
