"""Pruning of single weights by magnitude.

Knows weights and the schedule; training is the material's. The zeros are the whole record:
`weights.hold` finds them again, and they are in the exported file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from meuse.compress import sensitivity, weights
from meuse.compress.configs.prune import Prune
from meuse.compress.material import Material
from meuse.compress.weights import Layer
from meuse.core.errors import invalid

Masks = dict[str, Tensor]
"""By layer's name, true where a weight becomes zero."""

Plan = Callable[[float], Masks]
"""From the share of the way that is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class _Pool:
    """Layers whose weights are compared with each other, and how many of them become zero."""

    layers: tuple[Layer, ...]
    before: int
    after: int

    def count(self, share: float) -> int:
        """Zeros when `share` of the way is done."""
        return self.before + round(share * (self.after - self.before))


def prune(network: nn.Module, material: Material, config: Prune) -> nn.Module:
    """Set the smallest weights of `network` to zero, in place; zeros that it has stay.

    Magnitude pruning with training on (Han et al., arXiv:1506.02626), gradually along the
    cubic schedule of Zhu and Gupta (arXiv:1710.01878, equation 1); with a pattern n:m, the n
    largest of m neighbouring inputs stay (Mishra et al., arXiv:2104.08378). The learning rate
    stays through all rounds and falls in the last: what falls too early cannot make up for the
    weights that go later (section 3 there). Biases, normalisation and embeddings are not pruned.

    Raises `invalid_field`: `rate` where a layer would lose all weights or the network has as
    many zeros already, `rates.NAME` for no layer, `pattern` where it does not divide, `method`
    where there is nothing to prune.
    """
    found = weights.layers(network)
    if not found:
        raise invalid(
            "method",
            "this network has no linear layer and no convolution to prune",
            "Use a method that works on the graph, such as quantize.",
        )
    chosen = _chosen(found, config)
    plan = _plan(network, chosen, material, config)
    _check(plan(1.0), config)
    for number in range(1, config.rounds + 1):
        masks = plan(cubic(number, config.rounds))
        _check(masks, config)
        for layer in chosen:
            layer.set(layer.weight.masked_fill(masks[layer.name], 0.0))
        if config.epochs:
            material.fine_tune(
                network,
                config.epochs,
                options=material.options(
                    config.epochs, config.learning_rate, falls=number == config.rounds
                ),
                name=f"round-{number}",
                done=(number - 1) / config.rounds,
                share=1 / config.rounds,
            )
        if config.epochs or number == config.rounds:
            zero, of = weights.zeros(network)
            material.job.log(
                f"round {number} of {config.rounds}: {zero:,} of {of:,} weights are zero "
                f"({zero / of:.2%}), {material.score(network):.4f} on validation"
            )
    return network


def cubic(number: int, rounds: int) -> float:
    """The share of all zeros that are there after round `number` of `rounds`: 0 … 1."""
    return float(1 - (1 - number / rounds) ** 3)


def smallest(tensors: Sequence[Tensor], count: int) -> list[Tensor]:
    """Masks, true at the `count` values of least magnitude among all `tensors` together."""
    magnitudes = torch.cat([t.abs().reshape(-1) for t in tensors])
    mask = torch.zeros_like(magnitudes, dtype=torch.bool)
    mask[torch.topk(magnitudes, count, largest=False).indices] = True
    parts = torch.split(mask, [t.numel() for t in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]


def n_of_m(weight: Tensor, kept: int, among: int, axis: int) -> Tensor:
    """A mask, true at all but the `kept` values of greatest magnitude among every `among`
    neighbours along `axis`, whose length `among` divides."""
    moved = weight.abs().movedim(axis, -1)
    groups = moved.reshape(-1, among)
    mask = torch.ones_like(groups, dtype=torch.bool)
    mask.scatter_(1, groups.topk(kept, dim=1).indices, False)
    return mask.view(moved.shape).movedim(-1, axis)


def _chosen(found: list[Layer], config: Prune) -> list[Layer]:
    """All layers but those with a rate of 0."""
    if isinstance(config.rates, str):
        return found
    names = [layer.name for layer in found]
    check_names(config.rates, names)
    chosen = [layer for layer in found if config.rates.get(layer.name) != 0]
    if not chosen:
        raise invalid("rates", "no layer is left to prune", "Give one a rate above 0.")
    return chosen


def check_names(rates: dict[str, float], names: Sequence[str]) -> None:
    """Refuse rates of layers that there are not. Raises `invalid_field` at `rates.NAME`."""
    for name in rates:
        if name not in names:
            more = ", …" if len(names) > 40 else ""
            raise invalid(
                f"rates.{name}",
                f"there is no layer {name!r} to prune",
                f"Layers: {', '.join(names[:40])}{more}.",
            )


def _plan(network: nn.Module, chosen: list[Layer], material: Material, config: Prune) -> Plan:
    """Which weights are zero when a share of the way is done, by the weights as they are."""
    if config.pattern:
        return _pattern_of(chosen, config)
    return partial(_masks_of, _pools(network, chosen, material, config))


def _pools(
    network: nn.Module, chosen: list[Layer], material: Material, config: Prune
) -> list[_Pool]:
    rates = config.rates
    if rates == "sensitivity":
        rates = _borne(network, chosen, material, config.share)
    free = [layer for layer in chosen if layer.name not in rates]
    alone = [(layer, rates[layer.name]) for layer in chosen if layer.name in rates]
    if config.scope == "layer":
        alone += [(layer, config.share) for layer in free]
        free = []
    pools = [_pool((layer,), rate) for layer, rate in alone]
    if free:
        pools.append(_pool(tuple(free), config.share))
    if all(pool.after <= pool.before for pool in pools):
        zeros, of = weights.zeros(network)
        raise invalid(
            "rate",
            f"{zeros / of:.4g} of the weights are zero already: a rate of {config.share:g} "
            "changes nothing",
            "Use a higher rate.",
        )
    return pools


def _pool(layers: tuple[Layer, ...], rate: float) -> _Pool:
    before = sum(int((layer.weight == 0).sum()) for layer in layers)
    size = sum(layer.weight.numel() for layer in layers)
    return _Pool(layers, before, max(before, round(rate * size)))


def _borne(
    network: nn.Module, chosen: list[Layer], material: Material, share: float
) -> dict[str, float]:
    """Rates by layer that cost each about the same."""
    rows = sensitivity.pruning(network, material.score)
    sizes = {layer.name: layer.weight.numel() for layer in chosen}
    rates = sensitivity.allocate(rows, material.score(network), sizes, share)
    told = ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items())
    material.job.log(f"rates by sensitivity: {told}")
    return rates


def _masks_of(pools: list[_Pool], share: float) -> Masks:
    found: Masks = {}
    for pool in pools:
        masks = smallest([layer.weight for layer in pool.layers], pool.count(share))
        found |= {layer.name: mask for layer, mask in zip(pool.layers, masks, strict=True)}
    return found


def _pattern_of(chosen: list[Layer], config: Prune) -> Plan:
    kept, among = config.kept
    sizes = {layer.name: layer.weight.shape[layer.input_axis] for layer in chosen}
    misfits = [f"{name} ({size})" for name, size in sizes.items() if size % among]
    if misfits:
        raise invalid(
            "pattern",
            f"{among} does not divide the inputs of {', '.join(misfits)}",
            "Give these layers a rate of 0 in `rates` to leave them alone, or use another pattern.",
        )

    def masks(share: float) -> Masks:
        left = among - round(share * (among - kept))
        return {layer.name: n_of_m(layer.weight, left, among, layer.input_axis) for layer in chosen}

    if all(bool((layer.weight[masks(1.0)[layer.name]] == 0).all()) for layer in chosen):
        raise invalid(
            "pattern", f"the weights keep to {config.pattern} already", "Leave this step out."
        )
    return masks


def _check(masks: Masks, config: Prune) -> None:
    """Refuse to empty a layer: the network would answer the same for every row."""
    for name, mask in masks.items():
        if bool(mask.all()):
            own = config.rates.get(name) if isinstance(config.rates, dict) else None
            raise invalid(
                "rate" if own is None else f"rates.{name}",
                f"a rate of {own or config.share:g} leaves none of the {mask.numel()} weights "
                f"of {name}",
                f"Use a lower rate, or give {name} one of its own in `rates`.",
            )
