"""What went wrong in a run, and its suspected cause: errors that name it.

Knows torch and the errors; asked only once something is wrong, so it may take its time.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from meuse.core.errors import Code, MeuseError

_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")
EXPLODED = 10.0
"""An end at so many times the untrained network's loss is no training."""
HOPELESS = 1e6
_SMALL = 0.1
"""A loss that starts below says nothing: a network that is trained on, such as a pruned one, may
start at nearly none. Ten times as much is what guessing costs."""


def not_finite(where: str, network: nn.Module, x: Tensor, y: Tensor, rate: float) -> MeuseError:
    """The error of a loss that is no number: the data, the weights, or a layer.

    `where` says the step in words, `x` and `y` are its batch.
    """
    told = f"the loss is not a finite number at {where}"
    bad = _bad_place(x)
    if bad is not None:
        return _data(f"{told}: the training data has {bad} in the features")
    bad = _bad_place(y)
    if bad is not None:
        return _data(f"{told}: the training data has {bad} in the target")
    named = next((n for n, p in network.named_parameters() if not _finite(p)), None)
    if named is not None:
        return _rate(f"training diverged; {told}: the weights {named} have overflowed", rate)
    layer = _overflow(network, x)
    place = f"layer {layer} overflows" if layer else "the loss itself overflows"
    return _rate(f"training diverged; {told}: {place}", rate)


def diverged(where: str, rate: float) -> MeuseError:
    """The error of a loss that is no number, where nobody can say of which layer."""
    return _rate(f"training diverged; the loss is not a finite number at {where}", rate)


def exploded(where: str, loss: float, first: float, rate: float) -> MeuseError:
    """The error of a loss that has left where it started far behind."""
    return _rate(
        f"training diverged: the loss is {loss:.3g} after {where}, and was {first:.3g} "
        "before the first",
        rate,
    )


def check_epoch(where: str, loss: float, first: float | None, rate: float) -> None:
    """Raises when the mean loss of an epoch is beyond all hope; see `check_end` for less."""
    if first is not None and loss > HOPELESS * max(first, _SMALL):
        raise exploded(where, loss, first, rate)


def check_end(history: Sequence[Mapping[str, float]], first: float | None, rate: float) -> None:
    """Raises when the last epoch's loss is far above the untrained network's.

    Only at the end: a high rate that then falls may pass through large losses and do well.
    """
    if history and first is not None:
        loss = history[-1]["train_loss"]
        if loss > EXPLODED * max(first, _SMALL):
            raise exploded(f"epoch {len(history)}", loss, first, rate)


def bad_figures(where: str, rate: float) -> MeuseError:
    """The error of a network whose outputs or figures on validation are not finite."""
    return _rate(
        f"training diverged: the validation figures are not finite numbers after {where}", rate
    )


@contextmanager
def memory_told(batch_size: int) -> Iterator[None]:
    """Turn a failed allocation into an error that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and not any(part in text for part in _MEMORY):
            raise
        smaller = max(1, batch_size // 2)
        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        bound = "" if limit == resource.RLIM_INFINITY else f"; it may have {limit / 2**30:.2f} GiB"
        raise MeuseError(
            Code.TOO_LARGE,
            f"out of memory with a batch_size of {batch_size}{bound}",
            field="batch_size",
            hint=f"Use a smaller batch_size, for example {smaller} (with accumulate 2 for the same "
            "updates), or a smaller network, or let the operator raise job_memory_bytes.",
        ) from error


def _data(message: str) -> MeuseError:
    hint = "Clean these rows, or let the preparation impute or clip them."
    return MeuseError(Code.INVALID_DATA, message, field="data", hint=hint)


def _rate(message: str, rate: float) -> MeuseError:
    return MeuseError(
        Code.INVALID_FIELD,
        message,
        field="learning_rate",
        hint=f"Use a learning rate below {rate:g}, for example {rate / 10:g}, or set clip_norm.",
    )


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _bad_place(tensor: Tensor) -> str | None:
    """`nan in column 3`, of the first value that is not finite."""
    if _finite(tensor):
        return None
    place = (~torch.isfinite(tensor)).nonzero()[0].tolist()
    value = float(tensor[tuple(place)])
    kind = "a missing value (NaN)" if math.isnan(value) else "an infinite value"
    return f"{kind} in column {place[1]}" if len(place) == 2 else kind


def _overflow(network: nn.Module, x: Tensor) -> str | None:
    """The name of the first module whose output is not finite, trying `x` once more."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def look(module: nn.Module, given: Any, out: Any) -> None:
            if isinstance(out, Tensor) and not _finite(out):
                found.append(name)

        return look

    leaves = [(n, m) for n, m in network.named_modules() if not list(m.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return (found[0] or type(network).__name__) if found else None
