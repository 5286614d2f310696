"""The compression benchmark: its report from made-up figures, and each pair on a few digits."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import compression
import compression_base as bases
import compression_peer_methods as ways
import compression_peers as peers
import compression_plots
import numpy as np
import pytest
import report
import torch

from helpers_arrays import digit_images
from meuse.compress import catalog, plots
from meuse.compress.gate import Scored
from meuse.compress.spec import steps_from
from meuse.core.nouns import Splits
from meuse.train import recipes
from meuse.train.batches import Arrays


def side(metric: float, size: int, **times: float) -> dict[str, Any]:
    return {"metric": metric, "metric_interval": [metric - 0.01, metric + 0.01], "bytes": size,
            **times}  # fmt: skip


def row(seed: int) -> dict[str, Any]:
    report = {
        "metric_name": "accuracy",
        "before": side(0.93, 9000 + seed, p50_ms=1.0 + seed, p95_ms=2.0, nonzeros=9),
        "after": side(0.92, 1000 + seed, p50_ms=0.5, p95_ms=0.6, p50_ms_batch32=9.0),
    }
    return {"seed": seed, "report": compression_plots.sides(report)}


PAIR = {
    "method": "prune", "peer": "torch", "base": "lenet", "seeds": 1,
    "metric": 0.9, "peer_metric": 0.8,
    "drop_from_peer": -0.1, "interval": [-0.2, 0.01], "bytes": 100, "peer_bytes": 110,
    "p50_ms": 0.1, "peer_p50_ms": 0.09, "latency": {"ratio": 1.1, "low": 1.06, "high": 1.2},
    "worse": ["latency"],
}  # fmt: skip
FIGURES = {
    "load_before": 0.1,
    "lenet-5-mnist": {"means": {"smaller": 40.0}, "seeds": [row(0), row(1)], "paper": 39.0},
    "distill": "skipped: absent",
    "peers": {
        "bases": {"lenet": {"metric": 0.9, "bytes": 900}},
        "pairs": [PAIR],
        "codecs": {"onnx": 9, "pack": 1, "zlib 9": 2},
    },
    "holds": [],
}


def circles(svg: str) -> list[str | None]:
    found = [e for e in ET.fromstring(svg).iter() if e.tag.endswith("circle")]
    return [e.get("class") for e in found]


def test_every_plot_that_the_page_shows_is_a_file_beside_it(tmp_path: Path) -> None:
    """Of parts that were measured, bytes and latency; a skipped part has none."""
    path = report.write(
        "compression-peers", FIGURES, compression.page, tmp_path, compression_plots.drawn
    )
    page = path.with_suffix(".md").read_text()
    shown = re.findall(r"\]\((.*?\.svg)\)", page)
    assert sorted(shown) == sorted(file.name for file in tmp_path.glob("*.svg"))
    day = path.name.removesuffix("-compression-peers.json")
    assert f"{day}-compression-lenet-5-mnist-pareto.svg" in shown
    assert len(shown) == 4
    assert "Deep Compression got 39 times on MNIST." in page
    assert "| 1.10 (1.06 to 1.20) | worse: latency |" in page


def test_a_plot_has_base_and_child_of_every_seed() -> None:
    """Their key says which is which; bars are of means, and of what both sides have."""
    drawn = compression_plots.of_part(FIGURES["lenet-5-mnist"])
    found = circles(drawn["pareto"])
    assert found.count(plots.BEFORE) == found.count(plots.AFTER) == 2
    assert {"key before", "key after"} <= set(found)
    titles = [e.text for e in ET.fromstring(drawn["latency"]).iter() if e.tag.endswith("title")]
    assert titles[1:] == ["before: p50 1.5000 ms", "after: p50 0.5000 ms"]


def test_a_pair_has_both_sides_in_the_plots() -> None:
    drawn = compression_plots.of_part(FIGURES["peers"])
    assert {plots.BEFORE, plots.AFTER, plots.OTHER} <= set(circles(drawn["pareto"]))
    bars = [e for e in ET.fromstring(drawn["latency"]).iter() if e.tag.endswith("rect")]
    ours, theirs = (float(bar.get("width", "")) for bar in bars[2:])
    assert theirs == pytest.approx(0.9 * ours, abs=0.1)


def test_worse_is_what_the_intervals_leave_no_doubt_of() -> None:
    assert peers.worse(0.0, 1.02, 1.05) == []
    assert peers.worse(-0.1, 0.5, 1.06) == ["latency"]
    assert peers.worse(0.001, 1.03, 0.9) == ["metric", "bytes"]
    assert peers.worst(FIGURES["peers"]) == 1


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
    pair = replace(pair, seeds=min(pair.seeds, 2))
    told = peers.measured(pair, base, splits, max_seconds=0.2)
    assert max(told["bytes"], told["peer_bytes"]) < len(base.parent.artifact.data)
    assert np.isfinite([told["metric"], told["peer_metric"], told["latency"]["ratio"]]).all()
    assert min(told["metric"], told["peer_metric"]) > 0.15  # chance has 0.1


@pytest.mark.parametrize(
    ("theirs", "lost"), [([0.90, 0.91, 0.92], True), ([0.90, 0.91, 0.80], False)]
)
def test_trainings_are_judged_over_their_seeds(theirs: list[float], lost: bool) -> None:
    """Not by the rows of one: a loss that not every seed has is no loss yet."""
    none = np.empty(0)
    scores = [
        (Scored("accuracy", their, None, 9, none), Scored("accuracy", our, None, 9, none))
        for their, our in zip(theirs, [0.89, 0.90, 0.91], strict=True)
    ]
    low, high = peers.interval(scores)
    drops = [before.value - after.value for before, after in scores]
    assert low <= np.mean(drops) <= high
    assert bool(peers.worse(low, 1.0, 1.0)) is lost


@pytest.mark.usefixtures("known")
def test_all_steps_are_what_methods_take() -> None:
    """Of pairs and of every part."""
    peers.register()
    for steps in (
        *compression.STEPS.values(),
        *(s for p in peers.PAIRS for s in (p.ours, p.theirs)),
    ):
        assert len(steps_from(steps)) == len(steps)
