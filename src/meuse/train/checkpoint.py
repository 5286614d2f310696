"""Checkpoints: one safetensors file, replaced as a whole.

Holds the network, the optimizer's state and the best network so far as tensors, and the
rest of the loop's state as JSON in the file's metadata. Knows no loop and no job.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

_KEY = "meuse.train"


@dataclass(slots=True)
class Progress:
    """Where a run stands. `digest` names the run: spec, data and code.

    `epoch` is the number of finished epochs, `best_score` the primary metric of the best.
    """

    digest: str
    epoch: int = 0
    best_epoch: int = 0
    best_score: float | None = None
    best: dict[str, Tensor] = field(default_factory=dict)


def write(
    path: Path, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Replace `path` by the present state: temporary name, fsync, rename.

    Whoever reads `path`, also after a crash, finds the old file or the new one.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in progress.best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": value
            for name, value in state.items()
            if isinstance(value, Tensor)
        }
    payload = save(tensors, {_KEY: json.dumps(_scalars(progress))})
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read(
    path: Path, digest: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, str]:
    """(state of the run, why it starts anew or ""); fills `model` and `optimizer`.

    A missing, damaged or foreign checkpoint (another digest) changes nothing.
    """
    fresh = Progress(digest)
    if not path.exists():
        return fresh, ""
    try:
        scalars, tensors = _load(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        return fresh, f"the checkpoint cannot be read ({error})"
    if scalars.get("digest") != digest:
        return fresh, "the checkpoint belongs to another spec, data or version of the code"
    model.load_state_dict(_under(tensors, "model."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return Progress(**scalars, best=_under(tensors, "best.")), ""


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """The network's tensors, detached from what training goes on to change."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _scalars(progress: Progress) -> dict[str, Any]:
    return {f.name: getattr(progress, f.name) for f in fields(progress) if f.name != "best"}


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        scalars = json.loads((file.metadata() or {})[_KEY])
        return scalars, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
