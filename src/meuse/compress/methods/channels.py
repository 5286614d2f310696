"""Channels of a network: which layers share them, how important they are, how to cut them.

Knows torch-pruning's dependency graph and the layers of the platform's recipes; knows no rate
and no data. Cutting is done here and not by the library, whose order of what is left of a
layer normalisation is not the one of other layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from meuse.compress.weights import layers
from meuse.core.errors import invalid
from meuse.train.recipes.attention import Block

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Channels that stay or go in all of several layers. `names` are the layers whose outputs
    they are, in the order of registration; the first names the group. `normalised`: by batch
    normalisation."""

    names: tuple[str, ...]
    width: int
    normalised: bool
    parts: Any

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """The heads of an attention. `project` gives queries, keys and values, each head by head;
    `join` takes them. `name` is that of `project`."""

    name: str
    block: Block
    project: nn.Linear
    join: nn.Linear

    @property
    def count(self) -> int:
        return self.block.heads


@dataclass(frozen=True, slots=True)
class Graph:
    groups: tuple[Group, ...]
    heads: tuple[Heads, ...]
    found: Any


def graph_of(network: nn.Module, sample: Tensor) -> Graph:
    """What can be cut of `network`, traced with rows `sample`; nothing of the classifier's
    outputs and of the features. The network is in evaluation mode afterwards."""
    heads = [h for name, module in network.named_modules() for h in _heads_of(name, module)]
    last = next((layer.module for layer in layers(network) if layer.last), None)
    if last is None:
        return Graph((), (), None)
    names = {module: name for name, module in network.named_modules()}
    kept = [last, *(h.project for h in heads)]
    try:
        found = tp.DependencyGraph().build_dependency(network, sample, verbose=False)
        parts = list(found.get_all_groups(ignored_layers=kept))
    except (RuntimeError, AssertionError, AttributeError, KeyError, ValueError) as error:
        raise invalid(
            "method",
            f"the layers of this network cannot be traced: {error}",
            "Use prune, share or quantize.",
        ) from None
    groups = [_group(part, found, names) for part in parts]
    order = list(names.values())
    groups.sort(key=lambda group: order.index(group.name))
    return Graph(tuple(groups), tuple(heads), found)


def _group(part: Any, found: Any, names: Mapping[nn.Module, str]) -> Group:
    modules = [dep.target.module for dep, _ in part]
    outs = {
        names[dep.target.module]
        for dep, _ in part
        if isinstance(dep.target.module, nn.Linear | nn.Conv1d | nn.Conv2d)
        and found.is_out_channel_pruning_fn(dep.handler)
    }
    ordered = tuple(name for name in names.values() if name in outs)
    normalised = any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in modules)
    return Group(ordered, len(part[0].idxs), normalised, part)


def _heads_of(name: str, module: nn.Module) -> list[Heads]:
    if not isinstance(module, Block):
        return []
    # A layer may stand as two factors.
    project: nn.Module = module.project
    join: nn.Module = module.join
    last = f"{name}.project"
    if isinstance(project, nn.Sequential):
        last, project = f"{last}.{len(project) - 1}", project[-1]
    if isinstance(join, nn.Sequential):
        join = join[0]
    if not isinstance(project, nn.Linear) or not isinstance(join, nn.Linear):
        return []
    return [Heads(last, module, project, join)]


def importance(group: Group, kind: str) -> Tensor:
    """Scores [width] of a group's channels; their mean is 1, so that groups compare. For
    `taylor` the parameters have gradients."""
    scorer = {
        "magnitude": tp.importance.GroupMagnitudeImportance,
        "taylor": tp.importance.GroupTaylorImportance,
        "bn_scale": tp.importance.BNScaleImportance,
    }[kind]()
    scores: Tensor = scorer(group.parts)
    return torch.nan_to_num(scores.detach())


def head_importance(heads: Heads, *, taylor: bool) -> Tensor:
    """Scores [heads]: squared weights, or |weight · gradient|, of all that belongs to a head."""
    found = []
    for weight, axis in ((heads.project.weight, 0), (heads.join.weight, 1)):
        gradient = weight.grad if taylor else None
        value = weight.detach() * (weight.detach() if gradient is None else gradient)
        parts = (3, heads.count) if axis == 0 else (1, heads.count)
        rows = value.abs().movedim(axis, 0).reshape(*parts, -1)
        found.append(rows.sum(dim=(0, 2)))
    return torch.stack(found).sum(dim=0)


def cut(network: nn.Module, graph: Graph, gone: Mapping[str, list[int]]) -> None:
    """Take channels and heads out of `network`, by the names of groups and heads."""
    paths = {id(value): name for name, value in network.named_parameters()}
    # All indices first: the graph is of the shapes as they are.
    work: list[tuple[Any, bool, list[int]]] = []
    for group in graph.groups:
        indices = gone.get(group.name)
        if indices:
            root = group.parts[0].dep
            part = graph.found.get_pruning_group(root.target.module, root.handler, indices)
            for dep, places in part:
                out = graph.found.is_out_channel_pruning_fn(dep.handler)
                work.append((dep, out, list(places)))
    for dep, out, places in work:
        target = dep.target.module
        if isinstance(target, nn.Parameter):
            _cut_parameter(network, paths[id(target)], dep.target.pruning_dim, places)
        elif isinstance(target, nn.Module):
            _cut_module(target, places, out=out)
    for heads in graph.heads:
        _cut_heads(heads, gone.get(heads.name) or [])


def _cut_heads(heads: Heads, gone: list[int]) -> None:
    if not gone:
        return
    count, width = heads.count, heads.join.in_features // heads.count
    places = [h * width + i for h in gone for i in range(width)]
    _cut_module(heads.join, places, out=False)
    whole = count * width
    _cut_module(heads.project, [part * whole + p for part in range(3) for p in places], out=True)
    heads.block.heads = count - len(gone)


def _cut_module(module: nn.Module, gone: list[int], *, out: bool) -> None:
    """Take outputs or inputs out of one layer; other modules (activations) have none."""
    if isinstance(module, nn.Linear):
        _cut_own(module, "weight", 0 if out else 1, gone)
        if out:
            _cut_own(module, "bias", 0, gone)
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv1d | nn.Conv2d):
        _cut_own(module, "weight", 0 if out else 1, gone)
        if out:
            _cut_own(module, "bias", 0, gone)
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, nn.Embedding):
        _cut_own(module, "weight", 1, gone)
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, _NORMS):
        for name in ("weight", "bias", "running_mean", "running_var"):
            _cut_own(module, name, 0, gone)
        if isinstance(module, nn.LayerNorm):
            module.normalized_shape = (module.weight.shape[0],)
        else:
            module.num_features = module.weight.shape[0]


def _cut_parameter(network: nn.Module, path: str, axis: int, gone: list[int]) -> None:
    parent, _, name = path.rpartition(".")
    _cut_own(network.get_submodule(parent), name, axis, gone)


def _cut_own(module: nn.Module, name: str, axis: int, gone: list[int]) -> None:
    value = getattr(module, name, None)
    if value is None:
        return
    kept = torch.ones(value.shape[axis], dtype=torch.bool)
    kept[gone] = False
    left = value.detach()[(slice(None),) * axis + (kept,)].contiguous()
    setattr(module, name, nn.Parameter(left) if isinstance(value, nn.Parameter) else left)
