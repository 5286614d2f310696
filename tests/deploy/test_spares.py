"""deploy.spares and app.spare, over real processes where they matter"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meuse.deploy.spares import PING_S, Spares

LABEL = {"deployment": "acme/default/digits", "version": "digits:1"}


class Processes:
    """A launcher of real processes: adapter of `core.ports.Launcher` without a supervisor."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.live: dict[str, subprocess.Popen[bytes]] = {}
        self.labels: dict[str, dict[str, Any]] = {}
        self.life, self.keep = os.pipe()

    def start(self, replica: str, argv: list[str], label: dict[str, Any]) -> None:
        values = {"sockets": self.home, "lifeline": self.life}
        filled = [part.format(**values) if part.startswith("{") else part for part in argv]
        self.live[replica] = subprocess.Popen(filled, pass_fds=[self.life], stderr=subprocess.PIPE)
        self.labels[replica] = label

    def kill(self, replica: str) -> None:
        self.stop(replica)

    def label(self, replica: str, label: dict[str, Any]) -> None:
        self.labels[replica] = label

    def stop(self, replica: str) -> None:
        self.live[replica].send_signal(signal.SIGCONT)
        self.live[replica].terminate()

    def running(self) -> dict[str, dict[str, Any]]:
        return {n: self.labels[n] for n, p in self.live.items() if p.poll() is None}

    def pids(self) -> dict[str, int]:
        return {n: p.pid for n, p in self.live.items() if p.poll() is None}

    def close(self) -> None:
        for process in self.live.values():
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
        os.close(self.life)
        os.close(self.keep)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1000.0
        self.processes = Processes(folder)
        self.spares = Spares(self.processes, folder, 1, self.command, lambda: self.now)

    def command(self, name: str, engine: str) -> list[str]:
        return [
            *(sys.executable, "-m", "meuse.app", "spare", "--home", str(self.folder)),
            *("--sockets", "{sockets}", "--lifeline", "{lifeline}", "--id", name),
            *("--engine", engine, "--cores", "1"),
        ]

    def until(self, condition: Callable[[], Any], seconds: float = 90.0) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)
        return value

    def ready(self, engine: str = "onnx") -> str:
        """The spare that waits, once it does."""
        self.spares.look(self.processes.running())
        self.spares.keep([engine])
        (name,) = self.processes.running()
        self.until((self.folder / f"{name}.spare").exists)
        self.spares.look(self.processes.running())
        return name


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="meuse-") as name:
        made = World(Path(name))
        yield made
        made.processes.close()


def replica(name: str) -> list[str]:
    """A command line for a model that is not there."""
    return [
        *("python", "-m", "meuse.app", "replica", "--home", "/nonexistent"),
        *("--sockets", "{sockets}", "--lifeline", "{lifeline}", "--id", name),
        *("--tenant", "acme", "--version", "digits:1", "--format", "onnx", "--digest", "0" * 64),
        *("--max-rows", "8", "--max-queue", "8", "--objective-ms", "0"),
        *("--engine", "onnx", "--cores", "1"),
    ]


def test_a_spare_becomes_the_replica(world: World) -> None:
    """It takes the command line under its own id and label, and fails as a replica would."""
    name = world.ready()
    assert world.spares.assign("other", replica, LABEL) is None
    assert world.spares.assign("onnx", replica, LABEL) == name
    assert world.processes.labels[name] == LABEL
    error = world.folder / f"{name}.error"
    world.until(error.exists)
    assert world.processes.live[name].wait(10) == 1
    assert not (world.folder / f"{name}.spare").exists()
    assert world.spares.assign("onnx", replica, LABEL) is None


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_every_engine_has_spares(world: World, engine: str) -> None:
    """What its replicas import can be imported without a model."""
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    assert world.spares.assign("onnx", replica, LABEL) is None
    assert world.spares.assign(engine, replica, LABEL) is None
    name = world.ready(engine)
    assert world.spares.assign(engine, replica, LABEL) == name


def test_one_is_kept_of_each_engine_in_use(world: World) -> None:
    """No second one is started; when its engine is used no more, it goes."""
    name = world.ready()
    world.spares.keep(["onnx"])
    assert list(world.processes.running()) == [name]
    world.spares.keep([])
    world.until(lambda: not world.processes.running())


def test_a_killed_spare_is_replaced(world: World) -> None:
    """After kill -9 another one waits."""
    name = world.ready()
    world.processes.live[name].kill()
    world.processes.live[name].wait()
    assert world.ready() != name
    assert not (world.folder / f"{name}.spare").exists()


def test_older_code_is_replaced(world: World) -> None:
    """A spare that an earlier build of the platform started never becomes a replica."""
    name = world.ready()
    world.spares = Spares(world.processes, world.folder, 1, world.command, build="next")
    world.spares.look(world.processes.running())
    assert world.spares.assign("onnx", replica, LABEL) is None
    world.until(lambda: name not in world.processes.running())
    assert world.ready() != name


def test_a_hung_spare_is_found_before_it_is_needed(world: World) -> None:
    """One that is stopped does not answer a ping: it is ended and replaced."""
    name = world.ready()
    os.kill(world.processes.live[name].pid, signal.SIGSTOP)
    world.now += PING_S
    world.spares.look(world.processes.running())
    world.until(lambda: name not in world.processes.running())
    assert world.ready() != name


def test_a_spare_that_cannot_start_is_not_hammered(world: World) -> None:
    """One that ends before it was ready: the next waits, longer each time."""
    world.command = lambda name, engine: [sys.executable, "-c", "raise SystemExit(3)"]  # type: ignore[method-assign]
    world.spares = Spares(world.processes, world.folder, 1, world.command, lambda: world.now)
    for count, pause in ((1, 1.0), (2, 5.0)):
        world.spares.keep(["onnx"])
        assert len(world.processes.live) == count
        world.until(lambda: not world.processes.running())
        world.spares.look(world.processes.running())
        world.spares.keep(["onnx"])
        assert len(world.processes.live) == count
        world.now += pause


def test_what_is_no_message_is_passed_over(world: World) -> None:
    """Garbage, or another role, neither ends a spare nor makes anything of it."""
    name = world.ready()
    for line in (b"\n", b"[]\n", b'{"argv": ["a", "b", "c", "up"]}\n', b"{", b'{"argv": 3}\n'):
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(world.folder / f"{name}.spare"))
            link.sendall(line)
            link.shutdown(socket.SHUT_WR)
            link.makefile("rb").read()
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(world.folder / f"{name}.spare"))
        link.sendall(json.dumps({"ping": True}).encode() + b"\n")
        assert json.loads(link.makefile("rb").readline()) == {"ok": True}
