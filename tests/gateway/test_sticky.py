"""Sticky targets: who stays where, and that a rising weight only moves callers forward."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import grpc
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rig import Rig, target
from meuse.gateway.counters import Counters
from meuse.gateway.links import Pool
from meuse.gateway.routes import Route
from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire.inference_pb2_grpc import GRPCInferenceServiceStub
from meuse.serve.snapshot import DeploymentEntry, TargetEntry
from serve import models


def route(*weights: int, sticky: str = "header:x-user", name: str = "acme/m") -> Route:
    """Targets m:1, m:2, … with these weights."""
    folder = Path("/nonexistent")
    targets = tuple(TargetEntry(f"m:{i}", w, (), (), ()) for i, w in enumerate(weights, 1))
    entry = DeploymentEntry("acme", "default", "m", 1, frozenset(), 1000, targets, sticky=sticky)
    pool = Pool(name, folder, lambda _: None)
    return Route(name, entry, lambda *_: pool, Counters(folder, 0, 1))


def chosen(at: Route, user: str) -> str:
    return at.choose(None, "key", [("x-user", user)]).entry.version


@settings(deadline=None)
@given(st.text(min_size=1, max_size=20), st.integers(0, 100), st.integers(0, 100))
def test_a_rising_weight_moves_callers_only_forward(user: str, one: int, other: int) -> None:
    """Who was on the new version stays there when it takes more."""
    low, high = sorted((one, other))
    if chosen(route(100 - low, low), user) == "m:2":
        assert chosen(route(100 - high, high), user) == "m:2"


def test_callers_are_spread_by_weight() -> None:
    """A tenth of them is within a percent or so of a tenth, and 0 and 100 are exact."""
    users = [f"user-{i}" for i in range(10_000)]
    shares = Counter(chosen(route(90, 10), user) for user in users)
    assert 850 < shares["m:2"] < 1150
    assert {chosen(route(100, 0), user) for user in users} == {"m:1"}
    assert {chosen(route(0, 100), user) for user in users} == {"m:2"}


def test_the_place_of_a_caller_is_fixed() -> None:
    """A known point for ever: a restart or another worker must not move anybody."""
    assert route(90, 10)._point("", [(b"x-user", b"alice")]) == pytest.approx(
        0.0073081364, abs=1e-9
    )
    assert route(90, 10)._point("", [("x-user", "alice")]) == pytest.approx(0.0073081364, abs=1e-9)


def test_without_the_header_chance_decides() -> None:
    """Weights hold also for those who cannot be told apart."""
    at = route(50, 50)
    assert {at.choose(None, "key", ()).entry.version for _ in range(200)} == {"m:1", "m:2"}


def test_keys_stick(rig: Rig) -> None:
    """Every key stays on one version, REST; together they see both."""
    both(rig, "key")
    by_key = {}
    for _ in range(12):
        key = rig.key()
        rig.publish()
        with client(rig, key) as http:
            by_key[key] = {model(http) for _ in range(4)}
    assert {len(versions) for versions in by_key.values()} == {1}
    assert len(set.union(*by_key.values())) == 2


def test_headers_stick_over_both_protocols(rig: Rig) -> None:
    """The same value of a header or of gRPC metadata leads to the same version."""
    both(rig, "header:x-user")
    key = rig.key()
    rig.publish()
    worker = rig.workers[0]
    seen = set()
    with client(rig, key) as http, grpc.insecure_channel(worker.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for user in (f"user-{i}" for i in range(12)):
            rest = {model(http, {"X-User": user}) for _ in range(3)}
            given = pb.ModelInferRequest(model_name="m")
            tensor = given.inputs.add(name="x", datatype="FP32", shape=[1, 2])
            tensor.contents.fp32_contents.extend([1, 2])
            metadata = (("authorization", f"Bearer {key}"), ("x-user", user))
            answer = stub.ModelInfer(given, metadata=metadata, timeout=10)
            assert rest == {f"m:{answer.model_version}"}
            seen |= rest
        assert seen == {"m:1", "m:2"}
        assert {model(http) for _ in range(60)} == {"m:1", "m:2"}


def both(rig: Rig, sticky: str) -> None:
    for number in (1, 2):
        rig.replica(f"r{number}", f"m:{number}", models.doubled(), wait=number == 2)
    rig.deploy(
        "acme/m",
        target("m:1", models.doubled(), ["r1"], weight=50),
        target("m:2", models.doubled(), ["r2"], weight=50),
        sticky=sticky,
    )
    rig.publish()
    rig.worker()
    rig.listen()


def client(rig: Rig, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=rig.workers[0].url, headers=headers, timeout=30)


def model(http: httpx.Client, headers: dict[str, str] | None = None) -> str:
    answer = http.post("/predict", json={"model": "m", "input_data": [[1, 2]]}, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"])
