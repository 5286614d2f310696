"""deploy.replicas, with real listening sockets and a hand-driven clock"""

import socket
from pathlib import Path
from typing import Any

import pytest

from meuse.deploy.plan import Start
from meuse.deploy.replicas import KEEP_FILES_S, START_S, Replicas
from meuse.serve.page import PageWriter

WHAT = Start("acme/default/digits", "digits:1", "onnx/2")


class Launched:
    """A launcher that keeps a list: adapter of `core.ports.Launcher` without processes."""

    def __init__(self) -> None:
        self.live: dict[str, dict[str, Any]] = {}
        self.killed: list[str] = []

    def start(self, replica: str, argv: list[str], label: dict[str, Any]) -> None:
        self.live[replica] = label

    def kill(self, replica: str) -> None:
        self.killed.append(replica)
        self.stop(replica)

    def label(self, replica: str, label: dict[str, Any]) -> None:
        self.live[replica] = label

    def stop(self, replica: str) -> None:
        self.live.pop(replica, None)

    def pids(self) -> dict[str, int]:
        return {}

    def running(self) -> dict[str, dict[str, Any]]:
        return dict(self.live)


class World:
    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.folder = folder
        self.launched = Launched()
        self.replicas = Replicas(self.launched, folder, lambda: self.now)
        self.listeners: list[socket.socket] = []

    def start(self) -> str:
        return self.replicas.start(WHAT, lambda replica: ["serve", replica])

    def listen(self, replica: str) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / f"{replica}.sock"))
        listener.listen(1)
        self.listeners.append(listener)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory):
    made = World(tmp_path_factory.mktemp("s"))
    yield made
    for listener in made.listeners:
        listener.close()


def test_ready_means_listening(world: World) -> None:
    """A replica is ready once its socket takes a connection, and stays so while it runs."""
    replica = world.start()
    assert [r.ready for r in world.replicas.look()] == [False]
    assert not world.replicas.news()
    world.listen(replica)
    assert world.replicas.news()
    assert [r.ready for r in world.replicas.look()] == [True]
    assert not world.replicas.starting
    world.launched.live.clear()
    assert world.replicas.look() == []


def test_one_that_hangs_is_killed_and_counts_as_dead(world: World) -> None:
    """It is no replica from the moment it is judged; one that is asked to stop dies of nothing."""
    hangs, works = world.start(), world.start()
    pages = {name: PageWriter(world.folder / f"{name}.page", 1) for name in (hangs, works)}
    for name in pages:
        world.listen(name)
    limits = {WHAT.deployment: 30.0}

    def look(*beating: str) -> set[str]:
        world.now += 1.0
        for name in beating:
            pages[name].beat()
        running = world.replicas.look()
        return {r.id for r in world.replicas.kill_hung(running, limits)}

    assert look(hangs, works) == {hangs, works}
    for _ in range(4):
        assert look(works) == {hangs, works}
    until_killed = 0
    while look(works) != {works}:
        until_killed += 1
        assert until_killed < 3
    assert world.launched.killed == [hangs]
    assert look(works) == {works}
    assert world.replicas.died() == {(WHAT.deployment, WHAT.version): 1}
    assert world.launched.killed == [hangs]
    assert world.replicas.kill_hung([], {}) == []
    assert not world.replicas.failures(WHAT.deployment), "it had started well"


def test_labels_tell_what_a_replica_is(world: World) -> None:
    """All that a plan compares is in the label; one from before revisions has none."""
    replica = world.start()
    world.launched.start("r0", [], {"deployment": WHAT.deployment, "version": WHAT.version})
    found = {r.id: Start(r.deployment, r.version, r.revision) for r in world.replicas.look()}
    assert found == {replica: WHAT, "r0": Start(WHAT.deployment, WHAT.version, "")}


def test_a_start_that_fails_is_told_and_waits(world: World) -> None:
    """The reason that the replica wrote is kept; the next start waits longer each time."""
    for count, pause in ((1, 0.5), (2, 1.0), (3, 2.0)):
        replica = world.start()
        world.replicas.look()
        (world.folder / f"{replica}.error").write_text("the blob is damaged")
        world.launched.live.clear()
        world.replicas.look()
        (failure,) = world.replicas.failures(WHAT.deployment)
        assert (failure.count, failure.reason) == (count, "the blob is damaged")
        assert world.replicas.blocked() == {WHAT}
        world.now += pause + 0.01
        assert world.replicas.blocked() == set()
    world.replicas.forget(set())
    assert world.replicas.failures(WHAT.deployment) == []


def test_a_start_that_hangs_is_given_up(world: World) -> None:
    """A replica that does not listen in time is stopped and counted as a failure."""
    world.start()
    world.replicas.look()
    world.now += START_S + 1
    world.replicas.look()
    assert world.launched.live == {}
    assert "not ready after" in world.replicas.failures(WHAT.deployment)[0].reason


def test_a_start_may_be_given_more_time(world: World) -> None:
    """Of a large model; what is running by then is left alone."""
    name = world.replicas.start(WHAT, lambda replica: [replica], patience_s=3 * START_S)
    world.replicas.look()
    world.now += 2 * START_S
    world.replicas.look()
    assert name in world.launched.live
    world.now += 2 * START_S
    world.replicas.look()
    assert world.launched.live == {}


def test_a_start_that_is_called_off_is_no_failure(world: World) -> None:
    """Stopping a replica that was not ready yet counts nothing."""
    replica = world.start()
    world.replicas.look()
    world.replicas.stop(replica)
    world.replicas.look()
    assert world.replicas.failures(WHAT.deployment) == []


def test_files_of_dead_replicas_go_after_a_while(world: World) -> None:
    """Workers may still read the page of a replica that just died; later it is removed."""
    replica = world.start()
    world.listen(replica)
    page = world.folder / f"{replica}.page"
    page.touch()
    world.replicas.look()
    world.launched.live.clear()
    world.replicas.look()
    assert page.exists()
    world.now += KEEP_FILES_S + 1
    world.replicas.look()
    assert list(world.folder.iterdir()) == []


def test_a_ready_replica_that_ends_unasked_has_died(world: World) -> None:
    """Told once, by version; one that was asked to stop, or never was ready, has not."""
    died, stopped, _ = (world.start() for _ in range(3))
    for name in (died, stopped):
        world.listen(name)
    world.replicas.look()
    world.replicas.stop(stopped)
    world.launched.live.clear()
    world.replicas.look()
    assert dict(world.replicas.died()) == {(WHAT.deployment, WHAT.version): 1}
    assert dict(world.replicas.died()) == {}


def test_replicas_of_another_build_are_outdated(tmp_path: Path) -> None:
    """Their label tells the code that started them; without one it is older still."""
    launched = Launched()
    old = Replicas(launched, tmp_path, build="1").start(WHAT, lambda replica: [])
    new = Replicas(launched, tmp_path, build="2").start(WHAT, lambda replica: [])
    launched.live["r0"] = {"deployment": WHAT.deployment, "version": WHAT.version}
    seen = Replicas(launched, tmp_path, build="2").look()
    assert {r.id: r.outdated for r in seen} == {"r0": True, old: True, new: False}


def test_a_replica_that_streams_has_time_to_end(tmp_path: Path) -> None:
    """Its label says how much; whoever is stopped without a word has what all have."""
    world = World(tmp_path)
    replica = world.replicas.start(WHAT, lambda replica: ["serve", replica], grace_s=130.0)
    assert world.launched.live[replica]["grace_s"] == 130.0
    assert "grace_s" not in world.launched.live[world.start()]
