"""The recipe `custom`: code of the user's own trains a network, in the sandbox.

The code is a zip; its entry point `module:function` is one of two:

    build(shape, outputs, config) → torch.nn.Module     the platform's loop trains it, inside
    train(data_dir, out_dir, config)                     trains by itself: `data_dir/data.npz`
        has x, y, validation_x, validation_y; it returns a module, or writes
        `out_dir/network.onnx` (`features` → `scores`)

What comes out is an ONNX graph. Nothing else of the sandbox is believed; the graph's scores
are compared with those that the code's own module gave.

A run that was killed or paused goes on: the platform's loop from its checkpoint, with the same
weights in the end; code that trains by itself is called again and finds in `out_dir` what it
had left there. To pause, the loop keeps a checkpoint; code of its own is ended after the grace
period of jobs, or sooner: when it prints a line, a file `pause` in `data_dir` tells it that it
may return without a network.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.external_data_helper import _get_all_tensors, uses_external_data

from meuse.core.errors import Code, MeuseError
from meuse.core.ports import JobContext, Paused
from meuse.runtime import sandbox
from meuse.runtime.sandbox.call import call
from meuse.train.arrays import TrainArrays
from meuse.train.custom_inside import CHECKPOINT, CODE, DATA, NETWORK, OUT, PAUSE, PREFIX, SAMPLES
from meuse.train.options import LoopOptions
from meuse.train.recipes.code import Custom

FOLDER = "checkpoint-custom"
"""Of the sandbox in the job's: kept as checkpoints are."""
TOLERANCE = 1e-4
MAX_NETWORK = 2 << 30
MAX_SAMPLES = 64 << 20
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the operator allows: the least tier, the longest run."""

    tier: int = 1
    wall_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Network:
    """A trained network as its graph; `tier` is the sandbox that made it."""

    model: bytes
    tier: int

    @property
    def notes(self) -> dict[str, Any]:
        """For the version's report."""
        return {"sandbox_tier": self.tier}

    def predict(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Scores [n, outputs]."""
        scores: NDArray[np.float32]
        (scores,) = _session(self.model).run(["scores"], {"features": features})
        return scores

    def graph(self) -> onnx.ModelProto:
        return onnx.load_model_from_string(self.model)

    def save(self, path: Path) -> Path:
        path.write_bytes(self.model)
        return path


def fit(
    job: JobContext,
    arrays: TrainArrays,
    config: Custom,
    *,
    code: Path,
    loop: LoopOptions,
    allowed: Allowed,
) -> Network:
    """Train by the zip at `code`. `loop` are the loop's options (for `build`).

    Raises `invalid_data` (field `config.code`) when the code fails or breaks a limit, with
    what it did; `unavailable` when this machine has no sandbox that is good enough; `Paused`.
    """
    found = sandbox.survey()
    job.log(f"custom code {config.entry} in the sandbox, {found.text}")
    folder = _emptied(job.folder / FOLDER)
    shutil.copyfile(code, folder / CODE)
    data = {name: getattr(arrays, name) for name in ("x", "y", "validation_x", "validation_y")}
    np.savez(folder / DATA, **data)
    limits = sandbox.Limits(
        wall_s=min(config.wall_s, allowed.wall_s),
        cpu_s=int(min(config.wall_s, allowed.wall_s) * (os.cpu_count() or 1)) + 60,
        memory_bytes=config.memory_mib * _MIB,
        processes=config.processes,
    )
    order = sandbox.Order(
        "meuse.train.custom_inside", folder, environment=_environment(), limits=limits
    )
    payload = {
        "entry": config.entry,
        "options": config.options,
        "shape": list(arrays.x.shape[1:]),
        "outputs": arrays.outputs,
        "task": arrays.task,
        "loop": msgspec.to_builtins(loop),
    }
    try:
        outcome, tier = call(
            order, payload, what="the custom code", field="config.code", least=allowed.tier,
            listener=_listener(job, folder / PAUSE),
        )  # fmt: skip
        if outcome.get("paused") is True and job.paused():
            raise Paused
        model = _network(folder, arrays)
    except MeuseError as error:
        if error.code is Code.INVALID_DATA:
            error = MeuseError(
                Code.INVALID_DATA, error.message, field="config.code", hint=error.hint
            )
        raise error from None
    finally:
        with contextlib.suppress(OSError):  # foreign code may have put a folder in its place
            (folder / DATA).unlink()
    return Network(model, tier)


def _emptied(folder: Path) -> Path:
    """The folder with what an attempt before may go on from, and nothing else of its making:
    what is written into it from outside must not follow a link that foreign code has left."""
    folder.mkdir(exist_ok=True, mode=0o700)
    for path in folder.iterdir():
        if path.name in (CHECKPOINT, OUT):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return folder


def _environment() -> dict[str, str]:
    threads = os.environ.get("OMP_NUM_THREADS") or str(min(16, len(os.sched_getaffinity(0))))
    return {"OMP_NUM_THREADS": threads}


def _listener(job: JobContext, pause: Path) -> Callable[[str], None]:
    """Reports of the loop as the job's own; any other line goes to its log. The loop reports
    twice a second: so soon it sees that it shall pause."""

    def hear(line: str) -> None:
        if job.paused():
            with contextlib.suppress(FileExistsError):  # opened so, no link is followed
                os.close(os.open(pause, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        if not line.startswith(PREFIX):
            job.log(line)
            return
        try:
            kind, data = json.loads(line[len(PREFIX) :])
            if kind == "progress":
                job.progress(float(data["fraction"]) * 0.99)
            elif kind == "metrics":
                figures = {str(k): float(v) for k, v in data["figures"].items()}
                job.metrics(figures, epoch=int(data.get("epoch", 0)))
            elif kind == "log":
                job.log(str(data["message"]), level="info")
        except (ValueError, KeyError, TypeError, AttributeError):
            job.log(line)

    return hear


def _network(folder: Path, arrays: TrainArrays) -> bytes:
    """The graph, when it is one: right borders, no files, the scores that the module gave."""
    try:
        model = sandbox.take(folder, NETWORK, MAX_NETWORK)
        packed = sandbox.take(folder, SAMPLES, MAX_SAMPLES)
    except sandbox.FileRefusedError as error:
        raise _refusal(f"the custom code left no network: {error}") from None
    if model is None:
        raise _refusal("the custom code left no network")
    try:
        proto = onnx.load_model_from_string(model)
        outside = any(uses_external_data(tensor) for tensor in _get_all_tensors(proto))
    except Exception as error:  # of protobuf, which has none of its own in common
        raise _refusal(f"the network is no ONNX file: {error}") from None
    names = ([i.name for i in proto.graph.input], [o.name for o in proto.graph.output])
    if outside or names != (["features"], ["scores"]):
        raise _refusal(
            f"the network takes {names[0]} and gives {names[1]}",
            "It must be one file that takes `features` and gives `scores`.",
        )
    rows = arrays.validation_x[:200]
    try:
        scores = _session(model).run(["scores"], {"features": rows})[0]
    except Exception as error:  # onnxruntime's errors share no base class
        raise _refusal(f"the network does not run: {str(error)[:500]}") from None
    if scores.shape != (len(rows), arrays.outputs) or not np.isfinite(scores).all():
        raise _refusal(
            f"the network gives {list(scores.shape)} scores for {len(rows)} rows, not all finite",
            f"It must give {arrays.outputs} finite scores a row.",
        )
    if packed is not None:
        _compare(packed, scores)
    return model


def _compare(packed: bytes, scores: NDArray[Any]) -> None:
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as file:
            wanted = np.asarray(file["scores"], np.float64)
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise _refusal(f"the samples cannot be read: {error}") from None
    if wanted.shape != scores.shape:
        raise _refusal(
            f"the module gives scores {list(wanted.shape)}, its graph {list(scores.shape)}"
        )
    difference = float((np.abs(scores - wanted) / np.maximum(1, np.abs(wanted))).max())
    if not difference <= TOLERANCE:
        raise _refusal(f"the exported graph differs from the module by {difference:.3g}")


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # A path that is none: the graph may not name files of ours.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", "/dev/null/external-data"
    )
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _refusal(message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, message, field="config.code", hint=hint)
