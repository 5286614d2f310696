"""The weights that methods work on, and the forms that they keep.

A form is read off the values themselves, so it needs no record: exact zeros are pruned
weights, few distinct values are shared ones (`compress.shared`). Whatever trains a network does
so within `hold`, and the forms stay. Knows torch modules; knows no method, no data and no loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from meuse.compress import shared


@dataclass(frozen=True, slots=True)
class Layer:
    """A weight tensor within a network: `tensor` is the name of a parameter of `module`.

    `name` is what users call it: the module's path, with the tensor's own name where that is
    not `weight`. `layout` says which axes are outputs and inputs: `linear` [out, in], `conv`
    [out, in, …], `kernel` […, in, out] (Keras), `embedding` [rows, width]. `last` is true for
    the classifier: of those with outputs, the last that was registered.
    """

    name: str
    module: nn.Module
    tensor: str
    layout: str
    last: bool = False

    @property
    def weight(self) -> Tensor:
        """The weight as the network computes with it, detached."""
        found: Tensor = getattr(self.module, self.tensor)
        return found.detach()

    def set(self, value: Tensor) -> None:
        """Replace the values; the shape stays. Not within `hold`."""
        with torch.no_grad():
            parameter: Tensor = getattr(self.module, self.tensor)
            parameter.copy_(value)

    def rows(self, weight: Tensor) -> Tensor:
        """`weight` as a matrix [outputs, inputs of one output]."""
        moved = weight.movedim(-1, 0) if self.layout == "kernel" else weight
        return moved.reshape(moved.shape[0], -1)

    def from_rows(self, rows: Tensor) -> Tensor:
        """What `rows` gave, in the weight's own shape."""
        shape = self.weight.shape
        if self.layout != "kernel":
            return rows.reshape(shape)
        return rows.reshape(shape[-1], *shape[:-1]).movedim(0, -1)

    @property
    def input_axis(self) -> int:
        """The axis that runs over inputs (channels of a convolution)."""
        return -2 if self.layout == "kernel" else 1


def layers(network: nn.Module, *, embeddings: bool = False) -> list[Layer]:
    """The weights of linear layers, convolutions and attention's projections, in the order of
    registration; with `embeddings` those too. Vectors (biases, normalisation) are none."""
    found: list[Layer] = []
    for path, module in network.named_modules():
        found += _of_module(path, module, embeddings)
    ends = [i for i, layer in enumerate(found) if layer.layout != "embedding"]
    if ends:
        end = found[ends[-1]]
        found[ends[-1]] = Layer(end.name, end.module, end.tensor, end.layout, last=True)
    return found


def _of_module(path: str, module: nn.Module, embeddings: bool) -> list[Layer]:
    if isinstance(module, nn.Linear):
        return [Layer(path, module, "weight", "linear")]
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return [Layer(path, module, "weight", "conv")]
    if isinstance(module, nn.Embedding):
        return [Layer(path, module, "weight", "embedding")] if embeddings else []
    if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        return [Layer(f"{path}.in_proj_weight", module, "in_proj_weight", "linear")]
    # Keras' weights are parameters of the network itself, under their own paths.
    own = [name for name, value in module.named_parameters(recurse=False) if value.ndim >= 2]
    kernels = [name for name in own if name.endswith(("/kernel", "/recurrent_kernel"))]
    found = [Layer(_joined(path, name), module, name, "kernel") for name in kernels]
    if embeddings:
        tables = [name for name in own if name.endswith("/embeddings")]
        found += [Layer(_joined(path, name), module, name, "embedding") for name in tables]
    return found


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class Zeros(nn.Module):
    """A parametrization: what was zero stays exactly zero and takes no gradient."""

    zero: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("zero", weight == 0)

    def forward(self, weight: Tensor) -> Tensor:
        return weight.masked_fill(self.zero, 0.0)


def pruned(weight: Tensor) -> nn.Module | None:
    """`Zeros` for a weight that has exact zeros. No trained weight has any by chance."""
    return Zeros(weight) if bool((weight == 0).any()) else None


@contextmanager
def hold(network: nn.Module) -> Iterator[None]:
    """Keep the forms of all weights while the network trains.

    Within, weights are parametrized (`torch.nn.utils.parametrize`); afterwards they are plain
    parameters again, with exact zeros and exactly equal values, and vectors that were rounded to
    bfloat16 are so again. A weight that is parametrized already stays as it is.
    """
    held: list[Layer] = []
    rounded = [vector for vector in vectors(network) if _is_rounded(vector)]
    try:
        free = [
            layer
            for layer in layers(network, embeddings=True)
            if not parametrize.is_parametrized(layer.module, layer.tensor)
        ]
        # What is shared keeps its zeros as well.
        codes = shared.forms([layer.weight for layer in free])
        for layer, code in zip(free, codes, strict=True):
            form = code or pruned(layer.weight)
            if form is not None:
                parametrize.register_parametrization(layer.module, layer.tensor, form)
                held.append(layer)
        yield
    finally:
        lists: list[Any] = [layer.module.parametrizations for layer in held]
        shared.settle([found[layer.tensor] for found, layer in zip(lists, held, strict=True)])
        for layer in held:
            parametrize.remove_parametrizations(layer.module, layer.tensor)
            getattr(layer.module, layer.tensor).grad = None  # of the form's own shape
        round_all(rounded)


def vectors(network: nn.Module) -> list[nn.Parameter]:
    """Biases and normalisation."""
    return [parameter for parameter in network.parameters() if parameter.ndim == 1]


def round_all(parameters: Iterable[nn.Parameter]) -> None:
    """To the nearest bfloat16: of float32 the upper half, the lower is zero."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(parameter.bfloat16())


def _is_rounded(vector: Tensor) -> bool:
    """Whether it was, and not only begins so, as zeros and ones do."""
    found = vector.detach()
    return bool((found != found[:1]).any()) and torch.equal(found, found.bfloat16().to(found.dtype))


def zeros(network: nn.Module) -> tuple[int, int]:
    """(zeros, weights) of all layers without embeddings."""
    tensors = [layer.weight for layer in layers(network)]
    return sum(int((t == 0).sum()) for t in tensors), sum(t.numel() for t in tensors)
