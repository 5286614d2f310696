"""Replicas and workers that die, hang or are absent: what callers see, what is recorded."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time
from collections import Counter
from typing import Any

import grpc
import httpx
import pytest

from gateway.load import Load
from gateway.rig import Rig, Worker, target, until
from meuse.gateway.links import MAX_WAITING
from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire.inference_pb2_grpc import GRPCInferenceServiceStub
from serve import models


def rows(*values: float) -> dict[str, Any]:
    return {"model": "m", "input_data": [[value] for value in values]}


def platform(rig: Rig, model: bytes, *replicas: str, **more: Any) -> tuple[Worker, str]:
    """A worker and the deployment `m` on some replicas, which need not exist."""
    key = rig.key()
    rig.deploy("acme/m", target("m:1", model, list(replicas)), **more)
    rig.publish()
    return rig.worker(), key


def test_a_killed_replica_loses_no_request(rig: Rig) -> None:
    """kill -9 in the middle of a batch: all are answered, with one final record each."""
    first = rig.replica("r1", "m:1", models.slow())
    rig.replica("r2", "m:1", models.slow())
    worker, key = platform(rig, models.slow(), "r1", "r2")
    values = [60 + i / 64 for i in range(24)]
    load = Load(worker.url, key, [rows(value) for value in values])
    until(lambda: rig.started("r1") and rig.started("r2"))
    time.sleep(0.05)
    first.kill()
    answers = load.wait()
    assert answers == [(200, {"output_data": [[value]], "model": "m:1"}) for value in values]
    records = rig.records()
    assert [(r.status, r.final, r.seq) for r in records] == [("ok", True, 0)] * len(values)
    assert len({r.id for r in records}) == len(values)


def test_a_request_that_kills_replicas_is_quarantined(rig: Rig) -> None:
    """It gets 422 after its second victim; its neighbours are answered by the next replica."""
    model = models.doubled()
    both = [rig.replica(r, "m:1", model, poison=True) for r in ("r1", "r2")]
    worker, key = platform(rig, model, "r1", "r2")
    bad = {"model": "m", "input_data": [[1, 666]]}
    good = [{"model": "m", "input_data": [[i, i]]} for i in range(12)]
    load = Load(worker.url, key, [bad, *good])
    for process in both:
        process.wait(10)
    until(lambda: load.answers[0])
    late = {"model": "m", "input_data": [[50, 50]]}
    waiting = Load(worker.url, key, [late])
    rig.replica("r1", "m:1", model, poison=True, wait=False)
    (status, body), *others = load.wait()
    assert (status, body["error"]["code"], body["error"]["field"]) == (422, "quarantined", "inputs")
    assert [answer[1].get("output_data") for answer in others] == [
        [[2.0 * i, 2.0 * i]] for i in range(12)
    ]
    assert waiting.wait()[0][1]["output_data"] == [[100.0, 100.0]]
    assert Counter(r.status for r in rig.records()) == {"error": 1, "ok": 13}


def stop(process: Any) -> None:
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


def test_a_stopped_replica_costs_a_second(rig: Rig) -> None:
    """What it had is answered by the other one, what comes later is not sent to it, and when it
    goes on it serves again. Nothing is recorded twice."""
    first = rig.replica("r1", "m:1", models.slow())
    rig.replica("r2", "m:1", models.slow())
    worker, key = platform(rig, models.slow(), "r1", "r2", timeout_ms=30_000)
    values = [20 + i / 64 for i in range(24)]
    load = Load(worker.url, key, [rows(value) for value in values])
    until(lambda: rig.started("r1") and rig.started("r2"))
    before = rig.started("r1")
    stop(first)
    begun = time.monotonic()
    assert [status for status, _ in load.wait()] == [200] * len(values)
    assert time.monotonic() - begun < 8
    begun = time.monotonic()
    later = [Load(worker.url, key, [rows(1)] * 4).wait() for _ in range(5)]
    assert [status for answers in later for status, _ in answers] == [200] * 20
    assert time.monotonic() - begun < 3, "a request was sent to a replica that is stopped"
    first.send_signal(signal.SIGCONT)
    seen = set()

    def serves_again() -> bool:
        assert (
            Load(worker.url, key, [rows(10)] * 4).wait()
            == [(200, {"output_data": [[10.0]], "model": "m:1"})] * 4
        )
        seen.add(rig.started("r1") - before)
        return len(seen) > 2

    until(serves_again)
    records = rig.records()
    assert {(r.status, r.final, r.seq) for r in records} == {("ok", True, 0)}
    assert len({r.id for r in records}) == len(records)


def test_a_stop_twice_is_nobodys_fault(rig: Rig) -> None:
    """A request that was under two replicas when they were stopped gets 503, not 422."""
    both = [rig.replica(r, "m:1", models.slow()) for r in ("r1", "r2")]
    worker, key = platform(rig, models.slow(), "r1", "r2")
    load = Load(worker.url, key, [rows(3000)])
    started = until(lambda: [i for i, r in enumerate(("r1", "r2")) if rig.started(r)])
    stop(both[started[0]])
    until(lambda: rig.started(f"r{2 - started[0]}"))
    stop(both[1 - started[0]])
    ((status, answer),) = load.wait()
    assert (status, answer["error"]["code"]) == (503, "unavailable")
    assert "stopped answering" in answer["error"]["message"]
    assert [r.status for r in rig.records()] == ["error"]


def test_an_engine_that_never_returns_gets_little_more(rig: Rig) -> None:
    """Beside a replica that has been in one batch for long, the other one gets what comes; what
    is in that batch has until its deadline, and no replica is hung up on."""
    for replica in ("r1", "r2"):
        rig.replica(replica, "m:1", models.slow())
    worker, key = platform(rig, models.slow(), "r1", "r2", timeout_ms=6_000)
    endless = Load(worker.url, key, [rows(1e9)])
    until(lambda: rig.started("r1") or rig.started("r2"))
    time.sleep(1.5)  # HELD_LOOKS
    begun = time.monotonic()
    for _ in range(4):
        some = Load(worker.url, key, [rows(20 + i) for i in range(12)])
        assert [status for status, _ in some.wait()] == [200] * 12
    assert time.monotonic() - begun < 4
    ((status, answer),) = endless.wait()
    assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
    assert Counter(r.status for r in rig.records()) == {"ok": 48, "error": 1}


def test_without_a_replica_a_request_waits_for_one(rig: Rig) -> None:
    """It is answered when a replica appears in time, else 503 and an error record."""
    worker, key = platform(rig, models.doubled(), "r1", timeout_ms=2000)
    body = {"model": "m", "input_data": [[1, 2]]}
    load = Load(worker.url, key, [body])
    rig.replica("r1", "m:1", models.doubled())
    assert load.wait() == [(200, {"output_data": [[2.0, 4.0]], "model": "m:1"})]
    rig.processes[-1].kill()
    begun = time.monotonic()
    ((status, answer),) = Load(worker.url, key, [body]).wait()
    assert 1.9 < time.monotonic() - begun < 3
    assert (status, answer["error"]["code"], answer["error"]["field"]) == (503, "unavailable", None)
    assert [r.status for r in rig.records()] == ["ok", "error"]


def test_a_slow_replica_meets_the_deadline(rig: Rig) -> None:
    """In flight or queued, a request is told 504 when its time is over."""
    rig.replica("r1", "m:1", models.slow())
    worker, key = platform(rig, models.slow(), "r1", timeout_ms=150)
    answers = Load(worker.url, key, [rows(600), rows(601)]).wait()
    assert [(status, a["error"]["code"]) for status, a in answers] == [
        (504, "deadline_exceeded")
    ] * 2
    assert [r.status for r in rig.records()] == ["error", "error"]


def test_the_waiting_queue_is_bounded(rig: Rig) -> None:
    """Beyond it requests are refused at once, and leave no record."""
    worker, key = platform(rig, models.doubled(), "r1", timeout_ms=3000)
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=(1, 2))
    tensor.contents.fp32_contents.extend([1, 2])
    given = pb.ModelInferRequest(model_name="m", inputs=[tensor])
    with grpc.insecure_channel(worker.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        metadata = (("authorization", f"Bearer {key}"),)
        calls = [stub.ModelInfer.future(given, metadata=metadata) for _ in range(MAX_WAITING + 40)]
        codes = Counter(call.code().name for call in calls)
    assert codes == {"RESOURCE_EXHAUSTED": 40, "UNAVAILABLE": MAX_WAITING}
    assert Counter(r.status for r in rig.records()) == {"error": MAX_WAITING}


def test_at_zero_replicas_workers_share_the_bound(rig: Rig) -> None:
    """Where nothing runs each of N workers holds a part of what one would; control is told once
    that a request waits, and the first replica answers those that do."""
    key = rig.key()
    rig.deploy("acme/m", target("m:1", models.doubled(), []))
    rig.publish()
    worker = rig.worker(workers=MAX_WAITING // 3)
    control = rig.listen()
    body = {"model": "m", "input_data": [[1.0, 2.0]]}
    waiting = Load(worker.url, key, [body] * 3)
    assert json.loads(control.workers[0].readline()) == {"wake": "acme/m"}
    headers = {"authorization": f"Bearer {key}"}
    time.sleep(0.5)  # the first wakes; a fourth before the third would take its place for good

    def answered() -> httpx.Response | None:
        try:
            return httpx.post(f"{worker.url}/predict", json=body, headers=headers, timeout=1)
        except httpx.ReadTimeout:
            return None

    refused = until(answered)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    rig.replica("r1", "m:1", models.doubled())
    rig.deploy("acme/m", target("m:1", models.doubled(), ["r1"]))
    rig.publish()
    assert [status for status, _ in waiting.wait()] == [200] * 3


def test_calls_at_once_are_bounded(rig: Rig) -> None:
    """Beyond the bound gRPC refuses; when calls end there is room again."""
    key = rig.key()
    rig.deploy("acme/m", target("m:1", models.doubled(), ["r1"]), timeout_ms=30_000)
    rig.publish()
    worker = rig.worker(max_rpcs=3)
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=(1, 2))
    tensor.contents.fp32_contents.extend([1, 2])
    given = pb.ModelInferRequest(model_name="m", inputs=[tensor])
    with grpc.insecure_channel(worker.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        metadata = (("authorization", f"Bearer {key}"),)
        calls = [stub.ModelInfer.future(given, metadata=metadata) for _ in range(4)]
        refused = until(lambda: next((call for call in calls if call.done()), None))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in calls:
            call.cancel()
        rig.replica("r1", "m:1", models.doubled())
        assert until(lambda: not stub.ModelInfer.future(given, metadata=metadata).exception())


def test_calls_that_were_cancelled_give_back_their_places(rig: Rig) -> None:
    """A full queue of clients who have gone has room again, long before any deadline."""
    worker, key = platform(rig, models.doubled(), "r1", timeout_ms=30_000)
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=(1, 2))
    tensor.contents.fp32_contents.extend([1, 2])
    given = pb.ModelInferRequest(model_name="m", inputs=[tensor])
    with grpc.insecure_channel(worker.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        metadata = (("authorization", f"Bearer {key}"),)

        def code(timeout: float) -> str:
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(given, metadata=metadata, timeout=timeout)
            return str(caught.value.code().name)

        calls = [stub.ModelInfer.future(given, metadata=metadata) for _ in range(MAX_WAITING)]
        until(lambda: code(0.2) == "RESOURCE_EXHAUSTED")
        for call in calls:
            call.cancel()
        until(lambda: code(0.2) == "DEADLINE_EXCEEDED", 5)


def test_a_replica_that_sends_noise_is_told_of(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    """The worker cuts it off and its log says why."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(rig.sockets / "r1.sock"))
        server.listen()
        server.settimeout(10)
        worker, _ = platform(rig, models.doubled(), "r1")
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"\xff" * 64)
            assert connection.recv(1) == b""
    assert worker.stop() == 0
    assert "replica r1 is cut off: a frame of 4294967295 bytes" in capfd.readouterr().err


