"""PyTorch on the CPU: safetensors and the recipe they were trained by, never pickle.

Knows the file's header and nothing of recipes: `build` makes the network. The only module
that imports torch for serving.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature
from meuse.core.ports import BuildModel
from meuse.serve import strings

MAX_HEADER = 16 << 20
KEY = "meuse.model"
"""The entry of the file's metadata that says what to build, as JSON."""


class TorchEngine:
    """A network in evaluation mode (`core.ports.Engine`). A running `run` cannot be cancelled."""

    def __init__(self, model: bytes, threads: int, build: BuildModel) -> None:
        torch.set_num_threads(threads)
        _set_interop_threads(1)
        described = _description(model)
        try:
            with torch.device("meta"):  # shapes without memory: the file may say anything
                network, signature, prepare = build(described)
        except MeuseError as error:
            raise _refusal(str(error)) from None
        try:
            tensors = load(model)
        except (SafetensorError, KeyError, ValueError) as error:
            raise _refusal(str(error)) from None
        _check(network.state_dict(), tensors)
        network.load_state_dict(tensors, assign=True)
        network.requires_grad_(False)
        self._network = network.eval()
        self._prepare = prepare
        self._signature: Signature = signature
        self._texts = {spec.name for spec in signature.inputs if spec.datatype == "BYTES"}
        self._outputs = [spec.name for spec in signature.outputs]

    @property
    def signature(self) -> Signature:
        return self._signature

    @torch.inference_mode()
    def run(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One batch. Raises whatever torch raises."""
        inputs = {n: strings.text(n, v) if n in self._texts else v for n, v in inputs.items()}
        outputs = self._network(_tensor(self._prepare(inputs)))
        return {n: value.numpy() for n, value in zip(self._outputs, outputs, strict=True)}


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    # torch warns of arrays that it may not write to, such as views of received bytes.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _set_interop_threads(count: int) -> None:
    try:
        torch.set_num_interop_threads(count)
    except RuntimeError:  # it may be set once per process, before any parallel work
        if torch.get_num_interop_threads() != count:
            raise


def _description(model: bytes) -> dict[str, Any]:
    """What the header says of the model; read here, so that its size is bounded first."""
    size = int.from_bytes(model[:8], "little")
    if len(model) < 8 or size > min(MAX_HEADER, len(model) - 8):
        raise _refusal("the safetensors header is cut off or too large")
    try:
        header = json.loads(model[8 : 8 + size])
        described = json.loads(header["__metadata__"][KEY])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _refusal(f"the safetensors header has no {KEY!r} entry that is JSON") from None
    if not isinstance(described, dict):
        raise _refusal(f"the {KEY!r} entry is not an object")
    return described


def _check(wanted: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    if missing := sorted(wanted.keys() - found.keys()):
        raise _refusal(f"tensors are missing: {', '.join(missing[:5])}")
    if extra := sorted(found.keys() - wanted.keys()):
        raise _refusal(f"the recipe has no tensors {', '.join(extra[:5])}")
    for name, tensor in wanted.items():
        given = found[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise _refusal(
                f"{name} is {given.dtype} {list(given.shape)}, "
                f"the recipe needs {tensor.dtype} {list(tensor.shape)}"
            )


def _refusal(reason: str) -> MeuseError:
    return MeuseError(
        Code.INVALID_DATA, f"not a model that the torch engine can load: {reason}", field="model"
    )
