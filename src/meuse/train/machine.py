"""What a run makes of the machine: threads, precision, compilation. Says what it chose.

Every choice follows from the network, the options and the machine alone, because sums depend
on it in their last bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from meuse.train.batches import Batches
from meuse.train.options import LoopOptions

_SHARED_PRODUCTS = 500_000_000  # of a step, forward and backward

_most_threads: int | None = None

Log = Callable[..., None]


def limit_threads(count: int) -> None:
    """Let no run of this process use more threads: it shares the machine with others like it."""
    global _most_threads  # noqa: PLW0603  torch's own number of threads is the process's too
    _most_threads = count
    torch.set_num_threads(count)


@dataclass(frozen=True, slots=True)
class Machine:
    """`model` is what steps call: the network, or its compiled form."""

    model: Callable[..., Any]
    threads: int
    precision: str
    compiled: bool

    @classmethod
    def choose(
        cls, network: nn.Module, batches: Batches, options: LoopOptions, log: Log
    ) -> Machine:
        """Decide, set torch's threads, and log."""
        threads = _threads(network, batches)
        torch.set_num_threads(threads)
        precision = _precision(options.precision, log)
        model, compiled = _compiled(network, options.compile, log)
        how = ", compiled" if compiled else ""
        parameters = sum(p.numel() for p in network.parameters())
        log(
            f"{parameters:,} parameters, {options.optimizer} at {options.rate:g}, {precision} "
            f"on {threads} thread{'s' if threads > 1 else ''}{how}; "
            f"{batches.rows} rows to train on"
        )
        return cls(model, threads, precision, compiled)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.precision == "bf16":
            return torch.autocast("cpu", torch.bfloat16)
        return contextlib.nullcontext()


def run_digest(digest: str, options: LoopOptions, machine: Machine) -> str:
    """Names a run: what the caller's digest names, the options and the machine's part."""
    lasting = msgspec.structs.replace(options, checkpoint_seconds=0.0)
    parts: list[Any] = [digest, lasting, machine.threads, machine.precision, machine.compiled]
    parts.append(str(torch.__version__))
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def bf16_is_native() -> bool:
    """Whether this processor multiplies bfloat16 itself (AVX-512 BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _precision(wanted: str, log: Log) -> str:
    if wanted != "bf16":
        return "fp32"
    if bf16_is_native():
        return "bf16"
    log("this processor has no bfloat16 arithmetic: training in fp32", level="warning")
    return "fp32"


def _compiled(network: nn.Module, wanted: bool, log: Log) -> tuple[Callable[..., Any], bool]:
    if not wanted:
        return network, False
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        log(
            "torch.compile needs a C++ compiler and there is no g++: training without it",
            level="warning",
        )
        return network, False
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    return torch.compile(network), True


def _threads(network: nn.Module, batches: Batches) -> int:
    """As many threads as a step is large enough for, at most one per core.

    Small steps lose more to the hand-over than they gain, and much more on a busy machine.
    """
    sample = batches.sample()
    # The backward pass has twice the forward's products.
    products = 3 * products_of(network, sample) / len(sample) * batches.size
    most = _most_threads or len(os.sched_getaffinity(0))
    return max(1, min(most, int(products // _SHARED_PRODUCTS) + 1))


def products_of(network: nn.Module, x: Tensor) -> int:
    """Multiplications of one forward pass in linear and convolutional layers."""
    counted = 0

    def count(module: nn.Module, given: Any, out: Tensor) -> None:
        nonlocal counted
        weight = module.weight
        assert isinstance(weight, Tensor)
        counted += out.numel() * weight[0].numel()

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    layers = [module for module in network.modules() if isinstance(module, kinds)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    network.eval()
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return counted
