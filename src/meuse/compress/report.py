"""What compression changed, measured in the serving engine on this machine.

Knows engines through their port; knows no method and no limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Engine

Load = Callable[[bytes], Engine]
"""From the bytes of a model file to an engine that runs it."""

_ROUNDS = 40
_CALLS = {1: 50, 32: 10}  # calls per model and round, by batch size
_MAX_SECONDS = 5.0
_WARM_UP = 20


def measure(load: Load, before: bytes, after: bytes, rows: NDArray[np.float32]) -> dict[str, Any]:
    """{"before": {…}, "after": {…}} with `bytes`, `p50_ms`, `p95_ms` and `p50_ms_batch32`.

    Latencies are of calls to the engine, on rows [n, f] (repeated as needed), 2,000 calls
    at batch 1 and 400 at batch 32 each, fewer when a batch size takes more than 5 s. The two
    models take turns, 50 or 10 calls at a time, so that a busy moment hits both.
    """
    models = {"before": before, "after": after}
    engines = {name: load(model) for name, model in models.items()}
    single = _latencies(engines, rows, 1)
    batch = _latencies(engines, rows, 32)
    return {
        name: {
            "bytes": len(model),
            "p50_ms": round(float(np.percentile(single[name], 50)), 5),
            "p95_ms": round(float(np.percentile(single[name], 95)), 5),
            "p50_ms_batch32": round(float(np.percentile(batch[name], 50)), 5),
        }
        for name, model in models.items()
    }


def outputs_of(engine: Engine, rows: NDArray[np.float32], task: str) -> NDArray[np.float64]:
    """What metrics take, for raw rows [n, f]: class scores [n, k] or values [n].

    Class scores are log probabilities, which are logits up to a constant per row. Raises
    `invalid_data` (field `model`) when the model lacks the output that the task needs.
    """
    wanted = "probabilities" if task == "classification" else "value"
    names = [output.name for output in engine.signature.outputs]
    if wanted not in names:
        raise MeuseError(
            Code.INVALID_DATA,
            f"the model has no output {wanted!r}, which {task} needs",
            field="model",
            hint=f"Its outputs are: {', '.join(names)}.",
        )
    key = engine.signature.inputs[0].name
    parts = [
        engine.run({key: rows[start : start + 1024]})[wanted] for start in range(0, len(rows), 1024)
    ]
    found: NDArray[np.float64] = np.concatenate(parts).astype(np.float64)
    return np.log(np.maximum(found, 1e-45)) if task == "classification" else found


def _latencies(
    engines: dict[str, Engine], rows: NDArray[np.float32], batch: int
) -> dict[str, list[float]]:
    """Milliseconds of every call, by model."""
    feeds = {name: _feeds(engine, rows, batch) for name, engine in engines.items()}
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for name, engine in engines.items():
        for call in range(_WARM_UP):
            engine.run(feeds[name][call % len(feeds[name])])
    deadline = time.monotonic() + _MAX_SECONDS
    for turn in range(_ROUNDS):
        for name, engine in engines.items():
            given = feeds[name]
            for call in range(_CALLS[batch]):
                feed = given[(turn + call) % len(given)]
                start = time.perf_counter_ns()
                engine.run(feed)
                taken[name].append((time.perf_counter_ns() - start) / 1e6)
        if time.monotonic() > deadline:
            break
    return taken


def _feeds(
    engine: Engine, rows: NDArray[np.float32], batch: int
) -> list[dict[str, NDArray[np.float32]]]:
    """Up to 16 different inputs of `batch` rows each."""
    key = engine.signature.inputs[0].name
    repeats = -(-16 * batch // len(rows))
    many = np.tile(rows, (repeats, 1))
    return [{key: many[start * batch : (start + 1) * batch].copy()} for start in range(16)]
