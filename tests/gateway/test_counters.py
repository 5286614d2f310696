"""gateway.counters and gateway.statistics"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.gateway import counters, metrics, statistics
from meuse.gateway.counters import Counters
from meuse.gateway.link import Answer
from meuse.serve import stats
from meuse.serve.snapshot import DeploymentEntry, ShadowEntry, Snapshot, TargetEntry


def snapshot(**versions: str) -> Snapshot:
    """acme's deployments, each of one version; "model:1/model:2" has a shadow."""
    deployments = {}
    for name, version in versions.items():
        live, _, shadow = version.partition("/")
        deployments[f"acme/{name}"] = DeploymentEntry(
            tenant="acme", project="default", name=name, generation=1, access=frozenset(),
            timeout_ms=1000, targets=(_target(live),),
            shadow=ShadowEntry(_target(shadow), 10) if shadow else None,
        )  # fmt: skip
    return Snapshot(1, deployments=deployments)


def _target(version: str) -> TargetEntry:
    return TargetEntry(version=version, weight=100, inputs=(), outputs=(), replicas=())


class Time:
    """The clock that `counters` reads, in ms."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ms = 1e12
        monkeypatch.setattr(counters, "clock_ms", lambda: self.ms)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def served(made: Counters, snapshot: Snapshot) -> None:
    """What a worker does with a snapshot."""
    for name, deployment in snapshot.deployments.items():
        for target in deployment.targets:
            made.target(name, target.version)
        if deployment.shadow is not None:
            made.target(name, deployment.shadow.target.version)
    made.follow(snapshot)


def shown(made: Counters, at_ms: float) -> dict[str, frozenset[str]]:
    return metrics.shown(made.slots(), made.stats.slot, at_ms - metrics.SHOWN_S * 1000)


def test_a_refusal_is_counted_once(tmp_path: Path) -> None:
    """By the first who knows of it; whoever handles the error further up does not again."""
    made = Counters(tmp_path, 0, 1)
    route = made.route("acme/m")
    error = MeuseError(Code.OVERLOADED, "full")
    made.refused(error, route)
    made.refused(error)
    made.refused(MeuseError(Code.OVERLOADED, "full"))
    assert (route.refused, made.stats.refused) == ({"overloaded": 1}, {"overloaded": 1})
    made.write()
    assert stats.read_all(tmp_path)[0].refused == {"overloaded": 1}


def test_what_left_is_shown_then_kept_then_dropped(tmp_path: Path, clock: Time) -> None:
    """Versions and deployments alike, shadows too; one that returns goes on where it was."""
    made = Counters(tmp_path, 0, 1)
    served(made, snapshot(m="m:1/m:2", n="n:1"))
    made.target("acme/m", "m:1").ok = 5
    served(made, snapshot(m="m:2"))
    everything = {"acme/m": {"m:1", "m:2"}, "acme/n": {"n:1"}}
    left = clock.ms
    assert shown(made, left + metrics.SHOWN_S * 1000 - 1) == everything
    assert shown(made, left + metrics.SHOWN_S * 1000) == {"acme/m": {"m:2"}}
    clock.ms = left + counters.KEPT_S * 1000 - 1
    made.forget()
    assert {name: set(r.targets) for name, r in made.stats.routes.items()} == everything
    served(made, snapshot(m="m:1"))
    assert shown(made, clock.ms)["acme/m"] == {"m:1", "m:2"}
    assert made.target("acme/m", "m:1").ok == 5
    clock.ms += counters.KEPT_S * 1000
    made.forget()
    assert {name: set(r.targets) for name, r in made.stats.routes.items()} == {"acme/m": {"m:1"}}


def test_nothing_is_dropped_while_requests_are_ongoing(tmp_path: Path, clock: Time) -> None:
    """Their end is counted where they began."""
    made = Counters(tmp_path, 0, 1)
    served(made, snapshot(m="m:1"))
    route, target = made.route("acme/m"), made.target("acme/m", "m:1")
    began = made.begin(route)
    served(made, snapshot())
    clock.ms += counters.KEPT_S * 1000
    made.forget()
    made.end(route, target, began, 1, None, None)
    assert made.stats.routes["acme/m"].targets["m:1"].ok == 1
    made.forget()
    assert made.stats.routes == {}


def test_a_successor_does_not_show_again_what_left_before_it(tmp_path: Path, clock: Time) -> None:
    """It cannot know when that was: not after the last word of the worker before."""
    made = Counters(tmp_path, 0, 1)
    served(made, snapshot(m="m:1", n="n:1"))
    made.write()
    clock.ms += 3600_000
    after = Counters(tmp_path, 0, 2)
    served(after, snapshot(m="m:1"))
    assert shown(after, clock.ms) == {"acme/m": {"m:1"}}
    served(after, snapshot())
    assert shown(after, clock.ms) == {"acme/m": {"m:1"}}  # that one left now


def test_workers_show_the_same_though_they_let_go_at_different_times(
    tmp_path: Path, clock: Time
) -> None:
    """The last of them to see something leave says until when it is shown."""
    one, two = Counters(tmp_path, 0, 1), Counters(tmp_path, 1, 1)
    for made in (one, two):
        served(made, snapshot(m="m:1"))
    served(one, snapshot())
    clock.ms += 1000
    served(two, snapshot())
    for made in (one, two):
        made.write()
    for at_ms, wanted in ((999, {"acme/m": {"m:1"}}), (1000, {})):
        end = clock.ms - 1000 + metrics.SHOWN_S * 1000 + at_ms
        assert [shown(made, end) for made in (one, two)] == [wanted, wanted]


def test_an_idle_worker_still_says_that_it_lives(tmp_path: Path, clock: Time) -> None:
    """Its file is written now and then; what is of the moment in an old file is not believed."""
    made = Counters(tmp_path, 0, 1)
    looked: list[Any] = []
    made.look = looked.append

    async def keep() -> None:
        task = asyncio.create_task(made.keep())
        for step_ms in (0, 100, stats.HEARTBEAT_S * 1000):
            clock.ms += step_ms
            await asyncio.sleep(counters.WRITE_S * 1.5)
        task.cancel()

    asyncio.run(keep())
    assert looked == [made.stats.vitals] * 2
    (written,) = stats.read_all(tmp_path)
    assert written.at_ms == clock.ms
    assert written.is_live(clock.ms + 2 * stats.HEARTBEAT_S * 1000)
    assert not written.is_live(clock.ms + 3 * stats.HEARTBEAT_S * 1000)


def test_a_disk_that_is_busy_holds_no_request_up(
    tmp_path: Path, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop turns while the file is replaced, and what a scrape wrote meanwhile stays."""
    made = Counters(tmp_path, 0, 1)
    replace, entered, free = stats.replace, threading.Event(), threading.Event()

    def slow(folder: Path, slot: int, encoded: bytes) -> None:
        entered.set()
        assert free.wait(10)
        replace(folder, slot, encoded)

    monkeypatch.setattr(stats, "replace", slow)

    async def keep() -> None:
        task = asyncio.create_task(made.keep())
        assert await asyncio.to_thread(entered.wait, 10)  # never, were it the loop that waits
        made.route("acme/m").cache_hits = 1
        later = made._looked()
        free.set()
        made._store(*later)
        made._store(later[0] - 1, b"overtaken")
        task.cancel()

    asyncio.run(keep())
    (written,) = stats.read_all(tmp_path)
    assert written.routes["acme/m"].cache_hits == 1


