"""Rollouts and rollbacks under load that counts every request.

The rule: no request fails because of a rollout or a rollback. A request that a candidate
answered may fail by the candidate's own fault (its model raises); nothing else may.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from faults.load import FULL, Load, Outcome
from faults.rig import Platform, command_of, until
from meuse.client import Client
from meuse.core.errors import Code, MeuseError
from meuse.serve import snapshot, stats
from serve import models

CLIENTS = 6


def table(entries: int) -> bytes:
    """x INT64 [n] → y INT64 [n] = 10 + x; an index beyond the table is the model's error."""
    return models.model_of(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [models._value("x", models.INT64, ["n"])],
        [models._value("y", models.INT64, ["n"])],
        {"table": np.arange(10, 10 + entries, dtype=np.int64)},
    )


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("rollout") / "home")
    try:
        yield platform.start()
    finally:
        platform.close()


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    return platform.client()


def upload(platform: Platform, name: str, model: bytes) -> None:
    """The model's next version."""
    file = platform.home.parent / "model.onnx"
    file.write_bytes(model)
    platform.client().upload_model(name, file)


def deploy(platform: Platform, name: str, first: bytes, second: bytes, **canary: Any) -> None:
    """Two versions of a model, the first one deployed by an alias under the model's name."""
    client = platform.client()
    upload(platform, name, first)
    upload(platform, name, second)
    client.set_alias(name, "live", 1)
    client.deploy(name, f"{name}@live", canary=canary)
    client.wait_ready(name)


def load(platform: Platform, name: str, ask: Callable[[int], list[Any]]) -> Load:
    client = platform.client()
    keys = [str(client.make_key(f"{name}-{i}", ["infer"])["key"]) for i in range(CLIENTS)]
    return Load(platform.port, keys, name, ask=ask, pause=0.002)


def rollout(client: Client, name: str) -> dict[str, Any]:
    state: dict[str, Any] = client.deployment(name)["rollout"]
    return state


def ended(client: Client, name: str, verdict: str, seconds: float = 90.0) -> dict[str, Any]:
    """The rollout, once it has this verdict and no weight moves any more."""

    def look() -> dict[str, Any]:
        state = rollout(client, name)
        return state if state["verdict"] == verdict else {}

    return until(look, seconds, 0.1)


def settled(client: Client, name: str, version: str) -> bool:
    """Only this version serves."""
    return [r["model"] for r in client.deployment(name)["serving"]] == [version]


