"""Checkpoints: one safetensors file, replaced as a whole.

Holds the network, the optimizer's state, the random state and the best network so far as
tensors, and everything else of a run as JSON in the file's metadata. Knows no loop and no job.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_KEY = "meuse.train"
_RANDOM = "random"


class Holder(Protocol):
    """What holds the tensors that are trained: a network, or a part of one."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> Any: ...


@dataclass(slots=True)
class Progress:
    """Where a run stands. `digest` names the run: spec, data and code.

    `epoch` counts finished epochs; `batch` the batches done of the one that runs and
    `loss_sum` the sum of their losses times rows. `best_*` belong to the epoch with the best
    monitored score; `anchor_*` to the last improvement that early stopping counts.
    """

    digest: str
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    first_loss: float | None = None
    best_epoch: int = 0
    best_score: float | None = None
    best_figures: dict[str, float] = field(default_factory=dict)
    anchor_epoch: int = 0
    anchor_score: float | None = None
    stopped_early: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)


P = TypeVar("P", bound=Progress)


def write(path: Path, progress: Progress, model: Holder, optimizer: torch.optim.Optimizer) -> None:
    """Replace `path` by the present state: temporary name, fsync, rename.

    Whoever reads `path`, also after a crash, finds the old file or the new one.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in progress.best.items()}
    scalars: dict[str, dict[str, Any]] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    tensors[_RANDOM] = torch.get_rng_state()
    said = json.dumps({"progress": _scalars(progress), "optimizer": scalars}, allow_nan=False)
    partial = path.with_name(path.name + ".partial")
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial, {_KEY: said})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read(path: Path, fresh: P, model: Holder, optimizer: torch.optim.Optimizer) -> tuple[P, str]:
    """(state of the run, why it starts anew or ""); fills `model` and `optimizer`, and sets
    torch's random state.

    A missing, damaged or foreign checkpoint (of another digest than `fresh`) changes nothing:
    the state is `fresh`.
    """
    if not path.exists():
        return fresh, ""
    try:
        said, tensors = _load(path)
        progress = type(fresh)(**said["progress"], best=_under(tensors, "best."))
        state: dict[int, dict[str, Any]] = {int(i): dict(s) for i, s in said["optimizer"].items()}
        for name, value in _under(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        random = tensors[_RANDOM]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        return fresh, f"the checkpoint cannot be read ({error})"
    if progress.digest != fresh.digest:
        return fresh, "the checkpoint belongs to another spec, data or version of the code"
    model.load_state_dict(_under(tensors, "model."))
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(random)
    return progress, ""


def copy_state(model: Holder) -> dict[str, Tensor]:
    """The network's tensors, detached from what training goes on to change."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _scalars(progress: Progress) -> dict[str, Any]:
    return {f.name: getattr(progress, f.name) for f in fields(progress) if f.name != "best"}


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        said = json.loads((file.metadata() or {})[_KEY])
        return said, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