def test_a_drained_replica_loses_no_request(rig: Rig) -> None:
    """SIGTERM while requests are queued there: the rest go to the other replica."""
    first = rig.replica("r1", "m:1", models.slow())
    rig.replica("r2", "m:1", models.slow())
    worker, key = platform(rig, models.slow(), "r1", "r2")
    load = Load(worker.url, key, [rows(30 + i / 64) for i in range(30)])
    until(lambda: rig.started("r1"))
    first.send_signal(signal.SIGTERM)
    assert first.wait(10) == 0
    more = Load(worker.url, key, [rows(1)] * 10)
    assert [status for status, _ in load.wait() + more.wait()] == [200] * 40
    assert Counter(r.status for r in rig.records()) == {"ok": 40}


def test_a_rollout_takes_waiting_requests_along(rig: Rig) -> None:
    """Requests that wait for a target that leaves are answered by the one that comes."""
    worker, key = platform(rig, models.doubled(), "r1")
    load = Load(worker.url, key, [{"model": "m", "input_data": [[1, 2]]}] * 3)
    time.sleep(0.2)
    identity = models.identity(models.FLOAT, ["n", 2])
    rig.replica("r2", "m:2", identity)
    rig.deploy("acme/m", target("m:2", identity, ["r2"]))
    rig.listen()
    rig.publish()
    assert load.wait() == [(200, {"output_data": [[1.0, 2.0]], "model": "m:2"})] * 3
    assert [r.version for r in rig.records()] == ["m:2"] * 3


