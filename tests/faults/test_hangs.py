"""What hangs (SIGSTOP, an engine that never returns) is noticed and replaced; nobody pays twice."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest

from faults.load import BROKEN, FULL, Caller, Load
from faults.rig import Platform, until
from faults.test_money import assert_books_agree
from faults.test_serving import callers
from meuse.client import Client
from meuse.deploy.watch import BATCH_S, SILENT_S
from serve import models

CLIENTS = 12
MOST_ROWS = 23


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    client = platform.client()
    client.deploy("pair", "reference:1", scale={"min": 2})
    client.deploy("single", "reference:1")
    client.wait_ready("pair")
    client.wait_ready("single")
    return client


@pytest.fixture(scope="module")
def key(client: Client) -> str:
    return str(client.make_key("caller", ["infer"])["key"])


def whole(platform: Platform, client: Client) -> None:
    for name in ("pair", "single"):
        until(lambda name=name: client.deployment(name)["status"] == "ready", 60.0)
    until(lambda: len(platform.replicas()) == 3)
    for name in ("worker-0", "worker-1"):
        platform.pid(name)


def test_a_short_stop_is_forgiven(platform: Platform, client: Client, key: str) -> None:
    """A replica that goes on within `SILENT_S` is not replaced, serves again, and nothing fails:
    neither where another one answered meanwhile, nor where there was none."""
    pids = {name: next(iter(platform.replicas(f"default/{name}").values())) for name in
            ("pair", "single")}  # fmt: skip
    with (
        Load(platform.port, [key] * 4, "pair", most_rows=4) as pair,
        Load(platform.port, [key] * 4, "single", most_rows=4) as single,
    ):
        until(lambda: min(pair.answered(), single.answered()) > 100)
        for pid in pids.values():
            platform.freeze(pid)
        time.sleep(2.5)
        for pid in pids.values():
            assert platform.thaw(pid)
        so_far = single.answered()
        until(lambda: single.answered() > so_far + 100)
    for load in (pair, single):
        assert load.counts().keys() == {(FULL, 200)}, load.counts()
    waits = sorted(outcome.seconds for outcome in pair.all())
    assert waits[-5] < 1.0, "only those that were under it waited for it"
    for name, pid in pids.items():
        assert pid in platform.replicas(f"default/{name}").values()
    whole(platform, client)


def test_a_stopped_replica_is_replaced(platform: Platform, client: Client, key: str) -> None:
    """It is killed after `SILENT_S`; requests are answered by another one, or by its successor."""
    victims = {name: next(iter(platform.replicas(f"default/{name}").items())) for name in
               ("pair", "single")}  # fmt: skip
    with (
        Load(platform.port, [key] * 4, "pair", most_rows=4) as pair,
        Load(platform.port, [key] * 4, "single", most_rows=4) as single,
    ):
        until(lambda: min(pair.answered(), single.answered()) > 100)
        begun = time.monotonic()
        for _, pid in victims.values():
            platform.freeze(pid)
        until(lambda: all(platform.is_gone(pid) for _, pid in victims.values()))
        assert SILENT_S - 2.0 < time.monotonic() - begun < SILENT_S + 5.0
        so_far = single.answered()
        until(lambda: single.answered() > so_far + 100)
    for load in (pair, single):
        assert load.counts().keys() == {(FULL, 200)}, load.counts()
    waits = sorted(outcome.seconds for outcome in pair.all())
    assert waits[-9] < 1.0, "a stopped replica was given more than what it had"
    assert waits[-1] < SILENT_S - 1.0
    whole(platform, client)
    assert not {name for name, _ in victims.values()} & platform.replicas().keys()
    assert (
        "hangs and is killed: it shows no life"
        in (platform.home / "logs" / "control.log").read_text()
    )


def test_an_engine_that_never_returns(platform: Platform, client: Client, key: str) -> None:
    """Its request has until the deadline; the replica longer, and then it is replaced."""
    file = platform.home.parent / "hangs.onnx"
    file.write_bytes(models.slow())
    client.upload_model("hangs", file)
    # In a loop of its graph this engine hears no cancellation.
    client.deploy("hangs", "hangs:1", timeout_ms=3000, engine={"name": "openvino"})
    client.wait_ready("hangs")
    try:
        victim, pid = next(iter(platform.replicas("default/hangs").items()))
        caller = Caller(platform.port, key, "hangs")
        begun = time.monotonic()
        assert caller.call(data=[[1e9]]).status == 504
        assert 2.5 < time.monotonic() - begun < 6.0
        assert platform.replicas("default/hangs") == {victim: pid}, "its batch still has time"
        until(lambda: platform.is_gone(pid), BATCH_S + 5.0)
        assert time.monotonic() - begun > BATCH_S - 1.0
        until(lambda: caller.call(data=[[1.0]]).status == 200)
        caller.close()
        log = (platform.home / "logs" / "control.log").read_text()
        assert f"{victim} hangs and is killed: a batch takes longer than {BATCH_S:g} s" in log
        assert victim not in platform.replicas()
    finally:
        client.undeploy("hangs")
    whole(platform, client)


def stop_for_a_while(platform: Platform, spared: set[int], seconds: float) -> Counter[str]:
    """Stop one of {replica, worker} for a moment, again and again; how many of each."""
    chance, stopped = random.Random(7), Counter[str]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.3)
        role = chance.choice(("worker", "replica"))
        there = sorted((n, p) for n, p in platform.processes().items() if n.startswith(role))
        pids = [pid for _, pid in there if pid not in spared]
        if pids:
            pid = chance.choice(pids)
            platform.freeze(pid)
            time.sleep(chance.choice((0.05, 0.3, 1.5)))
            platform.thaw(pid)
            stopped[role] += 1
    return stopped


def test_stops_are_metered_once(platform: Platform, client: Client, key: str) -> None:
    """A worker and a replica stop for good, others for a moment: each answer has one record, and
    what worker-1 holds is answered while worker-0 hangs. That one is killed and replaced."""
    client.put_plan("basic", "EUR", [{"meter": "rows", "per": 1000, "amount": "0.50"}])
    client.put_tenant("acme", "basic")
    client.deploy("points", "reference:1", scale={"min": 2}, access={"tenants": ["acme"]})
    made = [client.make_key(f"client-{i}", ["infer"], tenant="acme") for i in range(CLIENTS)]
    client.wait_ready("points")
    keys = [str(one["key"]) for one in made]
    with (
        callers(platform, key, "single") as open_,
        Load(platform.port, keys, "default/points", most_rows=MOST_ROWS) as load,
    ):
        until(lambda: load.answered() > CLIENTS)
        worker = platform.pid("worker-0")
        name, replica = next(iter(platform.replicas("default/points").items()))
        platform.freeze(worker)
        platform.freeze(replica)
        for caller in open_["worker-1"]:
            assert caller.call().status == 200
        stalled: list[str] = []
        held = threading.Thread(target=lambda: stalled.append(open_["worker-0"][0].call().kind))
        held.start()
        stopped = stop_for_a_while(platform, {worker, replica}, 9.0)
        until(lambda: platform.is_gone(worker) and platform.is_gone(replica))
        held.join(10)
        assert stalled == [BROKEN], "its connections end with it, and no sooner"
        assert platform.pid("worker-0") != worker
        so_far = load.answered()
        until(lambda: load.answered() > so_far + 200)
    assert min(stopped.values()) > 0, stopped
    assert len(stopped) == 2, stopped
    counts = load.counts()
    # 503: a request that was under two replicas when they stopped is not tried a third time.
    assert counts.keys() <= {(FULL, 200), (FULL, 503), (BROKEN, 0)}, counts
    assert 0 < counts[BROKEN, 0] <= CLIENTS, "only what the killed worker held is cut"
    assert counts[FULL, 503] <= stopped["replica"], counts
    assert name not in platform.replicas()
    assert "worker-0 was not heard for 10 s: killed" in platform.log.read_text()
    assert platform.stop() == 0  # the ledger reads the rest before it ends
    assert_books_agree(platform, [one["id"] for one in made], load)
