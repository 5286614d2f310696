"""Changes of a built network's shapes, as data.

A compressed network has layers that its recipe alone would not build. What was changed stands
beside the recipe as a list of edits, each a JSON object; replayed on a freshly built network
they give the shapes that the weights fit. Knows layers of torch; knows no method that makes
edits, and no weights: what an edit leaves is uninitialised.

    {"kind": "resize", "module": "body.3", "out": 12, "in": 30}   either may be left out
    {"kind": "factor", "module": "body.3", "rank": 8}             two layers for one
    {"kind": "factor_spatial", "module": "body.3", "rank": 8}     columns, then rows of a kernel
    {"kind": "heads", "module": "blocks.0", "heads": 3}           of an attention
    {"kind": "parameter", "module": "body.position", "shape": [1, 16, 40]}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from meuse.core.errors import MeuseError, invalid
from meuse.train import fakequant

MAX_EDITS = 10_000
_MAX_WIDTH = 1 << 20

EditFunction = Callable[[nn.Module, str, Mapping[str, Any]], None]


def edits_of(network: nn.Module) -> list[dict[str, Any]]:
    """The edits that a network carries, to append to."""
    edits = getattr(network, "edits", None)
    if not isinstance(edits, list):
        edits = []
        network.edits = edits  # type: ignore[assignment]
    return edits


def apply(network: nn.Module, edits: Sequence[Any]) -> nn.Module:
    """Replay `edits` on `network`, which carries them from then on. Raises `invalid_field`
    (`edits.N`) for one that does not fit."""
    if not isinstance(edits, list | tuple) or len(edits) > MAX_EDITS:
        raise invalid("edits", f"edits is a list of at most {MAX_EDITS} changes")
    kept = edits_of(network)
    for index, edit in enumerate(edits):
        at = f"edits.{index}"
        if not isinstance(edit, Mapping) or edit.get("kind") not in KINDS:
            raise invalid(at, f"{edit!r} is no edit", f"Kinds: {', '.join(KINDS)}.")
        try:
            KINDS[edit["kind"]](network, str(edit.get("module")), edit)
        except (AttributeError, TypeError, ValueError) as error:
            raise invalid(at, f"this edit does not fit the network: {error}") from None
        except MeuseError as error:
            error.field = at
            raise
        kept.append(dict(edit))
    return network


def sizes(network: nn.Module) -> dict[tuple[str, str], dict[str, Any]]:
    """The sizes of everything that an edit can change: by kind and module, the edit's fields."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, module in network.named_modules():
        own = _sizes_of(module)
        if own:
            found["resize", name] = own
            continue
        if isinstance(getattr(module, "heads", None), int):
            found["heads", name] = {"heads": module.heads}
        for key, value in module.named_parameters(recurse=False):
            path = f"{name}.{key}" if name else key
            found["parameter", path] = {"shape": list(value.shape)}
    return found


def changes(
    before: Mapping[tuple[str, str], Mapping[str, Any]], network: nn.Module
) -> list[dict[str, Any]]:
    """The edits from a network whose `sizes` were `before` to `network`, its modules the same."""
    found: list[dict[str, Any]] = []
    for (kind, name), now in sizes(network).items():
        then = before[kind, name]
        moved = {key: value for key, value in now.items() if then[key] != value}
        if moved:
            found.append({"kind": kind, "module": name, **moved})
    return found


def _sizes_of(module: nn.Module) -> dict[str, Any]:
    match module:
        case nn.Linear():
            return {"out": module.out_features, "in": module.in_features}
        case nn.Conv1d() | nn.Conv2d():
            return {"out": module.out_channels, "in": module.in_channels}
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return {"out": module.num_features}
        case nn.LayerNorm():
            return {"out": module.normalized_shape[0]}
        case nn.Embedding():
            return {"out": module.embedding_dim}
    return {}


