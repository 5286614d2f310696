"""deploy.elastic, over real counter files and a hand-driven clock"""

from __future__ import annotations

from pathlib import Path

import pytest

from meuse.core.nouns import Deployment, DeploymentTarget, Scale, Scope
from meuse.deploy.elastic import Elastic
from meuse.deploy.plan import Replica, Wanted, WantedTarget
from meuse.serve import stats
from meuse.serve.stats import RouteStats, WorkerStats

KEY, NAME = "acme/default/digits", "acme/digits"
RESTS = Scale(min=0, max=4, zero_after_s=30)


def spec(scale: Scale = RESTS, generation: int = 1, name: str = "digits") -> Deployment:
    targets = (DeploymentTarget(f"{name}:1"),)
    return Deployment(name, Scope("acme", "default"), generation, targets, scale, (), 1000, 0)


class World:
    """A folder of counters, and what runs."""

    def __init__(self, folder: Path, most: int = 32, published: dict[str, int] | None = None):
        self.folder = folder
        self.now = 1000.0
        self.epochs = {1, 2}
        self.running: list[Replica] = []
        clock = lambda: self.now  # noqa: E731  both clocks are the same hand
        self.elastic = Elastic(folder, lambda: self.epochs, most, published or {}, clock, clock)

    def count(self, *specs: Deployment) -> dict[str, int]:
        wanted = [
            Wanted(s.key, s.generation, tuple(WantedTarget(t.model, t.weight) for t in s.targets),
                   s.scale.min)
            for s in specs
        ]  # fmt: skip
        return self.elastic.counts({s.key: s for s in specs}, wanted, self.running)

    def run(self, *replicas: str, ready: bool = True) -> None:
        self.running = [Replica(f"r{i}", KEY, v, ready) for i, v in enumerate(replicas)]

    def wrote(self, slot: int, epoch: int, ongoing: int, since_s: float = 0.0) -> None:
        """What a worker writes that has `ongoing` requests since then."""
        now_ms = self.now * 1000.0
        route = RouteStats(ongoing=ongoing, started_ms=ongoing * (now_ms - since_s * 1000.0))
        stats.write(self.folder, WorkerStats(slot, epoch, now_ms, {NAME: route}))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_new_deployment_is_loaded_once(world: World) -> None:
    """With min 0 it runs once, so that its status tells whether it works; then it rests."""
    assert world.count(spec()) == {KEY: 1}
    world.run("digits:1")
    world.now += 31
    assert world.count(spec()) == {KEY: 0}
    scaling = world.elastic.scaling(KEY)
    assert scaling is not None
    assert (scaling.desired, scaling.ready) == (0, 1)
    assert "no request" in scaling.reason
    assert world.count(spec(generation=2)) == {KEY: 1}


def test_a_new_control_leaves_what_rests(tmp_path: Path) -> None:
    """What was published with this generation stays as it is found: at rest, or running."""
    world = World(tmp_path, published={NAME: 1})
    assert world.count(spec()) == {KEY: 0}
    world = World(tmp_path, published={NAME: 1})
    world.run("digits:1", "digits:1", "digits:1")
    assert world.count(spec()) == {KEY: 3}


def test_a_wake_is_obeyed_once(tmp_path: Path) -> None:
    """Told that a request waits, it wants a replica; names that it does not know are nothing."""
    world = World(tmp_path, published={NAME: 1})
    world.count(spec())
    world.elastic.wake("acme/other")
    assert world.elastic.look() is False
    world.elastic.wake(NAME)
    assert world.elastic.look() is True
    assert world.count(spec()) == {KEY: 1}


def test_who_waits_is_seen_without_a_wake(tmp_path: Path) -> None:
    """A request that began to wait while control was away is in the counters."""
    world = World(tmp_path, published={NAME: 1})
    world.wrote(0, 1, ongoing=1)
    assert world.count(spec()) == {KEY: 1}


def test_what_a_dead_worker_left_is_not_ongoing(tmp_path: Path) -> None:
    """The counters of an epoch that does not run any more keep nothing alive."""
    world = World(tmp_path, published={NAME: 1})
    world.wrote(0, 77, ongoing=5)
    assert world.count(spec()) == {KEY: 0}


def test_load_of_all_workers_adds_up(world: World) -> None:
    """The sum over workers decides, from what they wrote and what has gone on since."""
    world.count(spec())
    world.run("digits:1")
    world.count(spec())
    for slot in (0, 1):
        world.wrote(slot, slot + 1, ongoing=0)
    world.elastic.look()
    for _ in range(6):
        world.now += 0.5
        for slot in (0, 1):
            world.wrote(slot, slot + 1, ongoing=12, since_s=world.now - 1000.0)
        world.elastic.look()
    assert world.count(spec()) == {KEY: 3}  # 24 ongoing, 8 for each


def test_unloading(world: World) -> None:
    """Only what may go to zero and is not in use; what serves others is idle for a second first."""
    world.count(spec())
    world.run("digits:1")
    world.count(spec())
    assert not world.elastic.is_idle(KEY)
    world.now += 2
    assert world.elastic.is_idle(KEY)
    assert world.elastic.unload(KEY)
    assert world.count(spec()) == {KEY: 0}
    world.wrote(0, 1, ongoing=1)
    assert world.count(spec()) == {KEY: 1}
    assert not world.elastic.unload(KEY)
    assert not world.elastic.is_idle(KEY)
    assert not world.elastic.unload("acme/default/unknown")


def test_what_is_fixed_is_not_watched(world: World) -> None:
    """Where min is max there is nothing to look at."""
    assert world.count(spec(Scale(2, 2))) == {KEY: 2}
    assert not world.elastic.is_watching
    assert not world.elastic.is_idle(KEY)
    assert world.count() == {}


def test_the_room_holds_over_all(tmp_path: Path) -> None:
    """max_replicas holds over all deployments, and it is told who got less than was wanted."""
    world = World(tmp_path, most=3, published={NAME: 1})
    world.run(*["digits:1"] * 3)
    assert world.count(spec(), spec(Scale(1, 1), name="other")) == {
        KEY: 2,
        "acme/default/other": 1,
    }
    scaling = world.elastic.scaling(KEY)
    assert scaling is not None
    assert "max_replicas" in scaling.reason


def test_a_rollout_keeps_its_capacity(tmp_path: Path) -> None:
    """What leaves takes room from growth, but a new version may be as many as the one before."""
    world = World(tmp_path, most=4, published={NAME: 1})
    world.run(*["digits:0"] * 3)
    world.count(spec())
    for _ in range(8):
        world.now += 0.5
        world.wrote(0, 1, ongoing=32, since_s=world.now - 1000.0)
        world.elastic.look()
    assert world.count(spec()) == {KEY: 3}
    world.run(*["digits:1"] * 3)
    assert world.count(spec()) == {KEY: 4}


def test_targets_share_the_load(world: World) -> None:
    """Two targets of half the weight: each needs half of the replicas."""
    two = (DeploymentTarget("digits:1", 50), DeploymentTarget("digits:2", 50))
    both = Deployment("digits", Scope("acme", "default"), 1, two, Scale(min=1, max=9), (), 1000, 0)
    world.count(both)
    world.run("digits:1", "digits:2")
    world.count(both)
    world.wrote(0, 1, ongoing=0)
    world.elastic.look()
    for _ in range(6):
        world.now += 0.5
        world.wrote(0, 1, ongoing=32, since_s=world.now - 1000.0)
        world.elastic.look()
    assert world.count(both) == {KEY: 2}
