"""Limits and budgets on the data plane: real workers, one file, exact totals."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import grpc
import httpx
import pytest
from msgspec import to_builtins

from gateway.rig import TESTS, Rig, Worker, target, until
from meuse.core.nouns import Limit, PriceTable
from meuse.core.prices import ATOMS
from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire.inference_pb2_grpc import GRPCInferenceServiceStub
from meuse.meter.limits import Limits, spent
from serve import models

BUDGET = Limit("budget-a", "budget", 500, "total", "rows", tenant="acme")


def prepared(rig: Rig, *limits: Limit, model: bytes | None = None) -> str:
    """A deployment and these limits, published; a key of `acme`."""
    model = model or models.doubled()
    key = rig.key()
    rig.replica("r1", "m:1", model)
    rig.deploy("acme/m", target("m:1", model, ["r1"]))
    rig.limit(*limits)
    rig.publish()
    return key


def ask(client: httpx.Client, rows: int = 1) -> httpx.Response:
    return client.post("/predict", json={"model": "m", "input_data": [[1, 2]] * rows})


def client_of(worker: Worker, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=worker.url, headers=headers, timeout=30, trust_env=False)


def used(rig: Rig, limit: Limit) -> tuple[int, int]:
    found = spent(rig.limits_file, [limit], time.time_ns() // 1_000_000)[limit.id]
    return found.used, found.reserved


def test_two_workers_serve_a_budget_exactly(rig: Rig) -> None:
    """64 clients on two workers with a hard budget of 500 rows: exactly 500 rows are served
    and recorded, and from then on everything is 402."""
    key = prepared(rig, BUDGET)
    workers = [rig.worker(), rig.worker(slot=1)]
    answers: list[Any] = []

    def hammer(worker: Worker) -> None:
        with client_of(worker, key) as client:
            while True:
                answer = ask(client)
                answers.append(answer)
                if answer.status_code not in (200, 429, 503):
                    return

    threads = [threading.Thread(target=hammer, args=(workers[i % 2],)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] == 500
    assert statuses[402] == 64
    assert {a.json()["error"]["code"] for a in answers if a.status_code == 402} == {
        "budget_exceeded"
    }
    assert used(rig, BUDGET) == (500, 0)
    for worker in workers:
        assert worker.stop() == 0
    assert sum(record.quantities["rows"] for record in rig.records()) == 500


def test_money_over_two_workers_is_never_overspent(rig: Rig) -> None:
    """64 clients on two workers with a hard budget that pays for 200 requests of three rows and
    something: exactly those are served, and what is counted is what their records come to."""
    budget = Limit("m", "budget", 200 * 31 + 30, "month", "cost", tenant="acme", currency="EUR")
    key = prepared(rig, budget)
    blue = rig.key("blue")  # its tenant has no plan
    rig.deploy("acme/m", *rig.state.deployments["acme/m"].targets, access=("blue",))
    rig.limit(budget, replace(budget, id="n", tenant="blue"))
    prices = {"rows": {"*": str(10 * ATOMS)}, "requests": {"m": str(ATOMS)}}
    rig.price("basic:3", PriceTable("EUR", prices))
    rig.publish()
    workers = [rig.worker(), rig.worker(slot=1)]
    answers: list[Any] = []

    def hammer(worker: Worker) -> None:
        with client_of(worker, key) as client:
            while (answer := ask(client, rows=3)).status_code in (200, 429, 503):
                answers.append(answer)
            answers.append(answer)

    threads = [threading.Thread(target=hammer, args=(workers[i % 2],)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = Counter(answer.status_code for answer in answers)
    assert (statuses[200], statuses[402]) == (200, 64)
    error = answers[-1].json()["error"]
    assert (error["code"], error["field"]) == ("budget_exceeded", "budget")
    assert "0.00003 EUR left; this request needs up to 0.000031 EUR" in error["message"]
    assert "It resets at" in error["hint"]
    assert used(rig, budget) == (200 * 31, 0)
    with client_of(workers[0], blue) as client:
        body = {"model": "acme/m", "input_data": [[1, 2]]}
        refused = client.post("/predict", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "unrated")
    for worker in workers:
        assert worker.stop() == 0
    records = rig.records()
    assert len(records) == 200
    assert sum(10 * r.quantities["rows"] + r.quantities["requests"] for r in records) == 6200


def test_time_of_the_engine_is_paid_up_to_the_deadline(rig: Rig) -> None:
    """What nobody knows beforehand is reserved as long as the request may take."""
    budget = Limit("m", "budget", 10_000, "month", "cost", tenant="acme", currency="EUR")
    key = prepared(rig, budget)
    rig.price("basic:3", PriceTable("EUR", {"compute_ms": {"*": str(ATOMS)}}))
    rig.publish()
    worker = rig.worker()
    with client_of(worker, key) as client:
        assert ask(client).status_code == 402  # 10,001 by the deployment's timeout
        body = {"model": "m", "input_data": [[1, 2]]}
        answer = client.post("/predict", json=body, headers={"x-timeout-ms": "100"})
        assert answer.status_code in (200, 402)
    worker.stop()
    spent_ = sum(record.quantities["compute_ms"] for record in rig.records())
    assert used(rig, budget) == (spent_, 0)


def test_budgets_of_a_damaged_file_wait_for_the_ledger(rig: Rig) -> None:
    """503 with Retry-After, for nobody knows what is left; budgets that are younger go on."""
    old = Limit("old", "budget", 500, "total", "rows", tenant="acme", since_ms=1)
    key = prepared(rig, old)
    worker = rig.worker()
    with client_of(worker, key) as client:
        lost = ask(client)
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "unavailable")
        assert lost.headers["retry-after"] == "1"
        limits = Limits(rig.limits_file)
        limits.seed(old, 498, time.time_ns() // 1000)
        limits.close()
        assert ask(client, rows=2).status_code == 200
        assert ask(client).status_code == 402
    assert used(rig, old) == (500, 0)


def test_a_rate_limit_says_when_to_come_back(rig: Rig) -> None:
    """Beyond the burst the answer is 429 with Retry-After, and nothing is recorded."""
    key = prepared(rig, Limit("limit-r", "rate", 1, "hour", burst=3, model="acme/m"))
    worker = rig.worker()
    with client_of(worker, key) as client:
        assert [ask(client).status_code for _ in range(3)] == [200] * 3
        refused = ask(client)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limited"
        assert 3590 <= int(refused.headers["retry-after"]) <= 3600
        v2 = client.post(
            "/v2/models/m/infer",
            json={"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]},
        )
        assert (v2.status_code, "retry-after" in v2.headers) == (429, True)
    worker.stop()
    assert len(rig.records()) == 3


def test_limits_over_grpc(rig: Rig) -> None:
    """gRPC answers RESOURCE_EXHAUSTED with the code and the wait in the trailing metadata."""
    key = prepared(rig, BUDGET, Limit("limit-r", "rate", 1, "minute", burst=1, tenant="acme"))
    worker = rig.worker()
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1, 2])
    request = pb.ModelInferRequest(model_name="m", inputs=[tensor])
    metadata = (("authorization", f"Bearer {key}"),)
    with grpc.insecure_channel(worker.grpc) as channel:
        stub: Any = GRPCInferenceServiceStub(channel)
        stub.ModelInfer(request, metadata=metadata, timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, metadata=metadata, timeout=10)
    error: Any = caught.value
    trailer = dict(error.trailing_metadata())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert trailer["meuse-code"] == "rate_limited"
    assert 50 <= int(trailer["retry-after"]) <= 60
    assert used(rig, BUDGET) == (1, 0)


def test_failures_give_back_what_they_did_not_use(rig: Rig) -> None:
    """A request that the engine refuses costs its request and no rows; one that never reaches
    an engine costs nothing."""
    requests = Limit("budget-r", "budget", 10, "total", tenant="acme")
    key = prepared(rig, BUDGET, requests, model=models.picky())
    rig.deploy("acme/empty")
    rig.publish()
    worker = rig.worker()
    with client_of(worker, key) as client:
        failed = client.post("/predict", json={"model": "m", "input_data": [99]})
        assert failed.status_code == 500
        assert (used(rig, BUDGET), used(rig, requests)) == ((0, 0), (1, 0))
        assert client.post("/predict", json={"model": "m", "input_data": "x"}).status_code == 400
        empty = client.post("/predict", json={"model": "empty", "input_data": [1]})
        assert empty.status_code == 503
    assert (used(rig, BUDGET), used(rig, requests)) == ((0, 0), (1, 0))


def test_concurrency_and_a_killed_worker(rig: Rig) -> None:
    """Requests in flight hold their places; those of a worker that is killed are free again
    once its successor has started, and what was used is not forgotten."""
    few = Limit("limit-c", "concurrency", 2, tenant="acme")
    key = prepared(rig, BUDGET, few)
    worker = rig.worker()
    with client_of(worker, key) as client:
        assert ask(client, rows=10).status_code == 200
        replica = rig.processes[0]
        replica.send_signal(19)  # SIGSTOP: what is asked now stays in flight
        try:
            body = json.dumps({"model": "m", "input_data": [[1, 2]]})
            threads = [
                threading.Thread(target=_quietly, args=(worker, key, body)) for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            until(lambda: used(rig, few)[1] == 2)
            full = ask(client)
            assert (full.status_code, full.json()["error"]["code"]) == (429, "rate_limited")
            assert full.headers["retry-after"] == "1"
            worker.process.kill()
            worker.process.wait()
            for thread in threads:
                thread.join()
        finally:
            replica.send_signal(18)  # SIGCONT
    successor = rig.worker()
    assert (used(rig, few), used(rig, BUDGET)) == ((0, 0), (10, 0))
    with client_of(successor, key) as client:
        assert ask(client, rows=490).status_code == 200
        assert ask(client).status_code == 402


def test_a_stopped_holder_of_the_lock(rig: Rig) -> None:
    """While a process that holds the lock stands still, requests with limits are told to come
    back, others are served; its death by SIGKILL is enough to go on."""
    key = prepared(rig, BUDGET)
    free = rig.key("blue")
    rig.deploy("acme/m", *rig.state.deployments["acme/m"].targets, access=("blue",))
    rig.publish()
    worker = rig.worker()
    given = {"path": str(rig.limits_file), "do": "lock", "limits": [to_builtins(BUDGET)]}
    holder = rig._start(TESTS / "meter" / "limit_child.py", given, [])
    until(lambda: _is_locked(rig))
    with client_of(worker, key) as client, client_of(worker, free) as other:
        busy = ask(client)
        assert (busy.status_code, busy.json()["error"]["code"]) == (503, "unavailable")
        assert busy.headers["retry-after"] == "1"
        body = {"model": "acme/m", "input_data": [[1, 2]]}
        assert other.post("/predict", json=body).status_code == 200
        holder.kill()
        holder.wait()
        assert ask(client).status_code == 200
    assert used(rig, BUDGET) == (1, 0)


def _is_locked(rig: Rig) -> bool:
    with rig.limits_file.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            return True
    return False


def _quietly(worker: Worker, key: str, body: str) -> None:
    with client_of(worker, key) as client, pytest.raises(httpx.TransportError):
        client.post("/predict", content=body)


def test_limits_follow_the_snapshot(rig: Rig) -> None:
    """A limit holds from its acknowledgement on, and no longer than it is published."""
    key = prepared(rig)
    worker = rig.worker()
    rig.listen()
    with client_of(worker, key) as client:
        assert ask(client, rows=5).status_code == 200
        rig.limit(Limit("budget-b", "budget", 2, "day", "rows", tenant="acme"))
        rig.publish()
        assert ask(client, rows=2).status_code == 200
        assert ask(client).status_code == 402
        rig.limit()
        rig.publish()
        assert ask(client).status_code == 200
