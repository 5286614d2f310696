"""Clipping of weights: by value, norm or percentile, or where rounding to few bits errs least.

Knows weights and the inputs that layers see; training is the material's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meuse.compress.configs.clip import BITS, SAMPLES, Clip
from meuse.compress.material import Material
from meuse.compress.rounding import rounded
from meuse.compress.weights import Layer, layers
from meuse.core.errors import Code, MeuseError, invalid
from meuse.train.batches import tensor_of
from meuse.train.seeds import derive

_SHARES = tuple(float(s) for s in np.linspace(1.0, 0.2, 41))
"""Of the greatest magnitude, where calibration tries to clip."""

_BATCH = 64
_PERCENTILE = 99.9


def clip(network: nn.Module, material: Material, config: Clip) -> nn.Module:
    """Clip the weights of `network`, in place; zeros stay.

    `value` and `percentile` bring magnitudes down to a limit, `norm` the weights of each output
    to a Euclidean length (max-norm, Hinton et al., arXiv:1207.0580). `calibrated` tries limits
    from the greatest magnitude down to a fifth of it, and takes the one at which rounding to
    `bits` has the least squared error, of the weights (as in Zhao et al., arXiv:1901.09504, and
    Banner et al., arXiv:1810.05723, which derives it) or of the layer's outputs; not clipping
    is among them. With `epochs` the network trains on, and is clipped again after every one.

    Raises `invalid_field`: `layers` for a name of none, `method` for a network without layers,
    `value` or `norm` where no weight is beyond it; `invalid_data` (`data`) without two rows.
    """
    chosen = _chosen(network, config)
    bounds = _bounds(network, chosen, material, config)
    clipped = _apply(chosen, bounds, config)
    if not clipped and config.by in ("value", "norm"):
        raise invalid(
            config.by,
            f"no weight is beyond {getattr(config, config.by):g}: nothing would be clipped",
            "Use a smaller number.",
        )
    for epoch in range(1, config.epochs + 1):
        material.fine_tune(
            network,
            1,
            learning_rate=config.learning_rate,
            name=f"epoch-{epoch}",
            done=(epoch - 1) / config.epochs,
            share=1 / config.epochs,
        )
        _apply(chosen, bounds, config)
    of = sum(layer.weight.numel() for layer in chosen)
    material.job.log(
        f"{clipped:,} of {of:,} weights clipped, {material.score(network):.4f} on validation"
    )
    return network


def best_limits(
    rows: Tensor, bits: int, second: Tensor | None = None, *, channels: bool = True
) -> Tensor:
    """Limits [outputs, 1], or [1, 1] for all outputs together, at which rounding `rows`
    [outputs, inputs] to `bits` has the least squared error.

    The error is of the outputs where `second` [inputs, inputs], the inputs' second moments, is
    given, else of the weights. Among equals the greatest limit is taken.
    """
    most = rows.abs().amax(dim=1, keepdim=True)
    if not channels:
        most = most.amax(dim=0, keepdim=True)
    best, least = most.clone(), torch.full_like(most, torch.inf)
    for share in _SHARES:
        limit = most * share
        off = rounded(rows, bits, limit) - rows
        errors = (off * off if second is None else (off @ second) * off).sum(dim=1, keepdim=True)
        if not channels:
            errors = errors.sum(dim=0, keepdim=True)
        better = errors < least
        best, least = torch.where(better, limit, best), torch.where(better, errors, least)
    return best


def second_moments(
    network: nn.Module, chosen: list[Layer], x: np.ndarray[Any, Any]
) -> dict[str, Tensor]:
    """By layer, the second moments [inputs, inputs] of what it multiplies its weights with, for
    features `x`; of linear layers and convolutions without groups."""
    found: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    handles = []
    for layer in chosen:
        module = layer.module
        if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) or layer.tensor != "weight":
            continue
        if isinstance(module, nn.Linear) or module.groups == 1:

            def look(module: nn.Module, given: Any, out: Any, name: str = layer.name) -> None:
                seen = _inputs(module, given[0])
                found[name] = found.get(name, 0) + seen.T @ seen
                counts[name] = counts.get(name, 0) + len(seen)

            handles.append(module.register_forward_hook(look))
    network.eval()
    try:
        with torch.no_grad():
            for begin in range(0, len(x), _BATCH):
                network(tensor_of(x[begin : begin + _BATCH]))
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in found.items()}


def _inputs(module: nn.Module, x: Tensor) -> Tensor:
    """What a layer sees [places, inputs], in the order of a row of its weights."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    # A convolution over one axis is one over two whose first has length 1.
    one = isinstance(module, nn.Conv1d)
    assert not isinstance(module.padding, str)
    kernel = (1, *module.kernel_size) if one else module.kernel_size
    stride = (1, *module.stride) if one else module.stride
    padding = (0, *module.padding) if one else module.padding
    dilation = (1, *module.dilation) if one else module.dilation
    image = x.unsqueeze(2) if one else x
    seen = nn.functional.unfold(image, kernel, dilation, padding, stride)
    return seen.transpose(1, 2).reshape(-1, seen.shape[1])


