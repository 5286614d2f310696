"""What compression changed: both models measured, and the report as one JSON document.

The schema stands in docs/compression.md. Knows engines through their port and files as bytes;
knows no method and decides nothing but what the sentences of `claims` say.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from meuse.compress import counts, latency, macs, memory
from meuse.compress.answers import Rows
from meuse.compress.artifact import Artifact, Load
from meuse.compress.claims import claims
from meuse.compress.gate import Scored, Verdict
from meuse.compress.latency import Times
from meuse.compress.spec import Goal
from meuse.core.errors import MeuseError
from meuse.serve import packed

JSON = dict[str, Any]

SCHEMA = "meuse.compression"
FORMAT = 2
"""Of the document; it rises when a field changes its meaning. Before 2, `memory_bytes` was of
batches of 1 and 32 together."""
MAX_LAYERS = 200
"""Most layers that are listed; the largest are kept."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """One step as it was done: figures on validation of what it made, its bytes as a file, its
    seconds. `drop` is from the parent; `gate` what the step allowed, None without one; `lost`
    are sentences on zeros and shared values that it undid."""

    method: str
    config: JSON
    metric: float | None
    drop: float | None
    bytes: int | None
    seconds: float | None
    gate: float | None = None
    lost: Sequence[str] = ()


def onnx_of(file: Artifact) -> bytes | None:
    """The graph of an ONNX file, also of a packed one."""
    if file.format == "packed":
        return packed.unpack(file.data)
    return file.data if file.format == "onnx" else None


def coded_bytes(file: Artifact) -> int | None:
    """As `pack` would make it; of a packed file its own size."""
    if file.format == "packed":
        return len(file.data)
    return len(packed.pack(file.data)) if file.format == "onnx" else None


def measure(
    load: Load,
    before: Artifact,
    after: Artifact,
    rows: Rows,
    *,
    log: Callable[[str], None],
    source: bytes | None = None,
    max_seconds: float = 5.0,
) -> JSON:
    """{before: {…}, after: {…}, speed: {"1": {…}, "32": {…}}}: size, counts, latency, memory.

    `rows` are raw inputs, at least one; latency is measured in turns (`latency.in_turns`, at
    most about `max_seconds` per batch size), memory in a fresh process each. `source` is the
    ONNX graph that `after` was made of, which is counted where the file holds none. `log` hears why
    memory was not measured.
    """
    files = {"before": before, "after": after}
    sides = {"before": counted(before, rows), "after": counted(after, rows, source)}
    engines = {name: load(file) for name, file in files.items()}
    speed: JSON = {}
    for batch in latency.BATCHES:
        taken = latency.in_turns(engines, rows, batch, max_seconds=max_seconds)
        for name, times in taken.items():
            sides[name] |= _percentiles(times, batch)
        speed[str(batch)] = asdict(latency.compare(taken["before"], taken["after"]))
    del engines
    for name, file in files.items():
        sides[name] |= _memory(file, rows, name, log)
    return {**sides, "speed": speed}


def counted(file: Artifact, rows: Rows, source: bytes | None = None) -> JSON:
    """What can be said of a file without running it in turns: bytes and counts.

    Where the counts are those of `source`, stored values and their bits are left open: the step
    that left ONNX may have rounded them.
    """
    found: JSON = {
        "format": file.format, "bytes": len(file.data), "raw_bytes": None,
        "coded_bytes": coded_bytes(file), "counted_in": None,
        "parameters": None, "nonzeros": None, "layers": [], "macs": None, "uncounted": {},
    }  # fmt: skip
    own = onnx_of(file)
    model = source if own is None else own
    if model is None:
        return found
    held = counts.count(model)
    work = macs.count(model, {name: value[:1] for name, value in rows.items()})
    largest = sorted(held.layers, key=lambda layer: -layer.values)[:MAX_LAYERS]
    layers = [asdict(layer) for layer in held.layers if layer in largest]
    if own is None:
        layers = [{**layer, "distinct": None, "bits": None} for layer in layers]
    return found | {
        "counted_in": "source" if own is None else "file",
        "parameters": held.parameters,
        "raw_bytes": 4 * held.parameters,
        "nonzeros": held.nonzeros,
        "layers": layers,
        "macs": work.macs,
        "uncounted": work.unknown,
    }


def document(
    measured: JSON,
    *,
    parent: str,
    task: str,
    steps: Sequence[StepDone],
    goal: Goal,
    before: Scored,
    after: Scored,
    verdict: Verdict,
    validation_rows: int,
    sensitivity: Sequence[Mapping[str, Any]] = (),
) -> JSON:
    """The report. `measured` is what `measure` gave; `before` and `after` are the primary
    figure on the test rows."""
    report = {
        "schema": SCHEMA,
        "format": FORMAT,
        "parent": parent,
        "task": task,
        "method": "+".join(step.method for step in steps),
        "metric_name": before.metric,
        "rows": {"test": before.rows, "validation": validation_rows},
        **measured,
        "drop": verdict.drop,
        "interval": None if verdict.interval is None else list(verdict.interval),
        "goal": asdict(goal),
        "verdict": {"passed": verdict.passed, "reason": verdict.reason, "field": verdict.field},
        "steps": [asdict(step) for step in steps],
        "sensitivity": [dict(row) for row in sensitivity],
        "machine": machine(),
    }
    for side, scored in (("before", before), ("after", after)):
        interval = None if scored.interval is None else list(scored.interval)
        value = scored.value if np.isfinite(scored.value) else None
        report[side] = {**report[side], "metric": value, "metric_interval": interval}
    return {**report, "claims": claims(report)}


def refused_early(
    *,
    parent: str,
    task: str,
    steps: Sequence[StepDone],
    goal: Goal,
    before: Scored,
    verdict: Verdict,
) -> JSON:
    """The report of a job that a step's own gate ended: `before` is on validation, and nothing
    of the result was measured."""
    return {
        "schema": SCHEMA,
        "format": FORMAT,
        "parent": parent,
        "task": task,
        "method": "+".join(step.method for step in steps),
        "metric_name": before.metric,
        "rows": {"validation": before.rows},
        "drop": verdict.drop,
        "interval": None if verdict.interval is None else list(verdict.interval),
        "goal": asdict(goal),
        "verdict": {"passed": False, "reason": verdict.reason, "field": verdict.field},
        "steps": [asdict(step) for step in steps],
    }


def machine() -> JSON:
    """What the latencies were measured on."""
    names = {"onnxruntime", "openvino"}
    packages = {}
    for name in sorted(names):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0))
    return {"processor": _processor(), "cores": cores, "threads": 1, "packages": packages}


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _memory(file: Artifact, rows: Rows, name: str, log: Callable[[str], None]) -> JSON:
    found: dict[int, int] = {}
    try:
        found = memory.peaks(file.format, file.data, rows)
    except MeuseError as error:
        log(f"{name} compression, {error.message}")
    return {f"memory_bytes{_tail(batch)}": found.get(batch) for batch in latency.BATCHES}


def _tail(batch: int) -> str:
    return "" if batch == 1 else f"_batch{batch}"


def _percentiles(times: Times, batch: int) -> JSON:
    tail = _tail(batch)
    return {f"p50_ms{tail}": times.percentile(50), f"p95_ms{tail}": times.percentile(95)}