def answered_by(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(json.loads(o.body)["model"] for o in outcomes if o.status == 200)


def test_a_good_version_takes_over_step_by_step(platform: Platform, client: Client) -> None:
    """The alias moves: 1, 10, 50, 100 %, zero failed requests, each metered once."""
    deploy(platform, "good", table(16), table(17), step_s=0.5, min_requests=3, max_p95_ratio=None)
    with load(platform, "good", lambda n: [n % 16]) as running:
        until(lambda: running.answered() > 50)
        client.set_alias("good", "live", 2)
        state = ended(client, "good", "promoted")
        until(lambda: settled(client, "good", "good:2"))
        before = running.answered()
        until(lambda: running.answered() > before + 50)
    assert [e["weight"] for e in state["history"] if "weight" in e] == [1, 10, 50, 100]
    assert set(running.counts()) == {(FULL, 200)}, running.counts()
    last = [mine[-1] for mine in running.outcomes]
    assert answered_by(last) == {"good:2": CLIENTS}
    assert answered_by(running.all())["good:1"] > 0
    assert len(platform.replicas("default/good")) == 1
    assert client.deployment("good")["status"] == "ready"
    rows = client.usage(by="model,meter", fresh="true")["rows"]
    mine = [r for r in rows if r["meter"] == "requests" and "good" in str(r["model"])]
    assert sum(int(row["quantity"]) for row in mine) == len(running.all())


def test_a_version_that_fails_is_sent_back(platform: Platform, client: Client) -> None:
    """Only inputs that the new model cannot take fail, only while it has weight, and by it."""
    deploy(platform, "bad", table(16), table(4), steps=[10, 100], step_s=30, min_requests=20)
    with load(platform, "bad", lambda n: [n % 8]) as running:
        until(lambda: running.answered() > 50)
        client.set_alias("bad", "live", 2)
        state = ended(client, "bad", "rolled_back")
        until(lambda: settled(client, "bad", "bad:1"))
        since = len(running.all())
        counts = [len(mine) for mine in running.outcomes]
        until(lambda: len(running.all()) > since + 100)
    assert "requests failed" in state["reason"]
    assert (state["rejected"], state["weight"]) == ("bad:2", None)
    assert set(running.counts()) == {(FULL, 200), (FULL, 500)}, running.counts()
    failed = 0
    for mine in running.outcomes:
        for n, outcome in enumerate(mine):
            if outcome.status == 500:
                failed += 1
                assert n % 8 >= 4  # the stable version takes it, the candidate cannot
                assert json.loads(outcome.body)["error"]["code"] == Code.ENGINE_ERROR
    assert failed >= 3
    for mine, count in zip(running.outcomes, counts, strict=True):
        assert all(o.status == 200 for o in mine[count + 1 :])  # after the rollback: none
    deployment = client.deployment("bad")
    assert deployment["status"] == "degraded"
    assert "bad:2 was sent back" in deployment["error"]
    with pytest.raises(MeuseError, match="was sent back"):
        client.wait_ready("bad", 5)


def test_a_slow_version_is_sent_back(platform: Platform, client: Client) -> None:
    """It answers right but late: p95 sends it back, and no request fails."""
    quick = models.identity(models.FLOAT, ["n", 1])
    deploy(
        platform, "late", quick, models.slow(),
        steps=[20, 100], step_s=60, min_requests=20, max_p95_ratio=None, max_p95_ms=150,
    )  # fmt: skip
    with load(platform, "late", lambda n: [[600.0 if n % 5 == 0 else 1.0]]) as running:
        until(lambda: running.answered() > 50)
        client.set_alias("late", "live", 2)
        state = ended(client, "late", "rolled_back", 120)
        until(lambda: settled(client, "late", "late:1"))
    assert "took more than 150 ms" in state["reason"]
    assert set(running.counts()) == {(FULL, 200)}, running.counts()
    assert answered_by(running.all())["late:2"] >= 20


def test_a_rollout_outlives_control(platform: Platform, client: Client) -> None:
    """kill -9 of control in the middle: the same step goes on, with the same beginning."""
    deploy(
        platform, "kept", table(16), table(17),
        steps=[10, 50, 100], step_s=5, min_requests=3, max_p95_ratio=None,
    )  # fmt: skip
    with load(platform, "kept", lambda n: [n % 16]) as running:
        client.set_alias("kept", "live", 2)
        until(lambda: rollout(client, "kept")["step"] == 1, 60, 0.05)
        before = rollout(client, "kept")
        platform.kill(platform.pid("control"))
        until(platform.control_answers, 60, 0.1)
        after = rollout(client, "kept")
        state = ended(client, "kept", "promoted")
        until(lambda: settled(client, "kept", "kept:2"))
    assert after["history"][: len(before["history"])] == before["history"]
    assert [e["weight"] for e in state["history"] if "weight" in e] == [10, 50, 100]
    assert set(running.counts()) == {(FULL, 200)}, running.counts()


@pytest.mark.slow
def test_a_rollout_rests_with_its_deployment(platform: Platform, client: Client) -> None:
    """scale.min 0: at rest nothing starts and no weight moves; a request wakes both versions,
    the first one is the stable version's; going to rest in the middle loses nothing."""
    upload(platform, "naps", table(16))
    upload(platform, "naps", table(17))
    client.set_alias("naps", "live", 1)
    client.deploy(
        "naps", "naps@live",
        scale={"min": 0, "max": 1, "zero_after_s": 4},  # longer than a version takes to start
        canary={"steps": [20, 100], "step_s": 0.5, "min_requests": 5, "max_p95_ratio": None},
    )  # fmt: skip
    client.wait_ready("naps")

    def rests() -> bool:
        return client.deployment("naps")["status"] == "idle" and not platform.replicas(
            "default/naps"
        )

    until(rests, 30)
    client.set_alias("naps", "live", 2)
    until(lambda: rollout(client, "naps")["candidate"] == "naps:2")
    time.sleep(1.0)
    assert rests(), "a new version wakes nobody"
    assert rollout(client, "naps")["verdict"] == "starting"
    assert client.predict([3], "naps")["model"] == "naps:1"
    until(lambda: rollout(client, "naps")["weight"] == 20, 30)
    until(rests, 30)
    assert (rollout(client, "naps")["weight"], rollout(client, "naps")["step"]) == (20, 0)
    with load(platform, "naps", lambda n: [n % 16]) as running:
        state = ended(client, "naps", "promoted")
        until(lambda: settled(client, "naps", "naps:2"))
    assert [e["weight"] for e in state["history"] if "weight" in e] == [20, 100]
    assert set(running.counts()) == {(FULL, 200)}, running.counts()
    until(rests, 30)
    assert client.predict([3], "naps")["model"] == "naps:2"
    rows = client.usage(by="model,meter", fresh="true")["rows"]
    mine = [r for r in rows if r["meter"] == "requests" and "naps" in str(r["model"])]
    assert sum(int(row["quantity"]) for row in mine) == len(running.all()) + 2
    client.undeploy("naps")


@pytest.mark.slow
def test_people_end_rollouts(platform: Platform, client: Client) -> None:
    """Rollback sends it back at once; a new spec tries again, and promote ends the waiting."""
    deploy(platform, "hand", table(16), table(17), steps=[5, 100], step_s=3600)
    for end in (client.promote, client.roll_back):
        with pytest.raises(MeuseError) as refusal:
            end("hand")
        assert refusal.value.code == Code.CONFLICT
    with load(platform, "hand", lambda n: [n % 16]) as running:
        client.set_alias("hand", "live", 2)
        until(lambda: rollout(client, "hand")["weight"] == 5, 30)
        assert client.roll_back("hand")["rollout"]["verdict"] == "rolled_back"
        until(lambda: settled(client, "hand", "hand:1"))
        client.deploy("hand", "hand@live", canary={"steps": [5, 100], "step_s": 3600})
        until(lambda: rollout(client, "hand")["weight"] == 5, 30)
        client.promote("hand")
        until(lambda: settled(client, "hand", "hand:2"))
    assert set(running.counts()) == {(FULL, 200)}, running.counts()
    assert client.wait_ready("hand")["rollout"]["verdict"] == "promoted"


@pytest.mark.slow
def test_a_version_that_does_not_start_is_sent_back(platform: Platform, client: Client) -> None:
    """Three starts that fail in a row; it never had weight, so nobody noticed."""
    deploy(platform, "dead", table(16), table(18), step_s=3600)
    digest = client.version("dead", 2)["artifacts"][0]["digest"]
    lost = [path for path in (platform.home / "blobs").rglob(f"*{digest}*") if path.is_file()]
    assert lost
    for path in lost:
        path.unlink()
    with load(platform, "dead", lambda n: [n % 16]) as running:
        client.set_alias("dead", "live", 2)
        state = ended(client, "dead", "rolled_back")
        until(lambda: settled(client, "dead", "dead:1"))
    assert "do not start" in state["reason"]
    assert [e["weight"] for e in state["history"] if "weight" in e] == []
    assert set(running.counts()) == {(FULL, 200)}, running.counts()
    assert set(answered_by(running.all())) == {"dead:1"}


@pytest.mark.slow
def test_a_version_that_dies_is_sent_back(platform: Platform, client: Client) -> None:
    """Its replica is killed three times; what it had started is run again, elsewhere."""
    deploy(platform, "dying", table(16), table(17), steps=[30, 100], step_s=3600)
    with load(platform, "dying", lambda n: [n % 16]) as running:
        client.set_alias("dying", "live", 2)
        killed: set[str] = set()
        for _ in range(3):
            fresh = partial(fresh_replicas, platform, "dying", "dying:2", killed)
            for name in until(fresh, 60):
                platform.kill(platform.pid(name))
                killed.add(name)
        state = ended(client, "dying", "rolled_back")
        until(lambda: settled(client, "dying", "dying:1"))
    assert "died 3 times" in state["reason"]
    assert set(running.counts()) == {(FULL, 200)}, running.counts()


def test_a_version_that_answers_otherwise_is_sent_back(platform: Platform, client: Client) -> None:
    """min_agreement: it is shown the stable version's requests, and differs; the owner pays."""
    other = models.identity(models.INT64, ["n"])
    deploy(
        platform, "other", table(16), other,
        steps=[1, 100], step_s=3600, min_requests=5, min_agreement=0.9,
    )  # fmt: skip
    with load(platform, "other", lambda n: [n % 16]) as running:
        client.set_alias("other", "live", 2)
        state = ended(client, "other", "rolled_back")
        until(lambda: settled(client, "other", "other:1"))
    assert "answers differed" in state["reason"]
    assert set(running.counts()) == {(FULL, 200)}, running.counts()
    rows = client.usage(by="tier,meter", fresh="true")["rows"]
    internal = {r["meter"]: int(r["quantity"]) for r in rows if r["tier"] == "internal"}
    assert internal["requests"] >= 20


def test_a_shadow_is_asked_and_never_answers(platform: Platform, client: Client) -> None:
    """It starts after the real target serves, is compared, and goes with the spec."""
    for entries in (16, 17):
        upload(platform, "seen", table(entries))
    client.deploy("seen", "seen:1", shadow={"model": "seen:2", "percent": 50})
    client.wait_ready("seen")
    with load(platform, "seen", lambda n: [n % 16]) as running:
        until(lambda: agreed(platform, "seen", "seen:2") > 50, 60)
        client.deploy("seen", "seen:1")
        until(lambda: not any("seen:2" in command_of(pid) for pid in platform.pids()))
    assert set(running.counts()) == {(FULL, 200)}, running.counts()
    assert set(answered_by(running.all())) == {"seen:1"}


def fresh_replicas(platform: Platform, name: str, version: str, old: set[str]) -> set[str]:
    """Ids of new replicas that workers may send a version's requests to."""
    entry = snapshot.read(platform.home / "snapshot" / "current.msgpack").deployments
    targets = [t for t in entry[f"default/{name}"].targets if t.version == version and t.weight]
    live = platform.replicas()
    return {r.id for t in targets for r in t.replicas if r.id in live} - old


def agreed(platform: Platform, name: str, version: str) -> int:
    """Answers of a shadow that were equal, over all workers."""
    sockets = Path(platform.run()["sockets"])
    routes = [w.routes.get(f"default/{name}") for w in stats.read_all(sockets)]
    return sum(r.targets[version].agreed for r in routes if r and version in r.targets)


def test_home_is_clean_at_the_end(platform: Platform) -> None:
    """Nothing failed aloud: control's log has no traceback."""
    text = (Path(platform.home) / "logs" / "control.log").read_text()
    assert "Traceback" not in text
