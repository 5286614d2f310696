"""deploy.reconciler over real stores and counters; replicas are sockets that tests open"""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meuse.billing.budgets.told import Told
from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import (
    Artifact,
    Deployment,
    DeploymentTarget,
    Lineage,
    NewVersion,
    Scale,
    Scope,
    Signature,
    TensorSpec,
)
from meuse.deploy.canaries import Canaries
from meuse.deploy.elastic import Elastic
from meuse.deploy.footprint import BASE, Footprints
from meuse.deploy.publisher import Publisher
from meuse.deploy.reconciler import Reconciler
from meuse.deploy.replicas import Replicas
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.database import Database
from meuse.store.deployments import SqlDeployments
from meuse.store.limits import SqlLimits
from meuse.store.registry import SqlRegistry
from meuse.store.rollouts import SqlRollouts

SCOPE = Scope("acme")
RESTS = Scale(min=0, max=3, zero_after_s=600)
MIB = 1024 * 1024


class World:
    """A reconciler that is turned by hand, and a launcher that only keeps a list."""

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder = folder
        self.now = 1000.0
        self.database = Database(f"sqlite:///{folder / 'meuse.db'}")
        self.database.migrate("meuse")
        self.deployments = SqlDeployments(self.database)
        self.registry = SqlRegistry(self.database)
        self.live: dict[str, dict[str, Any]] = {}
        self.listeners: dict[str, socket.socket] = {}
        self.elastic = Elastic(folder, list, 8, {}, lambda: self.now)
        access, plans = SqlAccess(self.database), SqlPlans(self.database)
        self.reconciler = Reconciler(
            deployments=self.deployments,
            registry=self.registry,
            access=access,
            plans=plans,
            limits=Told(SqlLimits(self.database), access, plans, now_ms),
            replicas=Replicas(self, folder),
            elastic=self.elastic,
            canaries=Canaries(SqlRollouts(self.database), folder),
            footprints=Footprints(budget, self.pids, lambda pid: 100 * MIB, lambda: self.now),
            publisher=Publisher(folder / "s.msgpack", folder / "p.sock", dict),
            command=lambda replica, spec, version: [],
            spare_for=lambda spec, version: None,
            wake=threading.Event(),
        )

    def start(self, replica: str, argv: list[str], label: dict[str, Any]) -> None:
        self.live[replica] = label

    def stop(self, replica: str) -> None:
        del self.live[replica]
        if replica in self.listeners:
            self.listeners.pop(replica).close()

    def kill(self, replica: str) -> None:
        self.stop(replica)

    def label(self, replica: str, label: dict[str, Any]) -> None:
        self.live[replica] = label

    def running(self) -> dict[str, dict[str, Any]]:
        return dict(self.live)

    def pids(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.live)}

    def deploy(self, name: str, scale: Scale = RESTS) -> Deployment:
        tensors = (TensorSpec("x", "FP32", (-1, 4)),)
        lineage = Lineage(f"job-{name}", "d:1", "", "", 0, "y")
        artifact = Artifact("model.onnx", "onnx", f"{name:0>64}", 10)
        new = NewVersion(name, "regression", (artifact,), Signature(tensors, tensors), {}, lineage)
        version = self.registry.add_version(SCOPE, new)
        targets = (DeploymentTarget(version.ref),)
        return self.deployments.put(Deployment(name, SCOPE, 0, targets, scale, (), 1000, 0))

    def turns(self, count: int = 3) -> None:
        """Turn; whatever was started listens before the next turn."""
        for _ in range(count):
            self.reconciler.turn()
            for replica in self.live.keys() - self.listeners.keys():
                listener = self.listeners[replica] = socket.socket(socket.AF_UNIX)
                listener.bind(str(self.folder / f"{replica}.sock"))
                listener.listen(1)

    def loaded(self) -> list[str]:
        return sorted(label["deployment"].rpartition("/")[2] for label in self.live.values())


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="meuse-") as name:
        made = World(Path(name), getattr(request, "param", 10_000 * MIB))
        yield made
        for listener in made.listeners.values():
            listener.close()
        made.database.close()


def test_load_and_unload(world: World) -> None:
    """Unload takes what may rest to zero, and load brings it back; what may not says so."""
    rests, stays = world.deploy("rests"), world.deploy("stays", Scale(1, 1))
    world.turns()
    assert world.loaded() == ["rests", "stays"]
    world.reconciler.unload(rests)
    world.turns()
    assert world.loaded() == ["stays"]
    assert world.reconciler.state(rests).status == "idle"
    world.reconciler.load(rests)
    world.turns()
    assert world.loaded() == ["rests", "stays"]
    state = world.reconciler.state(rests)
    assert (state.status, state.scaling and state.scaling.ready) == ("ready", 1)
    with pytest.raises(MeuseError) as refusal:
        world.reconciler.unload(stays)
    assert refusal.value.code is Code.CONFLICT


@pytest.mark.parametrize("world", [250 * MIB], indirect=True)
def test_memory_decides_who_is_loaded(world: World) -> None:
    """The least recently used goes for the next one, and what is measured counts."""
    for name in ("a", "b", "c"):
        world.deploy(name)
        world.turns()
        world.now += 5
    assert world.loaded() == ["a", "b", "c"]  # as guessed: the three fit
    world.turns()  # each is measured, and takes 100 MiB
    assert world.loaded() == ["b", "c"]
    d = world.deploy("d")
    world.turns()
    assert world.loaded() == ["b", "c", "d"]  # as guessed, again
    world.now += 5
    world.turns()
    assert world.loaded() == ["c", "d"]
    world.reconciler.load(world.deployments.get(SCOPE, "a"))
    world.turns(4)
    assert world.loaded() == ["a", "d"]
    assert world.reconciler.state(d).error is None


@pytest.mark.parametrize("world", [2 * BASE], indirect=True)
def test_what_lacks_memory_is_told(world: World) -> None:
    """Where nothing may be unloaded a start waits, and the deployment says what is missing."""
    for name in ("a", "b"):
        made = world.deploy(name, Scale(1, 1))
        world.turns()
    assert world.loaded() == ["a"]
    state = world.reconciler.state(made)
    assert state.status == "pending"
    assert state.error is not None
    assert "bytes of memory are missing" in state.error
    world.deployments.delete(SCOPE, "a")
    world.turns(4)
    assert world.loaded() == ["b"]
    assert world.reconciler.state(made).error is None