def test_nothing_is_served_unmetered(rig: Rig) -> None:
    """While the journal cannot grow, answers are 503; afterwards all is well again."""
    rig.replica("r1", "m:1", models.doubled())
    worker, key = platform(rig, models.doubled(), "r1")
    body = {"model": "m", "input_data": [[1, 2]]}
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=worker.url, headers=headers) as client:
        assert client.post("/predict", json=body).status_code == 200
        (segment,) = rig.journal.iterdir()
        _, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
        size = segment.stat().st_size
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (size, hard))
        answer = client.post("/predict", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert client.post("/predict", json=body).status_code == 200
    assert [r.status for r in rig.records()] == ["ok", "ok"]


def test_a_killed_worker_loses_no_record(rig: Rig) -> None:
    """Each answer that arrived has its record; others are at most the requests in flight."""
    rig.replica("r1", "m:1", models.doubled())
    worker, key = platform(rig, models.doubled(), "r1")
    body = {"model": "m", "input_data": [[1, 2]]}
    loads = [Load(worker.url, key, [body] * 16) for _ in range(4)]
    until(lambda: len(rig.records()) > 10)
    worker.process.kill()
    answered = [status for load in loads for status, _ in load.wait()].count(200)
    assert answered <= len(rig.records()) <= 64
    assert answered > 0