def _chosen(network: nn.Module, config: Clip) -> list[Layer]:
    found = layers(network)
    if not found:
        raise invalid(
            "method",
            "this network has no linear layer and no convolution to clip",
            "Use a method that works on the graph, such as quantize.",
        )
    names = [layer.name for layer in found]
    for name in config.layers:
        if name not in names:
            raise invalid("layers", f"there is no layer {name!r}", f"Layers: {', '.join(names)}.")
    return [layer for layer in found if not config.layers or layer.name in config.layers]


def _bounds(
    network: nn.Module, chosen: list[Layer], material: Material, config: Clip
) -> dict[str, Tensor]:
    """Limits of magnitude by layer, [outputs, 1] or [1, 1]; lengths with `norm`."""
    if config.by in ("value", "norm"):
        bound = torch.tensor([[config.value if config.by == "value" else config.norm]])
        return {layer.name: bound for layer in chosen}
    channels = config.channels is not False
    if config.by == "percentile":
        share = (_PERCENTILE if config.percentile is None else config.percentile) / 100
        return {
            layer.name: _percentile(layer.rows(layer.weight), share, channels=channels)
            for layer in chosen
        }
    moments: dict[str, Tensor] = {}
    if config.error != "weights":
        if len(material.train) < 2:
            raise MeuseError(
                Code.INVALID_DATA,
                f"{len(material.train)} training row is too few to calibrate on",
                field="data",
                hint="Use more data, or `error: weights`.",
            )
        order = np.random.default_rng(derive(material.seed, "clip"))
        rows = np.sort(order.permutation(len(material.train))[: config.samples or SAMPLES])
        moments = second_moments(network, chosen, material.train.x[rows])
    return {
        layer.name: best_limits(
            layer.rows(layer.weight), config.bits or BITS, moments.get(layer.name),
            channels=channels,
        )
        for layer in chosen
    }  # fmt: skip


def _percentile(rows: Tensor, share: float, *, channels: bool) -> Tensor:
    """The magnitude that `share` of the weights do not pass, as numpy's `lower` has it."""
    flat = rows.abs() if channels else rows.abs().reshape(1, -1)
    place = int(share * (flat.shape[1] - 1))
    return flat.kthvalue(place + 1, dim=1, keepdim=True).values


def _apply(chosen: list[Layer], bounds: dict[str, Tensor], config: Clip) -> int:
    """Clip; how many weights were changed."""
    changed = 0
    for layer in chosen:
        rows, bound = layer.rows(layer.weight), bounds[layer.name]
        if config.by == "norm":
            length = rows.norm(dim=1, keepdim=True)
            new = torch.where(length > bound, rows * (bound / length), rows)
        else:
            new = rows.clamp(-bound, bound)
        changed += int((new != rows).sum())
        layer.set(layer.from_rows(new))
    return changed
