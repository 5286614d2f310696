"""The program of the recipe `custom`, in its sandbox: `python -m meuse.train.custom_inside`.

Imports the user's code, which may do as it likes here: this process holds no secret, has no
network and writes to its folder alone. torch is imported after that code's module, so that what
is wrong with it shows at once.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import random
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Paused
from meuse.runtime.sandbox import inside
from meuse.runtime.sandbox.archives import folder_of

if TYPE_CHECKING:
    from torch import nn

CODE, DATA, NETWORK, SAMPLES, OUT = "code.zip", "data.npz", "network.onnx", "samples.npz", "out"
CHECKPOINT, PAUSE = "checkpoint.safetensors", "pause"
PREFIX = "\x1emeuse "
"""Begins a line of output that is a report."""


def work(order: dict[str, Any]) -> dict[str, Any]:
    function = _function(order["entry"])
    with np.load(DATA, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    first = next(iter(inspect.signature(function).parameters), "")
    _seed(int(order["loop"].get("seed", 0)))
    network: Any
    try:
        if first == "data_dir":
            network = _trained(function, order)
        else:
            network = function(tuple(order["shape"]), order["outputs"], order["options"])
            _check(network, data["x"], order["outputs"])
            _train(network, data, order)
    except Paused:
        return {"paused": True}
    if network is not None:
        from meuse.train import export, loop

        _check(network, data["x"], order["outputs"])
        export.write(export.network_graph(network, data["x"][:2]), Path(NETWORK))
        scores = loop.scores_of(network, data["validation_x"][:200])
        np.savez(SAMPLES, scores=scores)
    return {}


def _function(entry: str) -> Any:
    folder = Path("code")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    place = folder_of(Path(CODE), folder)
    sys.path[:0] = [str(place.resolve()), str(folder.resolve())]
    module, _, name = entry.partition(":")
    try:
        function = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise _refusal(f"the zip has no module {error.name!r}, nor is it installed") from None
    except AttributeError:
        raise _refusal(f"the module {module!r} has no function {name!r}") from None
    if not callable(function):
        raise _refusal(f"{entry} is not a function")
    return function


def _seed(seed: int) -> None:
    """Of all that foreign code may draw from: its first weights follow from the seed."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _trained(function: Any, order: dict[str, Any]) -> nn.Module | None:
    from torch import nn

    out = Path(OUT)
    out.mkdir(exist_ok=True)
    made = function(str(Path.cwd()), str(out.resolve()), order["options"])
    if isinstance(made, nn.Module):
        return made
    path = out / NETWORK
    if not path.is_file():
        if Path(PAUSE).exists():
            raise Paused
        raise _refusal(
            "the function returned no torch module",
            f"It must return one, or write {NETWORK} to out_dir.",
        )
    path.replace(NETWORK)
    return None


def _train(network: nn.Module, data: dict[str, NDArray[Any]], order: dict[str, Any]) -> None:
    import msgspec

    from meuse.train import loop
    from meuse.train.loop import Arrays
    from meuse.train.options import LoopOptions

    train = Arrays(data["x"], data["y"])
    validation = Arrays(data["validation_x"], data["validation_y"])
    digest = hashlib.sha256(json.dumps(order, sort_keys=True).encode())
    for path in (CODE, DATA):
        digest.update(Path(path).read_bytes())
    options = msgspec.convert(order["loop"], LoopOptions)
    task = order["task"]
    loop.run(_Job(), network, train, validation, task, options, _METRICS[task], digest.hexdigest())


def _check(network: Any, x: NDArray[Any], outputs: int) -> None:
    import torch
    from torch import nn

    if not isinstance(network, nn.Module):
        raise _refusal(f"the function returned a {type(network).__name__}, not a torch module")
    with torch.no_grad():
        scores = network.eval()(torch.from_numpy(x[:2]))
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != (2, outputs):
        shape = list(getattr(scores, "shape", ()))
        raise _refusal(
            f"the network gives {type(scores).__name__} {shape} for 2 rows",
            f"It must give scores [rows, {outputs}].",
        )


def _accuracy(scores: NDArray[Any], y: NDArray[Any]) -> dict[str, float]:
    return {"accuracy": float((scores.argmax(axis=1) == y).mean())}


def _labels(scores: NDArray[Any], y: NDArray[Any]) -> dict[str, float]:
    return {"accuracy": float(((scores > 0) == (y > 0.5)).mean())}


def _r2(scores: NDArray[Any], y: NDArray[Any]) -> dict[str, float]:
    error, spread = scores.reshape(-1) - y, y - y.mean()
    return {"r2": 1 - float((error**2).sum()) / max(float((spread**2).sum()), 1e-12)}


# What selects the epoch; the figures that are kept are taken outside.
_METRICS = {"classification": _accuracy, "multilabel": _labels, "regression": _r2}


class _Job:
    """`core.ports.JobContext`: reports as lines of output."""

    folder = Path()
    checkpoint = Path(CHECKPOINT)

    def progress(
        self,
        fraction: float,
        rate: float | None = None,
        unit: str = "rows",
        eta_s: float | None = None,
        note: str | None = None,
    ) -> None:
        self._send("progress", {"fraction": fraction, "rate": rate})

    def paused(self) -> bool:
        return Path(PAUSE).exists()

    def metrics(self, figures: dict[str, float], **labels: Any) -> None:
        self._send("metrics", {"figures": figures, **labels})

    def log(self, message: str, level: str = "info") -> None:
        self._send("log", {"message": message})

    def _send(self, kind: str, data: dict[str, Any]) -> None:
        sys.stdout.write(PREFIX + json.dumps([kind, data]) + "\n")
        sys.stdout.flush()


def _refusal(message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, message, field="config.code", hint=hint)


if __name__ == "__main__":
    raise SystemExit(inside.main(work))
