"""Serving under kill -9: the data plane outlives control, ledger, replicas and workers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.load import BROKEN, FULL, Caller, Load
from faults.rig import Platform, until
from meuse.client import Client
from meuse.core.errors import Code, MeuseError

WORKERS = ("worker-0", "worker-1")


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


def owner(port: int, platform: Platform, local_port: int) -> str:
    """The worker that holds the other end of a connection, from the kernel's tables."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        here, there = (int(part.rpartition(":")[2], 16) for part in columns[1:3])
        if (here, there) == (port, local_port):
            wanted = f"socket:[{columns[9]}]"
            for name in WORKERS:
                for entry in Path(f"/proc/{platform.pid(name)}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        if os.readlink(entry) == wanted:
                            return name
    raise AssertionError("no worker holds this connection")


@contextlib.contextmanager
def callers(platform: Platform, key: str, model: str) -> Iterator[dict[str, list[Caller]]]:
    """Open connections by worker, at least two on each."""
    port = platform.port
    made: dict[str, list[Caller]] = {name: [] for name in WORKERS}
    everyone: list[Caller] = []
    try:
        while min(len(some) for some in made.values()) < 2:
            assert len(everyone) < 200, "one worker takes every connection"
            everyone.append(Caller(port, key, model))
            assert everyone[-1].call().status == 200
            made[owner(port, platform, everyone[-1].local_port())].append(everyone[-1])
        yield made
    finally:
        for caller in everyone:
            caller.close()


def whole(platform: Platform, client: Client) -> None:
    """Everything is back: the claim that a fault leaves the platform as it was."""
    until(platform.control_answers, 60.0)
    for name in ("pair", "single"):
        until(lambda name=name: client.deployment(name)["status"] == "ready")
        assert client.deployment(name)["error"] is None
    until(lambda: len(platform.replicas()) == 3)
    for name in ("control", "ledger", *WORKERS):
        platform.pid(name)


def test_first_start(platform: Platform, client: Client) -> None:
    """A deployment starts as many replicas as it asks for, and not one more."""
    whole(platform, client)
    assert platform.log.read_text().count("replica") == 0  # none had to end again


@pytest.mark.parametrize(("model", "seconds"), [("pair", 5.0), ("single", 10.0)])
def test_killed_replica(
    platform: Platform, client: Client, key: str, model: str, seconds: float
) -> None:
    """A replica that is killed under load is replaced, and no request fails for it."""
    victim, pid = next(iter(platform.replicas(f"default/{model}").items()))
    with Load(platform.port, [key] * 8, model, most_rows=4) as load:
        until(lambda: load.answered() > 200)
        with callers(platform, key, model):  # both workers route to it
            assert platform.kill(pid)
        so_far = load.answered()
        until(lambda: load.answered() > so_far + 200, seconds)
    assert load.counts().keys() == {(FULL, 200)}, load.counts()
    assert max(outcome.seconds for outcome in load.all()) < seconds
    whole(platform, client)
    assert victim not in platform.replicas()


def test_killed_worker(platform: Platform, client: Client, key: str) -> None:
    """The death of a worker breaks its own connections, no other, and it comes back."""
    with (
        callers(platform, key, "pair") as open_,
        Load(platform.port, [key] * 8, "pair") as load,
    ):
        until(lambda: load.answered() > 100)
        pid = platform.pid("worker-0")
        assert platform.kill(pid)
        until(lambda: platform.is_gone(pid))
        assert {caller.call().kind for caller in open_["worker-0"]} == {BROKEN}
        assert {caller.call().status for caller in open_["worker-1"]} == {200}
        assert platform.pid("worker-0") != pid
        so_far = load.answered()
        until(lambda: load.answered() > so_far + 100)
    kinds = load.counts()
    assert kinds.keys() <= {(FULL, 200), (BROKEN, 0)}, kinds
    assert kinds[BROKEN, 0] <= 8, "a connection broke twice for one kill"
    with callers(platform, key, "pair"):
        pass  # both workers serve again


def refusal(client: Client) -> MeuseError | None:
    """What /api answers when it does not answer the question."""
    try:
        client.models()
    except MeuseError as error:
        return error
    return None


def test_control_and_ledger_down(platform: Platform, client: Client, key: str) -> None:
    """Without control and ledger, every worker serves known keys and routes; /api answers 503."""
    refused: list[MeuseError | None] = []
    with callers(platform, key, "pair") as open_, Load(platform.port, [key] * 4, "single") as load:

        def served_without() -> bool:
            for caller in (*open_["worker-0"], *open_["worker-1"]):
                assert caller.call().status == 200
            refused.append(refusal(client))
            return len([error for error in refused if error is not None]) >= 20

        platform.keep_down(["control", "ledger"], served_without, 10.0)
        # Workers that start now have the snapshot file alone, and connections wait for them.
        platform.keep_down(["control", "ledger", *WORKERS], lambda: True, 1.0)
        until(lambda: not set(WORKERS) & platform.processes().keys(), pause=0.001)
        waiting = Load(platform.port, [key] * 16, "pair")
        with waiting:
            platform.keep_down(["control", "ledger"], lambda: waiting.answered() >= 16, 10.0)
            assert not platform.control_answers()
    for error in filter(None, refused):
        assert error.code is Code.UNAVAILABLE, error
        assert "control plane" in error.message, "a worker broke the connection"
    assert waiting.counts().keys() == {(FULL, 200)}, waiting.counts()
    assert load.counts().keys() <= {(FULL, 200), (BROKEN, 0)}, load.counts()
    assert load.counts()[BROKEN, 0] <= 4  # the four connections of the killed workers
    replicas = platform.replicas()
    whole(platform, client)
    assert platform.replicas() == replicas, "replicas outlive control"
    assert client.predict([[0.5] * 8], "pair")["model"] == "reference:1"
