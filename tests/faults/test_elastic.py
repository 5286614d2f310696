"""Scaling with the load, from zero and back, while processes are killed; memory comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.load import FEATURES, FULL, Load
from faults.rig import Platform, command_of, until
from meuse.client import Client
from meuse.deploy.footprint import resident

ROW = [[0.5] * FEATURES]
AT_REST = {"min": 0, "max": 1, "zero_after_s": 1}


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    client = platform.client()
    client.deploy("zero", "reference:1", scale=AT_REST)
    client.wait_ready("zero")
    return client


@pytest.fixture(scope="module")
def key(client: Client) -> str:
    return str(client.make_key("caller", ["infer"])["key"])


def spares(platform: Platform) -> dict[str, int]:
    """Spare processes that are ready, by id."""
    sockets = Path(platform.run()["sockets"])
    ready = {path.stem for path in sockets.glob("*.spare")}
    return {name: pid for name, pid in platform.replicas().items() if name in ready}


def rests(client: Client, name: str) -> bool:
    return client.deployment(name)["status"] == "idle"


def at_rest(platform: Platform, client: Client, name: str = "zero") -> int:
    """Wait until nothing runs of it and a spare waits; the spare's process."""
    until(lambda: rests(client, name), 60.0)
    until(lambda: len(platform.replicas()) == 1 and len(spares(platform)) == 1, 60.0)
    return next(iter(spares(platform).values()))


def test_thirty_requests_wake_it(platform: Platform, client: Client, key: str) -> None:
    """At zero replicas requests wait, all are answered by one replica, and it rests again."""
    spare = at_rest(platform, client)
    state = client.deployment("zero")
    assert (state["replicas"], state["scaling"]["desired"]) == (0, 0)
    with Load(platform.port, [key] * 30, "zero") as load:
        until(lambda: load.answered() >= 30)
    assert load.counts().keys() == {(FULL, 200)}, load.counts()
    routed = platform.replicas("default/zero")
    assert list(routed.values()) == [spare], "the spare process became the replica"
    at_rest(platform, client)


def test_killed_and_hung_spares(platform: Platform, client: Client) -> None:
    """A spare that dies is replaced; with one that hangs a request is answered all the same."""
    killed = at_rest(platform, client)
    assert platform.kill(killed)
    hung = until(lambda: next(iter(spares(platform).values()), killed) != killed and
                 next(iter(spares(platform).values()), 0))  # fmt: skip
    with platform.slow(hung):
        assert client.predict(ROW, "zero")["model"] == "reference:1"
    assert hung not in platform.replicas("default/zero").values()
    assert at_rest(platform, client) not in (killed, hung)


def test_control_dies_while_a_request_waits(platform: Platform, client: Client, key: str) -> None:
    """What waits while there is no control is seen by the next one, and answered."""
    at_rest(platform, client)
    answers: list[str] = []

    def ask() -> None:
        with Client(platform.url, key, timeout_s=30) as caller:
            answers.append(caller.predict(ROW, "zero")["model"])

    asking = threading.Thread(target=ask)
    platform.kill(platform.pid("control"))
    asking.start()
    waited = time.monotonic() + 1.0
    platform.keep_down(["control"], lambda: time.monotonic() > waited, 10.0)
    assert not answers
    asking.join(30)
    assert answers == ["reference:1"]
    until(platform.control_answers)
    at_rest(platform, client)


def test_a_restart_of_control_wakes_nobody(platform: Platform, client: Client) -> None:
    """What rests goes on resting when control comes back, and what it was is remembered."""
    at_rest(platform, client)
    pid = platform.pid("control")
    assert platform.kill(pid)
    until(lambda: platform.pid("control") != pid and platform.control_answers())
    state = until(lambda: client.deployment("zero"))
    until(lambda: rests(client, "zero"))
    assert client.deployment("zero")["scaling"]["ready"] == 0
    assert state["generation"] == client.deployment("zero")["observed_generation"]
    assert len(platform.replicas("default/zero")) == 0


def test_from_one_to_three_and_back(platform: Platform, client: Client, key: str) -> None:
    """Under load it grows to max, then shrinks to min, and no request fails on either way."""
    scale = {"min": 1, "max": 3, "target": 0.1, "stable_s": 2, "panic_s": 0.5}
    client.deploy("grows", "reference:1", scale=scale)
    client.wait_ready("grows")
    with Load(platform.port, [key], "grows", pause=0.2) as trickle:
        with Load(platform.port, [key] * 8, "grows") as load:
            until(lambda: client.deployment("grows")["replicas"] == 3, 60.0)
            assert client.deployment("grows")["status"] == "ready"
        until(lambda: client.deployment("grows")["replicas"] == 1, 60.0)
        until(lambda: len(platform.replicas()) - len(spares(platform)) <= 2)
        so_far = trickle.answered()
        until(lambda: trickle.answered() > so_far + 2)
    for some in (load, trickle):
        assert some.counts().keys() == {(FULL, 200)}, some.counts()
    client.undeploy("grows")


def tree_bytes(platform: Platform) -> int:
    """Memory of all processes of the platform, shared pages counted once."""
    return sum(resident(pid) or 0 for pid in platform.pids() if command_of(pid))


@pytest.mark.slow
def test_memory_comes_back(platform: Platform, client: Client) -> None:
    """After 20 loads and unloads all processes together hold about what they held before."""
    names = [f"cycle{i}" for i in range(4)]
    for name in names:
        client.deploy(name, "reference:1", scale=AT_REST)

    def cycle() -> int:
        for name in names:
            assert client.predict(ROW, name)["model"] == "reference:1"
        for name in names:
            until(lambda name=name: rests(client, name), 60.0)
        at_rest(platform, client)
        return tree_bytes(platform)

    before = cycle()
    after = [cycle() for _ in range(5)]
    assert min(after[-2:]) < before + 24 * 1024 * 1024, (before, after)
    for name in names:
        client.undeploy(name)


@pytest.mark.slow
def test_least_recently_used_goes(make_platform: Callable[..., Platform]) -> None:
    """More models than fit: all answer, in turn, and the budget of memory holds."""
    budget = 120 * 1024 * 1024
    platform = make_platform(f"replica_memory_bytes = {budget}\nspare_replicas = 0\n")
    client = platform.client()
    names = [f"small{i}" for i in range(5)]
    for name in names:
        client.deploy(name, "reference:1", scale={"min": 0, "max": 1, "zero_after_s": 600})
    most = 0
    for name in [*names, names[0]]:
        assert client.predict(ROW, name)["model"] == "reference:1"
        running = platform.replicas().values()
        most = max(most, sum(resident(pid) or 0 for pid in running))
        assert len(running) < len(names)
    assert most <= budget
    assert {rests(client, name) for name in names} == {True, False}
    answers: list[str] = []

    def ask(name: str) -> None:
        answers.append(client.predict(ROW, name)["model"])

    asking = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(60)
    assert answers == ["reference:1"] * len(names)
    for name in ("fixed0", "fixed1", "fixed2", "fixed3"):
        client.deploy(name, "reference:1")

    def lacking() -> list[str]:
        states = [client.deployment(f"fixed{i}") for i in range(4)]
        return [s["error"] for s in states if s["status"] == "pending" and s["error"]]

    assert "bytes of memory are missing" in until(lacking, 60.0)[0]
