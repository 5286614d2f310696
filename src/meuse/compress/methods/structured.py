"""Pruning of whole neurons, filters and attention heads: layers become narrower.

Knows what is taken out and when; `channels` knows which layers hang together and how they are
cut. The result carries its new sizes as edits (`train.surgery`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from meuse.compress.configs.prune_structured import PruneStructured
from meuse.compress.material import Material, check_rows
from meuse.compress.methods import channels
from meuse.compress.methods.channels import Group
from meuse.core.errors import MeuseError, invalid
from meuse.train import fakequant, losses, surgery
from meuse.train.batches import tensor_of
from meuse.train.machine import products_of
from meuse.train.seeds import derive

_TAYLOR_ROWS = 1024
_TAYLOR_BATCH = 128


@dataclass(frozen=True, slots=True)
class _Start:
    """What there was before the first round, and the rates: by the name of group or heads."""

    widths: Mapping[str, int]
    rates: Mapping[str, float]


def prune(network: nn.Module, material: Material, config: PruneStructured) -> nn.Module:
    """Take the least important neurons, filters and attention heads out of `network`, in place.

    Which layers hang together follows from the dependency graph (DepGraph, Fang et al.,
    arXiv:2301.12900): what is added up or normalised is cut alike, and inputs follow outputs.
    The classifier's outputs and the features stay. Importance of a channel is the mean over its
    group of squared weights; of |weight · gradient| on 1,024 training rows (Molchanov et al.,
    arXiv:1906.10771); or of scales of batch normalisation (Liu et al., arXiv:1708.06519).
    Heads go as a whole (Michel et al., arXiv:1905.10650), so their width stays. The rate is
    reached in equal steps.

    Raises `invalid_field`: `rate` where a layer would have no channel left or none would go,
    `rates.NAME` for what is not cut, `importance` for bn_scale without batch normalisation,
    `method` where nothing can be cut, or scales of integers were trained;
    `invalid_data` (`data`) for taylor on fewer than 16 training rows.
    """
    if fakequant.layers(network):
        raise invalid(
            "method",
            "this network has quantized layers, whose scales are those of the channels that it has",
            "Take channels out first, and train for integers (qat) afterwards.",
        )
    if config.importance == "taylor":
        check_rows(material.train, ", or use magnitude")
    sample = tensor_of(material.train.x[:2])
    sizes, cost = surgery.sizes(network), _cost(network, sample)
    graph = channels.graph_of(network, sample)
    if not graph.groups and not graph.heads:
        raise invalid(
            "method",
            "this network has no neurons, filters or heads that could be taken out",
            "It works on networks with hidden linear layers or convolutions; Keras networks "
            "and linear models have none that it can cut. Use prune or quantize.",
        )
    start = _start(graph, config)
    _check(graph, start, config)
    for number in range(1, config.rounds + 1):
        share = number / config.rounds
        # Shapes have changed since the last round, and with them the graph.
        graph = channels.graph_of(network, sample)
        gone = _gone(network, graph, material, config, start, share)
        channels.cut(network, graph, gone)
        if config.epochs:
            material.fine_tune(
                network,
                config.epochs,
                learning_rate=config.learning_rate,
                name=f"round-{number}",
                done=(number - 1) / config.rounds,
                share=1 / config.rounds,
            )
        if config.epochs or number == config.rounds:
            now = _cost(network, sample)
            material.job.log(
                f"round {number} of {config.rounds}: {cost[0]:,} → {now[0]:,} parameters, "
                f"{cost[1]:,} → {now[1]:,} multiplications a row, {material.score(network):.4f} "
                "on validation"
            )
    surgery.edits_of(network).extend(surgery.changes(sizes, network))
    return network


def fewest(scores: Sequence[Tensor], allowed: Sequence[int], count: int) -> list[list[int]]:
    """The `count` channels of least score over all groups, at most `allowed` of each: indices
    by group, ascending. `count` is at most the sum of `allowed`."""
    flat: list[tuple[float, int, int]] = []
    for group, (score, most) in enumerate(zip(scores, allowed, strict=True)):
        order = torch.sort(score, stable=True)
        pairs = zip(order.values[:most].tolist(), order.indices[:most].tolist(), strict=True)
        flat += [(value, group, index) for value, index in pairs]
    chosen: list[list[int]] = [[] for _ in scores]
    for _, group, index in sorted(flat)[:count]:
        chosen[group].append(index)
    return [sorted(indices) for indices in chosen]


def target(width: int, rate: float, multiple: int = 1) -> int:
    """Channels that are left of `width` at `rate`; rounded to a multiple where one fits."""
    left = width - round(width * rate)
    if multiple == 1 or width < multiple:
        return left
    return min(width, max(multiple, round(left / multiple) * multiple))


def _start(graph: channels.Graph, config: PruneStructured) -> _Start:
    """Widths, and the rates that the config gives by name. Raises `invalid_field`."""
    widths = {group.name: group.width for group in graph.groups}
    widths |= {heads.name: heads.count for heads in graph.heads}
    owner = {name: group.name for group in graph.groups for name in group.names}
    owner |= {heads.name: heads.name for heads in graph.heads}
    rates: dict[str, float] = {}
    for name, rate in config.rates.items():
        if name not in owner:
            raise invalid(
                f"rates.{name}",
                f"there is no layer {name!r} whose outputs can be taken out",
                f"Layers: {', '.join(owner)}.",
            )
        if rates.setdefault(owner[name], rate) != rate:
            raise invalid(
                f"rates.{name}",
                f"{name} is added to {owner[name]}, so both are cut alike",
                "Give them the same rate, or name one of them.",
            )
    return _Start(widths, rates)


def _check(graph: channels.Graph, start: _Start, config: PruneStructured) -> None:
    """Refuse, before anything is trained, what would leave a layer empty or all as it is."""
    pooled = [g for g in graph.groups if config.scope == "global" and g.name not in start.rates]
    for group in graph.groups:
        rate = start.rates.get(group.name, config.rate)
        if group not in pooled and target(group.width, rate, config.multiple) < 1:
            raise _empty(group, start, rate)
    if pooled:
        room = sum(_allowed(group.width, config) for group in pooled)
        if round(config.rate * sum(group.width for group in pooled)) > room:
            raise invalid(
                "rate",
                f"a rate of {config.rate:g} takes more than the layers may lose "
                f"({config.bound:g} of each)",
                "Use a lower rate, or a higher `most`.",
            )
    left = [
        target(group.width, start.rates.get(group.name, config.rate), config.multiple)
        for group in graph.groups
    ]
    kept = all(now == group.width for now, group in zip(left, graph.groups, strict=True))
    heads = all(_heads_left(h.count, start.rates.get(h.name, config.rate)) == h.count
                for h in graph.heads)  # fmt: skip
    if kept and heads and not pooled:
        raise invalid(
            "rate",
            f"a rate of {config.rate:g} takes no whole channel out of any layer",
            "Use a higher rate.",
        )
    if config.importance == "bn_scale" and not any(group.normalised for group in graph.groups):
        raise invalid(
            "importance",
            "bn_scale needs batch normalisation, and this network has none",
            "Use magnitude or taylor.",
        )


def _empty(group: Group, start: _Start, rate: float) -> MeuseError:
    own = next((name for name in group.names if name in start.rates), None)
    return invalid(
        "rate" if own is None else f"rates.{own}",
        f"a rate of {rate:g} leaves no channel of {group.name} ({group.width})",
        f"Use a rate below {1 - 1 / (2 * group.width):.3g}, or give {group.name} one of its own "
        "in `rates`.",
    )


def _allowed(width: int, config: PruneStructured) -> int:
    """Channels that a layer may lose when all layers are compared; one stays in any case."""
    return min(width - 1, math.floor(config.bound * width))


def _heads_left(count: int, rate: float) -> int:
    return max(1, count - round(count * rate))


def _gone(
    network: nn.Module,
    graph: channels.Graph,
    material: Material,
    config: PruneStructured,
    start: _Start,
    share: float,
) -> dict[str, list[int]]:
    """Channels and heads to take out now so that `share` of all that go is gone, by name."""
    if config.importance == "taylor":
        _gradients(network, material)
    gone: dict[str, list[int]] = {}
    pool: list[Group] = []
    for group in graph.groups:
        if config.importance == "bn_scale" and not group.normalised:
            continue
        if config.scope == "global" and group.name not in start.rates:
            pool.append(group)
            continue
        rate = start.rates.get(group.name, config.rate)
        left = target(start.widths[group.name], rate * share, config.multiple)
        count = max(0, group.width - left)
        score = channels.importance(group, config.importance)
        gone[group.name] = fewest([score], [group.width], count)[0]
    if pool:
        gone |= _of_pool(pool, config, start, share)
    for heads in graph.heads:
        rate = start.rates.get(heads.name, config.rate)
        count = heads.count - _heads_left(start.widths[heads.name], rate * share)
        score = channels.head_importance(heads, taylor=config.importance == "taylor")
        gone[heads.name] = fewest([score], [heads.count], max(0, count))[0]
    network.zero_grad(set_to_none=True)
    return gone


def _of_pool(
    pool: list[Group], config: PruneStructured, start: _Start, share: float
) -> dict[str, list[int]]:
    """The same for groups that are compared with each other."""
    whole = sum(start.widths[group.name] for group in pool)
    now = sum(group.width for group in pool)
    count = max(0, round(config.rate * share * whole) - (whole - now))
    allowed = [
        max(
            0, group.width - (start.widths[group.name] - _allowed(start.widths[group.name], config))
        )
        for group in pool
    ]
    scores = [channels.importance(group, config.importance) for group in pool]
    found = fewest(scores, allowed, min(count, sum(allowed)))
    if config.multiple > 1:
        for group, score, indices in zip(pool, scores, found, strict=True):
            left = target(group.width, len(indices) / group.width, config.multiple)
            indices[:] = fewest([score], [group.width], group.width - left)[0]
    return {group.name: indices for group, indices in zip(pool, found, strict=True)}


def _gradients(network: nn.Module, material: Material) -> None:
    """Leave the gradient of the mean loss on up to 1,024 training rows in the parameters."""
    options = material.loop
    loss = losses.make(options.loss_for(material.task), material.task)
    order = np.random.default_rng(derive(material.seed, "taylor"))
    chosen = np.sort(order.permutation(len(material.train))[:_TAYLOR_ROWS])
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.train()  # see `Projection`: it has a backward pass in training alone
    network.zero_grad(set_to_none=True)
    for begin in range(0, len(chosen), _TAYLOR_BATCH):
        place = chosen[begin : begin + _TAYLOR_BATCH]
        x, y = tensor_of(material.train.x[place]), tensor_of(material.train.y[place])
        value = loss(network(x).float(), y) * (len(place) / len(chosen))
        value.backward()  # type: ignore[no-untyped-call]
    network.eval()


def _cost(network: nn.Module, sample: Tensor) -> tuple[int, int]:
    """(parameters, multiplications of one row)."""
    parameters = sum(p.numel() for p in network.parameters())
    return parameters, products_of(network, sample) // len(sample)