def test_statistics_sum_over_workers_and_versions(tmp_path: Path) -> None:
    """Of one version or of all, with durations and batches as the replicas told them."""
    one, two = Counters(tmp_path, 0, 1), Counters(tmp_path, 1, 1)
    for made, version, rows in ((one, "m:1", 3), (two, "m:1", 4), (two, "m:2", 5)):
        route, target = made.route("acme/m"), made.target("acme/m", version)
        answer = Answer([], rows, compute_us=2000, queue_us=500, batch_rows=8)
        made.end(route, target, made.begin(route), rows, answer, None)
        made.end(route, target, made.begin(route), 0, None, Code.UNAVAILABLE)
    two.route("acme/m").cache_hits = 7
    two.write()
    first = statistics.of_target(one.slots(), "acme/m", "m:1")
    assert (first.ok, first.failed, first.rows) == (2, 2, 7)
    assert (first.request.count, first.queue.count, first.batches.count) == (4, 2, 2)
    assert (first.queue.sum, first.compute.sum, first.batches.sum) == (1.0, 4.0, 16.0)
    assert first.last_ms > 0
    whole = statistics.of_target(one.slots(), "acme/m", None)
    assert (whole.ok, whole.rows, whole.cache_hits) == (3, 12, 7)
    one.target("acme/m", "m:1").request.sum, one.target("acme/m", "m:1").failed_ms = 12.5, 2.5
    (entry,) = statistics.described("m", [("1", statistics.of_target([one.stats], "acme/m", None))])
    assert (entry["version"], entry["inference_count"], entry["execution_count"]) == ("1", 3, 1)
    assert entry["inference_stats"]["success"] == {"count": 1, "ns": 10_000_000}
    assert entry["inference_stats"]["fail"] == {"count": 1, "ns": 2_500_000}
    assert entry["inference_stats"]["queue"] == {"count": 1, "ns": 500_000}
    nothing = statistics.of_target(one.slots(), "acme/other", None)
    assert (nothing.ok, nothing.last_ms, nothing.request.count) == (0, 0, 0)
