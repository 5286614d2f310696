"""How much each layer alone can bear: pruning and rounding, one layer at a time.

Knows weights and a score; knows no data and trains nothing. Afterwards the network is as it
was, to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meuse.compress.rounding import rounded
from meuse.compress.weights import Layer, layers
from meuse.core.errors import invalid

RATES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
BITS = (8, 4)
TOLD_RATES = (0.5, 0.8, 0.95)
"""Those of a report: fewer than what rates are allocated by."""
MAX_LAYERS = 32
"""Most layers that a report tells of; the largest are."""
MAX_SECONDS = 20.0
"""No further layer is begun after these; the largest come first."""

Score = Callable[[nn.Module], float]
"""Of a network, higher is better: the primary figure on validation."""

_SLOPE = 1e-3
"""Of score per unit of rate: what pruning costs at least, so that layers whose score does not
move are pruned alike and not all the way."""


def pruning(
    network: nn.Module, score: Score, rates: Sequence[float] = RATES
) -> list[dict[str, Any]]:
    """Rows {layer, rate, figure}: the score with one layer's weights of least magnitude at
    zero (Han et al., arXiv:1506.02626, figure 6)."""
    return [row for layer in layers(network) for row in _pruned(network, layer, score, rates)]


def rounding(network: nn.Module, score: Score, bits: Sequence[int] = BITS) -> list[dict[str, Any]]:
    """Rows {layer, bits, figure}: the score with one layer's weights rounded to whole numbers
    of so many bits, symmetric, one scale per output."""
    return [row for layer in layers(network) for row in _rounded(network, layer, score, bits)]


def told(
    network: nn.Module,
    score: Score,
    *,
    prunes: bool,
    rounds: bool,
    seconds: float = MAX_SECONDS,
) -> list[dict[str, Any]]:
    """Rows {layer, rate or bits, figure, drop} for a report, in the order of the layers; `drop`
    is from the score of the network as it is. Figures that are not finite are None.

    Bounded: `MAX_LAYERS` and `seconds`; at least one layer is told of.
    """
    whole, ends = score(network), time.monotonic() + seconds
    order = {layer.name: place for place, layer in enumerate(layers(network))}
    largest = sorted(layers(network), key=lambda layer: -layer.weight.numel())[:MAX_LAYERS]
    rows: list[dict[str, Any]] = []
    for layer in largest:
        if rows and time.monotonic() >= ends:
            break
        rows += _pruned(network, layer, score, TOLD_RATES) if prunes else []
        rows += _rounded(network, layer, score, BITS) if rounds else []
    for row in rows:
        finite = bool(np.isfinite([row["figure"], whole]).all())
        row["drop"] = whole - row["figure"] if finite else None
        row["figure"] = row["figure"] if np.isfinite(row["figure"]) else None
    return sorted(rows, key=lambda row: order[row["layer"]])


def _pruned(
    network: nn.Module, layer: Layer, score: Score, rates: Sequence[float]
) -> list[dict[str, Any]]:
    rows = []
    for rate in rates:
        flat = layer.weight.flatten().clone()
        flat[torch.topk(flat.abs(), round(rate * flat.numel()), largest=False).indices] = 0.0
        with _replaced(layer, flat.view(layer.weight.shape)):
            rows.append({"layer": layer.name, "rate": rate, "figure": score(network)})
    return rows


def _rounded(
    network: nn.Module, layer: Layer, score: Score, bits: Sequence[int]
) -> list[dict[str, Any]]:
    rows = []
    for width in bits:
        value = layer.from_rows(rounded(layer.rows(layer.weight), width))
        with _replaced(layer, value):
            rows.append({"layer": layer.name, "bits": width, "figure": score(network)})
    return rows


def allocate(
    rows: Sequence[Mapping[str, Any]], whole: float, sizes: Mapping[str, int], total: float
) -> dict[str, float]:
    """Rates by layer such that `total` of all weights are zero and each layer costs alike.

    `rows` are of `pruning`, `whole` is the score of the unpruned network and `sizes` are
    weights by layer. Each layer's cost is taken as linear between the rates measured and never
    falls; the common cost at which the rates add up to `total` is found by bisection. Raises
    `invalid_field` (`rate`) where the highest rates measured do not reach it.
    """
    curves = {name: _curve(rows, whole, name) for name in sizes}
    weights = sum(sizes.values())

    def rates_at(cost: float) -> dict[str, float]:
        return {n: float(np.interp(cost, costs, rates)) for n, (costs, rates) in curves.items()}

    def reached(cost: float) -> float:
        return sum(rates_at(cost)[name] * size for name, size in sizes.items()) / weights

    low, high = 0.0, max(costs[-1] for costs, _ in curves.values())
    if reached(high) < total:
        raise invalid(
            "rate",
            f"{total:g} is beyond what sensitivity measures ({reached(high):g})",
            "Use a lower rate, or rates by layer.",
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) >= total else (middle, high)
    return rates_at(high)


def _curve(
    rows: Sequence[Mapping[str, Any]], whole: float, name: str
) -> tuple[list[float], list[float]]:
    """Costs, strictly rising from 0, and the rates that have them."""
    own = sorted((row["rate"], row["figure"]) for row in rows if row["layer"] == name)
    costs, rates, worst = [0.0], [0.0], 0.0
    for rate, figure in own:
        worst = max(worst, whole - figure if np.isfinite(figure) else 1.0)
        costs.append(worst + _SLOPE * rate)
        rates.append(rate)
    return costs, rates


@contextmanager
def _replaced(layer: Layer, value: Tensor) -> Iterator[None]:
    before = layer.weight.clone()
    layer.set(value)
    try:
        yield
    finally:
        layer.set(before)
