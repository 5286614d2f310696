"""How many threads compute in a real replica process: as many as it was given cores."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from gateway.rig import until
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
from meuse.serve.frames import Decoder, Request
from meuse.settings import load
from meuse.store.blobs import FolderBlobs
from serve import models

TICKS = os.sysconf("SC_CLK_TCK")
WIDE, DEEP = 1024, 8


def wide() -> bytes:
    """x [n, 1024] → y [n, 1024]: much to compute for what passes the socket."""
    names = ["x", *(f"t{i}" for i in range(DEEP - 1)), "y"]
    value = helper.make_tensor_value_info
    random = np.random.default_rng(1)
    return models.model_of(
        [helper.make_node("MatMul", [names[i], f"W{i}"], [names[i + 1]]) for i in range(DEEP)],
        [value("x", TensorProto.FLOAT, ["n", WIDE])],
        [value("y", TensorProto.FLOAT, ["n", WIDE])],
        {f"W{i}": random.normal(size=(WIDE, WIDE)).astype(np.float32) for i in range(DEEP)},
    )


def wide_weights(folder: Path) -> bytes:
    """A network of the same size as safetensors."""
    from meuse.train import weights
    from meuse.train.answers import Answers
    from meuse.train.prepare.steps import Preparation
    from meuse.train.recipes.catalog import Mlp
    from meuse.train.recipes.tables import mlp

    config = {"hidden": [WIDE] * DEEP, "dropout": 0.0}
    network, answers = mlp((WIDE,), 2, Mlp((WIDE,) * DEEP, 0.0)), Answers("classification", 2)
    preparation, path = Preparation.of_numbers([f"x{i}" for i in range(WIDE)]), folder / "w"
    return weights.save(network, "mlp", config, preparation, answers, (0, 1), path).read_bytes()


@contextlib.contextmanager
def replica(engine: str, cores: int) -> Iterator[tuple[int, socket.socket]]:
    """The process that the platform would start, and a connection to it."""
    with tempfile.TemporaryDirectory(prefix="mt-") as place:
        home = Path(place)
        model = wide_weights(home) if engine == "torch" else wide()
        (home / "m").write_bytes(model)
        settings = load(home, {})
        with (home / "m").open("rb") as file:
            digest, size = FolderBlobs(settings.blobs).put("acme", file)
        format = "safetensors" if engine == "torch" else "onnx"
        lineage = Lineage("job", "", "", "", 0, "")
        artifact = Artifact("m", format, digest, size)
        version = ModelVersion("m", 1, "custom", (artifact,), Signature((), ()), {}, lineage, 0)
        options = EngineOptions(engine, cores)
        spec = Deployment(
            "m", Scope("acme"), 1, (DeploymentTarget("m:1"),), Scale(), (), 1, 0, engine=options
        )
        ours, theirs = os.pipe()
        values = {"sockets": place, "lifeline": ours}
        argv = commands.replica(settings, "r1", spec, version)
        command = [part.format(**values) if part.startswith("{") else part for part in argv]
        process = subprocess.Popen(command, pass_fds=(ours,))
        os.close(ours)
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(60)
                # The name is there a moment before somebody listens.
                until(lambda: link.connect_ex(str(home / "r1.sock")) == 0, 60)
                yield process.pid, link
        finally:
            os.close(theirs)  # the lifeline: it leaves
            process.wait(30)


def busy(pid: int) -> dict[int, int]:
    """CPU ticks of every thread."""
    ticks = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            ticks[int(task.name)] = int(fields[11]) + int(fields[12])
    return ticks


def load_with(link: socket.socket, name: str, pid: int, ticks: int) -> None:
    """Batches of 512 rows until the process has spent so much CPU time."""
    decoder, x, number = Decoder(), np.ones((512, WIDE), np.float32), 0
    most = sum(busy(pid).values()) + ticks
    while sum(busy(pid).values()) < most:
        number += 1
        spec = frames.spec_of(name, x)
        header = Request(number, uuid7_bytes(), now_ms() + 60_000, False, (spec,))
        link.sendall(b"".join(frames.encode(header, [x])))
        answered = False
        while not answered:
            for got, _ in decoder.feed(link.recv(1 << 20)):
                answered = getattr(got, "number", None) == number
                assert not answered or got.error is None, got


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two cores are needed to tell")
@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("engine", ["onnx", "openvino", "torch"])
def test_as_many_threads_compute_as_cores_were_given(engine: str, cores: int) -> None:
    """Threads that burn CPU under load, counted in /proc, whatever the machine has."""
    with replica(engine, cores) as (pid, link):
        name = "input" if engine == "torch" else "x"
        load_with(link, name, pid, TICKS // 10)
        before = busy(pid)
        for more in (1, 2, 3):  # on a busy machine one thread may do all of it for a while
            load_with(link, name, pid, more * TICKS)
            spent = {task: ticks - before.get(task, 0) for task, ticks in busy(pid).items()}
            most = 0.15 * sum(spent.values())
            computing = [task for task, ticks in spent.items() if ticks > most]
            if len(computing) == cores:
                break
    assert len(computing) == cores, spent
