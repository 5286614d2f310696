"""Sticky targets: who stays where, and that a rising weight only moves callers forward."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
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


def test_streams_stick_by_their_metadata(rig: Rig) -> None:
    """Every request of a stream goes where its header leads, as single calls do; a stream without
    it sees both. When the weights move, requests of an open stream follow, and only forward."""
    both(rig, "header:x-user")
    key = rig.key()
    rig.publish()
    with grpc.insecure_channel(rig.workers[0].grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)

        def asked(count: int) -> Iterator[pb.ModelInferRequest]:
            for _ in range(count):
                given = pb.ModelInferRequest(model_name="m")
                tensor = given.inputs.add(name="x", datatype="FP32", shape=[1, 2])
                tensor.contents.fp32_contents.extend([1, 2])
                yield given

        def stream(requests: Iterator[pb.ModelInferRequest], user: str = "") -> Iterator[str]:
            metadata = [("authorization", f"Bearer {key}"), *([("x-user", user)] if user else [])]
            for answer in stub.ModelStreamInfer(requests, metadata=metadata, timeout=20):
                assert answer.error_message == ""
                yield answer.infer_response.model_version

        seen = {}
        for user in (f"user-{i}" for i in range(12)):
            (seen[user],) = set(stream(asked(6), user))
            metadata = (("authorization", f"Bearer {key}"), ("x-user", user))
            single = stub.ModelInfer(next(asked(1)), metadata=metadata, timeout=10)
            assert single.model_version == seen[user]
        assert set(seen.values()) == {"1", "2"}
        assert set(stream(asked(60))) == {"1", "2"}

        stable = next(user for user, version in seen.items() if version == "1")
        goes_on = threading.Event()

        def in_two_halves() -> Iterator[pb.ModelInferRequest]:
            yield from asked(5)
            goes_on.wait(20)
            yield from asked(5)

        answers = stream(in_two_halves(), stable)
        assert [next(answers) for _ in range(5)] == ["1"] * 5
        weigh(rig, 0, 100, "header:x-user")
        rig.publish()
        goes_on.set()
        assert list(answers) == ["2"] * 5


def test_streams_stick_by_key(rig: Rig) -> None:
    """Whatever the metadata says: the key is the caller's."""
    both(rig, "key")
    keys = [rig.key() for _ in range(12)]
    rig.publish()
    seen = set()
    with grpc.insecure_channel(rig.workers[0].grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for key in keys:
            given = pb.ModelInferRequest(model_name="m")
            tensor = given.inputs.add(name="x", datatype="FP32", shape=[1, 2])
            tensor.contents.fp32_contents.extend([1, 2])
            versions = set()
            for i in range(3):
                metadata = (("authorization", f"Bearer {key}"), ("x-user", f"user-{i}"))
                answers = stub.ModelStreamInfer(iter([given] * 4), metadata=metadata, timeout=20)
                versions |= {answer.infer_response.model_version for answer in answers}
            assert len(versions) == 1
            seen |= versions
    assert seen == {"1", "2"}


def both(rig: Rig, sticky: str) -> None:
    for number in (1, 2):
        rig.replica(f"r{number}", f"m:{number}", models.doubled(), wait=number == 2)
    weigh(rig, 50, 50, sticky)
    rig.publish()
    rig.worker()
    rig.listen()


def weigh(rig: Rig, first: int, second: int, sticky: str) -> None:
    rig.deploy(
        "acme/m",
        target("m:1", models.doubled(), ["r1"], weight=first),
        target("m:2", models.doubled(), ["r2"], weight=second),
        sticky=sticky,
    )


def client(rig: Rig, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=rig.workers[0].url, headers=headers, timeout=30)


def model(http: httpx.Client, headers: dict[str, str] | None = None) -> str:
    answer = http.post("/predict", json={"model": "m", "input_data": [[1, 2]]}, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"])
