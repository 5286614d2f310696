"""Low-rank factors: a linear layer or a convolution as two thin ones.

Knows layers, their inputs on training rows and singular values; how shapes change is
`train.surgery`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

from meuse.compress.configs.low_rank import DEFAULT_ENERGY, LowRank
from meuse.compress.material import Material, check_rows
from meuse.compress.weights import layers
from meuse.core.errors import invalid
from meuse.train import surgery
from meuse.train.batches import tensor_of
from meuse.train.seeds import derive

_ROWS = 1024
_BATCH = 32
_DAMPING = 1e-6  # of the mean square of the inputs: what they never do still counts a little


@dataclass(frozen=True, slots=True)
class _Factored:
    """A layer's weight as a matrix [outputs, inputs], taken apart: weight · root = u · s · vt,
    where root · rootᵀ are the inputs' second moments (the identity without data)."""

    name: str
    kind: str
    u: Tensor
    s: Tensor
    vt: Tensor
    root: Tensor
    dense: int

    @property
    def per_rank(self) -> int:
        """Parameters of one more rank."""
        return self.u.shape[0] + self.vt.shape[1]

    @property
    def full(self) -> int:
        return len(self.s)

    def rank_for(self, energy: float) -> int:
        """The lowest rank that keeps this share of the sum of squares."""
        squares = self.s.double().square().cumsum(0)
        reached = squares >= energy * squares[-1] * (1 - 1e-12)
        return int(reached.int().argmax()) + 1

    def pays(self, rank: int) -> bool:
        """Whether the two layers are smaller than the one."""
        return rank * self.per_rank < self.dense


def low_rank(network: nn.Module, material: Material, config: LowRank) -> nn.Module:
    """Replace layers of `network` by two of a lower rank where those are smaller, then train.

    With data, what is least is the mean squared error of the layer's outputs on up to 1,024
    training rows: the singular values are those of W·L, L the Cholesky factor of the inputs'
    second moments (SVD-LLM, arXiv:2403.07378, section 3.1; ASVD, arXiv:2312.05821, scales by
    channel). Without, the error of the weights. Convolutions: fewer channels followed by a 1x1
    kernel (Zhang et al., arXiv:1505.06798), or a column kernel followed by a row kernel
    (Jaderberg et al., arXiv:1405.3866). Zeros of pruned weights are lost in factors.

    Raises `invalid_field`: `layers.N` for no layer of these kinds, `rank` where none is so
    large, `budget` where it is met already or cannot be, and where no layer gets smaller;
    `invalid_data` (`data`) for fewer than 16 training rows to measure inputs on.
    """
    chosen = _chosen(network, config)
    if config.data:
        check_rows(material.train, ", or set data to false: weights alone")
    moments = _moments(network, chosen, material, config) if config.data else {}
    parts = [_take_apart(name, m, config, moments.get(name)) for name, m in chosen.items()]
    ranks = _ranks(network, parts, config)
    before = _parameters(network)
    for part in parts:
        rank = ranks.get(part.name)
        if rank is not None:
            _replace(network, part, rank)
    told = ", ".join(f"{name} {rank}" for name, rank in ranks.items())
    material.job.log(f"{before:,} → {_parameters(network):,} parameters; ranks: {told}")
    if config.epochs:
        material.fine_tune(
            network, config.epochs, learning_rate=config.learning_rate, name="low-rank"
        )
    return network


def _chosen(network: nn.Module, config: LowRank) -> dict[str, nn.Module]:
    able = {layer.name: layer.module for layer in layers(network) if _is_plain(layer.module)}
    last = next((layer.name for layer in layers(network) if layer.last), None)
    for index, name in enumerate(config.layers):
        if name not in able:
            known = ", ".join(able) or "none"
            raise invalid(f"layers.{index}", f"there is no layer {name!r}", f"Layers: {known}.")
    asked = config.layers or [name for name in able if name != last]
    chosen: dict[str, nn.Module] = {name: able[name] for name in asked}
    if not chosen:
        raise invalid("layers", "there is no layer to factor but the classifier", "Name it.")
    return chosen


def _is_plain(module: nn.Module) -> bool:
    """Of the classes themselves: torch's own attention reads the weights of its parts."""
    if type(module) is nn.Conv2d:
        return module.groups == 1 and not isinstance(module.padding, str)
    return type(module) is nn.Linear


def _kind(module: nn.Module, config: LowRank) -> str:
    """Of a convolution whose kernel is more than a point, the kind that was asked for."""
    if isinstance(module, nn.Conv2d) and config.convolutions == "spatial":
        return "factor_spatial" if min(module.kernel_size) > 1 else "factor"
    return "factor"


def _matrix(module: nn.Module, kind: str) -> Tensor:
    """The weight [outputs, inputs]; of a spatial kind outputs are (out, column) and inputs
    (in, row)."""
    weight: Tensor = module.weight.detach().double()  # type: ignore[operator]
    if kind == "factor_spatial":
        out, taken, high, wide = weight.shape
        return weight.permute(0, 3, 1, 2).reshape(out * wide, taken * high)
    return weight.reshape(weight.shape[0], -1)