def replace(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where the submodule `name` was."""
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


def _width(edit: Mapping[str, Any], key: str, now: int) -> int:
    value = edit.get(key, now)
    if type(value) is not int or not 1 <= value <= _MAX_WIDTH:
        raise ValueError(f"{key} is a whole number from 1 to {_MAX_WIDTH}")
    return value


def _resize(network: nn.Module, name: str, edit: Mapping[str, Any]) -> None:
    module = network.get_submodule(name)
    if isinstance(module, nn.Linear):
        module.in_features = _width(edit, "in", module.in_features)
        module.out_features = _width(edit, "out", module.out_features)
        module.weight = _like(module.weight, module.out_features, module.in_features)
        if module.bias is not None:
            module.bias = _like(module.bias, module.out_features)
    elif isinstance(module, nn.Conv1d | nn.Conv2d):
        module.in_channels = _width(edit, "in", module.in_channels)
        module.out_channels = _width(edit, "out", module.out_channels)
        if module.groups > 1:
            module.groups = _width(edit, "groups", module.groups)
        shape = (module.out_channels, module.in_channels // module.groups)
        module.weight = _like(module.weight, *shape, *module.kernel_size)
        if module.bias is not None:
            module.bias = _like(module.bias, module.out_channels)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.num_features = _width(edit, "out", module.num_features)
        for key, value in (*module.named_parameters(), *module.named_buffers()):
            if value.dim() == 1:
                fresh = torch.ones(module.num_features, dtype=value.dtype)
                kept = isinstance(value, nn.Parameter)
                setattr(module, key, nn.Parameter(fresh) if kept else fresh)
    elif isinstance(module, nn.LayerNorm):
        (now,) = module.normalized_shape
        module.normalized_shape = (_width(edit, "out", now),)
        module.weight = _like(module.weight, *module.normalized_shape)
        if module.bias is not None:
            module.bias = _like(module.bias, *module.normalized_shape)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = _width(edit, "out", module.embedding_dim)
        module.weight = _like(module.weight, module.num_embeddings, module.embedding_dim)
    else:
        raise ValueError(f"{type(module).__name__} cannot be resized")


def _like(parameter: torch.Tensor, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape, dtype=parameter.dtype))


def _factor(network: nn.Module, name: str, edit: Mapping[str, Any]) -> None:
    module = network.get_submodule(name)
    rank = _width(edit, "rank", 0)
    if isinstance(module, nn.Linear):
        bias = module.bias is not None
        first = nn.Linear(module.in_features, rank, bias=False)
        pair = nn.Sequential(first, nn.Linear(rank, module.out_features, bias=bias))
    elif isinstance(module, nn.Conv2d) and module.groups == 1:
        options: dict[str, Any] = {
            "stride": module.stride, "padding": module.padding, "dilation": module.dilation
        }  # fmt: skip
        size: Any = module.kernel_size
        spatial = nn.Conv2d(module.in_channels, rank, size, bias=False, **options)
        last = nn.Conv2d(rank, module.out_channels, 1, bias=module.bias is not None)
        pair = nn.Sequential(spatial, last)
    else:
        raise ValueError(f"{type(module).__name__} cannot be factored")
    replace(network, name, pair)


def _factor_spatial(network: nn.Module, name: str, edit: Mapping[str, Any]) -> None:
    module = network.get_submodule(name)
    if not isinstance(module, nn.Conv2d) or module.groups != 1 or isinstance(module.padding, str):
        raise ValueError(f"{type(module).__name__} has no kernel to take apart")
    rank = _width(edit, "rank", 0)
    (high, wide), (down, right) = module.kernel_size, module.stride
    (above, beside), (far, apart) = module.padding, module.dilation
    columns = nn.Conv2d(
        module.in_channels, rank, (high, 1), (down, 1), (above, 0), (far, 1), bias=False
    )
    rows = nn.Conv2d(
        rank, module.out_channels, (1, wide), (1, right), (0, beside), (1, apart),
        bias=module.bias is not None,
    )  # fmt: skip
    replace(network, name, nn.Sequential(columns, rows))


def _heads(network: nn.Module, name: str, edit: Mapping[str, Any]) -> None:
    module: Any = network.get_submodule(name)
    if not isinstance(getattr(module, "heads", None), int):
        raise ValueError(f"{type(module).__name__} has no heads")
    module.heads = _width(edit, "heads", 0)


def _parameter(network: nn.Module, name: str, edit: Mapping[str, Any]) -> None:
    parent, _, key = name.rpartition(".")
    module = network.get_submodule(parent)
    now, shape = dict(module.named_parameters(recurse=False)).get(key), edit.get("shape")
    if now is None or not isinstance(shape, list | tuple) or len(shape) != now.dim():
        raise ValueError(f"{name} has no such shape")
    wanted = [_width({"shape": size}, "shape", 0) for size in shape]
    setattr(module, key, _like(now, *wanted))


KINDS: dict[str, EditFunction] = {
    "resize": _resize,
    "factor": _factor,
    "factor_spatial": _factor_spatial,
    "heads": _heads,
    "parameter": _parameter,
    "fold_norm": fakequant.fold_norm,
    "fake_quant": fakequant.fake_quant,
}
"""By kind; a method with an edit of its own adds it here."""
