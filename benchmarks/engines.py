"""What a replica of each engine costs: time from process start to listening, memory, speed.

One replica process at a time, started as the platform starts it, idle but for one request in
flight; medians over rounds that are interleaved, so that a machine whose speed drifts does not
decide. `python benchmarks/engines.py [--rounds 5]`
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import models
from report import write

from meuse.app import commands
from meuse.core.clock import now_ms
from meuse.core.ids import uuid7_bytes
from meuse.core.nouns import (
    Artifact,
    Deployment,
    DeploymentTarget,
    EngineOptions,
    Lineage,
    ModelVersion,
    Scale,
    Scope,
    Signature,
)
from meuse.serve import frames
from meuse.settings import load
from meuse.store.blobs import FolderBlobs

FORMATS = {"onnx": "onnx", "openvino": "onnx", "torch": "safetensors"}
BATCHES = (1, 32)
SECONDS = 1.0


def mlp_weights(folder: Path) -> bytes:
    """The same network as `models.mlp`, as the torch engine takes it."""
    from meuse.train import weights
    from meuse.train.answers import Answers
    from meuse.train.prepare.steps import Preparation
    from meuse.train.recipes.catalog import Mlp
    from meuse.train.recipes.tables import mlp

    config = {"hidden": [256, 128], "dropout": 0.0}
    network, answers = mlp((64,), 10, Mlp((256, 128), 0.0)), Answers("classification", 10)
    columns = [f"x{i}" for i in range(64)]
    preparation, path = Preparation.of_numbers(columns), folder / "weights"
    weights.save(network, "mlp", config, preparation, answers, tuple(range(10)), path)
    return path.read_bytes()


def one_round(engine: str, name: str, model: bytes) -> dict[str, float]:
    """One replica from start to end."""
    with tempfile.TemporaryDirectory(prefix="mb-") as place:
        home = Path(place)
        (home / "model").write_bytes(model)
        settings = load(home, {})
        with (home / "model").open("rb") as file:
            digest, size = FolderBlobs(settings.blobs).put("bench", file)
        artifact = Artifact("model", FORMATS[engine], digest, size)
        lineage = Lineage("", "", "", "", 0, "")
        version = ModelVersion("m", 1, "custom", (artifact,), Signature((), ()), {}, lineage, 0)
        options = EngineOptions(engine, 1)
        targets = (DeploymentTarget("m:1"),)
        spec = Deployment("m", Scope("bench"), 1, targets, Scale(), (), 1, 0, engine=options)
        ours, theirs = os.pipe()
        values = {"sockets": place, "lifeline": ours}
        argv = commands.replica(settings, "r", spec, version)
        command = [part.format(**values) if part.startswith("{") else part for part in argv]
        started = time.monotonic()
        process = subprocess.Popen(command, pass_fds=(ours,))
        os.close(ours)
        try:
            with _connected(home / "r.sock", started + 60) as link:
                figures = {"cold_start_ms": (time.monotonic() - started) * 1000}
                figures["cold_start_cpu_ms"] = _cpu_ms(process.pid)
                time.sleep(0.2)
                figures |= _memory(process.pid)
                for rows in BATCHES:
                    figures[f"us_at_{rows}"] = _speed(link, engine, name, rows)
        finally:
            os.close(theirs)
            process.wait(30)
        return figures


def _connected(path: Path, deadline: float) -> socket.socket:
    while True:
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(str(path))
        except OSError:
            link.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        else:
            return link


def _cpu_ms(pid: int) -> float:
    """What the process has computed so far: other load on the machine does not change it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> dict[str, float]:
    """MiB: resident, and what no other process shares."""
    rows = [row.split() for row in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    kib = {row[0].rstrip(":"): int(row[1]) for row in rows}
    own = kib["Private_Clean"] + kib["Private_Dirty"]
    anonymous = kib["Anonymous"]
    return {"rss_mb": kib["Rss"] / 1024, "own_mb": own / 1024, "anonymous_mb": anonymous / 1024}


def _speed(link: socket.socket, engine: str, name: str, rows: int) -> float:
    """Median microseconds of one request, as the replica reports its computation."""
    inputs = models.example(name, rows)
    if engine == "torch":
        inputs = {"input": inputs["input"]}
    specs = tuple(frames.spec_of(key, value) for key, value in inputs.items())
    decoder, spent = frames.Decoder(), []
    link.settimeout(60)
    end = time.monotonic() + SECONDS
    number = 0
    while number < 3 or (number < 100 and time.monotonic() < end):
        number += 1
        header = frames.Request(number, uuid7_bytes(), now_ms() + 60_000, False, specs)
        link.sendall(b"".join(frames.encode(header, list(inputs.values()))))
        answers: list[Any] = []
        while not answers:
            got = [header for header, _ in decoder.feed(link.recv(1 << 20))]
            answers = [header for header in got if type(header) is frames.Response]
        answer: frames.Response = answers[0]
        if answer.error is not None:
            raise RuntimeError(answer.error.message)
        spent.append(answer.compute_us)
    return float(statistics.median(spent[len(spent) // 4 :]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        cases = {("torch", "mlp"): mlp_weights(Path(folder))}
    for name in models.NAMES:
        for engine in ("onnx", "openvino"):
            cases[engine, name] = models.MODELS[name]()
    found: dict[tuple[str, str], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for (engine, name), model in cases.items():
            found[engine, name].append(one_round(engine, name, model))
    figures = {
        f"{name} on {engine}": {
            key: round(statistics.median(part[key] for part in parts), 1) for key in parts[0]
        }
        for (engine, name), parts in sorted(found.items(), key=lambda item: item[0][::-1])
    }
    for case, row in figures.items():
        print(f"{case:30}", "  ".join(f"{key} {value:g}" for key, value in row.items()))
    print(write("engines", {"rounds": rounds, "cores": 1, "median": figures}))


if __name__ == "__main__":
    main()