def _moments(
    network: nn.Module, chosen: Mapping[str, nn.Module], material: Material, config: LowRank
) -> dict[str, Tensor]:
    """Second moments [inputs, inputs] of what each layer is given, on training rows."""
    found: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def listen(name: str, kind: str) -> object:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows = _inputs(module, given[0], kind).double()
            found[name] = found.get(name, torch.zeros(())) + rows.T @ rows
            counts[name] = counts.get(name, 0) + len(rows)

        return hook

    hooks = [
        module.register_forward_pre_hook(listen(name, _kind(module, config)))  # type: ignore[arg-type]
        for name, module in chosen.items()
    ]
    order = np.random.default_rng(derive(material.seed, "low-rank")).permutation(
        len(material.train)
    )
    try:
        network.eval()
        with torch.no_grad():
            x = tensor_of(material.train.x[np.sort(order[:_ROWS])])
            for start in range(0, len(x), _BATCH):
                network(x[start : start + _BATCH])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: moments / counts[name] for name, moments in found.items()}


def _inputs(module: nn.Module, given: Tensor, kind: str) -> Tensor:
    """What a layer multiplies its matrix with, one row each."""
    if isinstance(module, nn.Linear):
        return given.reshape(-1, given.shape[-1])
    assert isinstance(module, nn.Conv2d)
    high, wide, down, right, above, beside = (
        int(n) for pair in (module.kernel_size, module.stride, module.padding) for n in pair
    )
    if kind == "factor_spatial":
        wide, right, beside = 1, 1, 0
    dilation: tuple[int, ...] = module.dilation
    columns = F.unfold(given, (high, wide), dilation, (above, beside), (down, right))
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def _take_apart(name: str, module: nn.Module, config: LowRank, moments: Tensor | None) -> _Factored:
    kind = _kind(module, config)
    matrix = _matrix(module, kind)
    root = torch.eye(matrix.shape[1], dtype=torch.float64)
    if moments is not None and bool(moments.diagonal().sum() > 0):
        damping = _DAMPING * moments.diagonal().mean()
        root = torch.linalg.cholesky(moments + damping * root)
    u, s, vt = torch.linalg.svd(matrix @ root, full_matrices=False)
    return _Factored(name, kind, u, s, vt, root, matrix.numel())


def _ranks(network: nn.Module, parts: Sequence[_Factored], config: LowRank) -> dict[str, int]:
    """By layer, of those that get smaller."""
    if config.budget is not None:
        return _within(network, parts, config.budget)
    if config.rank is not None:
        most = max(part.full for part in parts)
        if config.rank > most:
            raise invalid("rank", f"no layer has a rank above {most}", f"Use a rank below {most}.")
        ranks = {part.name: config.rank for part in parts if part.pays(config.rank)}
        field = "rank"
    else:
        energy = DEFAULT_ENERGY if config.energy is None else config.energy
        ranks = _by_energy(parts, energy)
        field = "energy"
    if not ranks:
        raise invalid(
            field,
            "two layers would not be smaller than one, for any of them",
            f"Use a lower {field}.",
        )
    return ranks


def _by_energy(parts: Sequence[_Factored], energy: float) -> dict[str, int]:
    ranks = {part.name: part.rank_for(energy) for part in parts}
    return {part.name: ranks[part.name] for part in parts if part.pays(ranks[part.name])}


def _within(network: nn.Module, parts: Sequence[_Factored], budget: int) -> dict[str, int]:
    """The ranks of the highest energy, the same for all layers, that the budget allows."""
    whole = _parameters(network)
    if budget >= whole:
        raise invalid(
            "budget", f"the network has {whole:,} parameters, no more", "Use a smaller budget."
        )

    def size(ranks: Mapping[str, int]) -> int:
        saved = (p.dense - ranks[p.name] * p.per_rank for p in parts if p.name in ranks)
        return whole - sum(saved)

    low, high = 0.0, 1.0
    least = size(_by_energy(parts, low))
    if least > budget:
        raise invalid(
            "budget", f"rank 1 everywhere leaves {least:,} parameters", "Use a larger budget."
        )
    for _ in range(50):
        middle = (low + high) / 2
        if size(_by_energy(parts, middle)) <= budget:
            low = middle
        else:
            high = middle
    return _by_energy(parts, low)


def _replace(network: nn.Module, part: _Factored, rank: int) -> None:
    """Two layers for one: inputs to `rank` values, these to outputs and bias."""
    old = network.get_submodule(part.name)
    scale = part.s[:rank].sqrt()
    first = torch.linalg.solve_triangular(
        part.root, scale[:, None] * part.vt[:rank], upper=False, left=False
    )
    second = part.u[:, :rank] * scale
    edit = {"kind": part.kind, "module": part.name, "rank": rank}
    surgery.apply(network, [edit])
    pair = network.get_submodule(part.name)
    weights: list[Tensor] = [pair[0].weight, pair[1].weight]  # type: ignore[index]
    if part.kind == "factor_spatial":
        out = weights[1].shape[0]
        second = second.reshape(out, -1, rank).permute(0, 2, 1)
    with torch.no_grad():
        weights[0].copy_(first.reshape(weights[0].shape))
        weights[1].copy_(second.reshape(weights[1].shape))
        if old.bias is not None:
            pair[1].bias.copy_(old.bias)  # type: ignore[index]
    pair.train(old.training)


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
