"""Weight sharing: k-means codebooks whose values are trained on.

Knows layers and their weights; how codes are held in training is `compress.shared`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from meuse.compress.configs.share import Share
from meuse.compress.kmeans import kmeans, nearest
from meuse.compress.material import Material
from meuse.compress.shared import LEAST
from meuse.compress.weights import Layer, layers, round_all, vectors
from meuse.core.errors import invalid
from meuse.train.seeds import derive


def share(network: nn.Module, material: Material, config: Share) -> nn.Module:
    """Give every layer a codebook of 2^bits values, then train the values.

    k-means over the weights that are not zero (`compress.kmeans`), one codebook per layer or per
    group of layers; layers with at most four weights per value are left alone. Then training
    with the codes held: the gradient of a value is that of its weights (`compress.shared`).

    Source: Han, Mao and Dally, Deep Compression, arXiv:1510.00149, section 3. Tied layers: Press
    and Wolf, Using the output embedding to improve language models, arXiv:1608.05859.
    Raises `invalid_field` for layers that do not exist or do not fit together, and where no
    layer is large enough.
    """
    found = {layer.name: layer for layer in layers(network, embeddings=True)}
    _check_names(config, found)
    for index, tied in enumerate(config.tied):
        _tie([found[name] for name in tied], f"tied.{index}")
    left: list[str] = []
    for names in _together(config, found):
        bits = _bits(config, names)
        if not _share([found[name] for name in names], bits, config, material.seed):
            left += names
    if left:
        material.job.log(f"too small to share values, left as they are: {', '.join(left)}")
    if len(left) == len(found):
        raise invalid(
            "bits", "no layer has weights enough to share values", "Use fewer bits, or no sharing."
        )
    if config.epochs:
        material.fine_tune(network, config.epochs, learning_rate=config.learning_rate, name="share")
    if config.vectors == "bfloat16":
        round_all(vectors(network))
    return network


def _share(group: Sequence[Layer], bits: int, config: Share, seed: int) -> bool:
    """Replace the weights of layers by values of one codebook; False where they are too few."""
    weights = [layer.weight for layer in group]
    values = torch.cat([weight[weight != 0] for weight in weights]).numpy()
    if len(values) <= LEAST * 2**bits:
        return False
    seed = derive(seed, f"share:{group[0].name}")
    centroids = kmeans(values, 2**bits, config.init, seed).astype(np.float32)
    # A value of zero would be a pruned weight from then on.
    centroids[centroids == 0] = np.finfo(np.float32).tiny
    table = torch.from_numpy(centroids)
    for layer, weight in zip(group, weights, strict=True):
        codes = torch.from_numpy(nearest(weight.numpy(), centroids.astype(np.float64)))
        layer.set(torch.where(weight != 0, table[codes], 0.0))
    return True


def _tie(group: Sequence[Layer], field: str) -> None:
    """One weight for several layers: their mean; pruned where one of them is."""
    shapes = {tuple(layer.weight.shape) for layer in group}
    if len(shapes) > 1:
        told = ", ".join(f"{layer.name} is {list(layer.weight.shape)}" for layer in group)
        raise invalid(field, f"only layers of one shape can be tied: {told}")
    stacked = torch.stack([layer.weight for layer in group])
    mean = torch.where((stacked != 0).all(dim=0), stacked.mean(dim=0), 0.0)
    for layer in group:
        layer.set(mean)


def _together(config: Share, names: Iterable[str]) -> list[list[str]]:
    """Layers by codebook: groups, tied ones (unless a group has them), single ones."""
    if config.groups == "all":
        return [list(names)]
    found = [list(group) for group in config.groups]
    grouped = {name for group in found for name in group}
    found += [list(group) for group in config.tied if not grouped.intersection(group)]
    grouped |= {name for group in found for name in group}
    return found + [[name] for name in names if name not in grouped]


def _bits(config: Share, names: Sequence[str]) -> int:
    asked = {config.layers.get(name, config.bits) for name in names}
    if len(asked) > 1:
        raise invalid(
            "layers",
            f"{', '.join(names)} have one codebook, so they cannot have {sorted(asked)} bits",
            "Give all of them the same bits.",
        )
    return asked.pop()


def _check_names(config: Share, found: Iterable[str]) -> None:
    """Every layer exists, stands in one group only, and tied ones are in one group together."""
    known = list(found)
    groups = () if config.groups == "all" else config.groups
    asked = [(f"layers.{name}", name) for name in config.layers]
    for field, sets in (("groups", groups), ("tied", config.tied)):
        seen: set[str] = set()
        for index, names in enumerate(sets):
            asked += [(f"{field}.{index}", name) for name in names]
            if len(set(names)) < len(names) or seen.intersection(names):
                raise invalid(f"{field}.{index}", "a layer stands twice", "Name each layer once.")
            seen |= set(names)
    for field, name in asked:
        if name not in known:
            raise invalid(field, f"there is no layer {name!r}", f"Layers: {', '.join(known)}.")
    for index, names in enumerate(config.tied):
        for group in groups:
            if set(names) & set(group) and not set(names) <= set(group):
                raise invalid(
                    f"tied.{index}",
                    f"{', '.join(names)} get one weight but not one codebook",
                    "Put all of them into the same group.",
                )
