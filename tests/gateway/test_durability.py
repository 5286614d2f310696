"""When an answer may end, and what is done when the disk takes no record."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest

from gateway.openai.conftest import Chat
from gateway.rig import Rig, Worker, target, until
from meuse.core.errors import MeuseError
from meuse.core.nouns import Limit
from meuse.gateway.durability import Commits, Durability, is_hard
from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire import inference_pb2_grpc
from meuse.meter.limits import Check
from meuse.serve import stats
from serve import models

BODY = {"model": "m", "input_data": [[1, 2]]}


def syncs(rig: Rig) -> int:
    """How many fsyncs the worker has counted."""
    return sum(worker.vitals.journal_sync.count for worker in stats.read_all(rig.sockets))


def served(rig: Rig, **more: Any) -> tuple[Worker, httpx.Client]:
    key = rig.key()
    rig.replica("r1", "m:1", models.doubled())
    rig.deploy("acme/m", target("m:1", models.doubled(), ["r1"]))
    rig.publish()
    worker = rig.worker(**more)
    headers = {"authorization": f"Bearer {key}"}
    return worker, httpx.Client(base_url=worker.url, headers=headers, trust_env=False)


async def soon(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  there is no event
            await asyncio.sleep(0.001)


def test_who_waits_together_is_told_by_one_sync() -> None:
    """All that came while the disk was busy share the next fsync, which begins after them."""

    async def scenario() -> None:
        gate, begun = threading.Event(), []

        def sync() -> None:
            begun.append(len(asked))
            gate.wait(5)

        asked: list[int] = []
        told: list[int] = []
        commits = Commits(sync, lambda began, ok: None)

        def ask(number: int) -> None:
            asked.append(number)
            commits.after(lambda failure: told.append(number))

        ask(0)
        await soon(lambda: begun)
        for number in range(1, 6):
            ask(number)
        assert told == []
        gate.set()
        await soon(lambda: len(told) == 6)
        assert told == list(range(6))
        assert begun == [1, 6]

    asyncio.run(scenario())


def test_who_came_while_a_sync_failed_is_told_so() -> None:
    """The lost pages may have been theirs, and the next sync would not say so."""

    async def scenario() -> None:
        gate, outcomes = threading.Event(), [OSError("the disk is gone"), None, None]
        told: list[MeuseError | None] = []

        def sync() -> None:
            gate.wait(5)
            if (error := outcomes.pop(0)) is not None:
                raise error

        commits = Commits(sync, lambda began, ok: None)
        commits.after(told.append)
        await asyncio.sleep(0.01)
        commits.after(told.append)
        gate.set()
        await soon(lambda: len(told) == 2)
        assert all(failure is not None for failure in told)
        commits.after(told.append)
        await soon(lambda: len(told) == 3)
        assert told[2] is None

    asyncio.run(scenario())


def test_a_failed_sync_is_told_and_the_next_one_is_tried() -> None:
    """One who cannot be told does not keep the others from it."""

    async def scenario() -> None:
        outcomes = [OSError("the disk is gone"), None]
        told: list[MeuseError | None] = []
        counted: list[bool] = []

        def sync() -> None:
            if (error := outcomes.pop(0)) is not None:
                raise error

        def broken(failure: MeuseError | None) -> None:
            raise RuntimeError("nobody is there")

        commits = Commits(sync, lambda began, ok: counted.append(ok))
        commits.after(broken)
        commits.after(told.append)
        await soon(lambda: told)
        commits.after(told.append)
        await soon(lambda: len(told) == 2)
        assert told[0] is not None
        assert (told[0].code, told[1]) == ("unavailable", None)
        assert counted == [False, True]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "hard", "serves", "refused"),
    [
        ("budget", True, True, True), ("budget", False, True, False), ("rate", True, True, False),
        (None, False, True, False), (None, False, False, True), ("budget", False, False, True),
    ],
)  # fmt: skip
def test_who_is_refused_when_the_disk_is_full(
    kind: str | None, hard: bool, serves: bool, refused: bool
) -> None:
    """With a hard budget in scope everybody; else by the declared policy."""
    journal = SimpleNamespace(is_refusing=True, sync=lambda: None, probe=lambda: False)
    durability = Durability(journal, serves_when_full=serves)
    plan = None
    if kind is not None:
        period = "minute" if kind == "rate" else "day"
        plan = (Check(Limit("l", kind, 10, period, "rows", burst=1, hard=hard)),)
    assert is_hard(plan) == (kind == "budget" and hard)
    for act in (lambda: durability.check(plan), lambda: durability.failed(OSError(28, "x"), plan)):
        if refused:
            with pytest.raises(MeuseError, match="cannot be recorded"):
                act()
        else:
            act()
    assert durability.lost == (0 if refused else 1)
    with pytest.raises(MeuseError, match="cannot be recorded"):  # a fault of ours, not the disk's
        durability.failed(ValueError("the journal is closed"), plan)
    journal.probe, durability._probed_ms = (lambda: True), 0.0
    durability.check(plan)


def test_strict_answers_when_the_record_is_on_the_disk(rig: Rig) -> None:
    """Each answer that nobody else shares a moment with has an fsync of its own; by HTTP and
    gRPC; the state says so."""
    worker, http = served(rig, journal_mode="strict")
    with http, grpc.insecure_channel(worker.grpc) as channel:
        before = syncs(rig)
        for _ in range(15):
            assert http.post("/predict", json=BODY).status_code == 200
        tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])
        tensor.contents.fp32_contents.extend([1, 2])
        request = pb.ModelInferRequest(model_name="m", inputs=[tensor])
        metadata = [("authorization", http.headers["authorization"])]
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        stub.ModelInfer(request, metadata=metadata, timeout=10)
        until(lambda: syncs(rig) >= before + 16, 10)
        (state,) = [worker.vitals for worker in stats.read_all(rig.sockets)]
        assert (state.journal_mode, state.journal_policy) == ("strict", "refuse")
        assert state.journal_segment.startswith("rig-0-")
        assert state.journal_synced_ms > 0
        assert not state.journal_refusing
    assert len(rig.records()) == 16


def test_strict_gives_no_answer_that_the_disk_does_not_hold(rig: Rig) -> None:
    """When fsync fails the answer is 503, for tensors and for texts."""
    worker, http = served(rig, journal_mode="strict", failing_sync=True)
    with http:
        answer = http.post("/predict", json=BODY)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert answer.json()["error"]["message"] == "usage cannot be recorded"
    worker.process.kill()  # it would wait for its journal


def test_strict_holds_for_texts(rig: Rig) -> None:
    """The end of a stream comes after its record is on the disk; what it says is the same."""
    chat = Chat(rig, worker={"journal_mode": "strict"})
    before = syncs(rig)
    for _ in range(5):
        chunks = list(chat.say("say 3", stream=True))
        assert chunks[-1].choices[0].finish_reason == "stop"
    assert chat.say("say 4").usage.completion_tokens == 4
    until(lambda: syncs(rig) >= before + 6, 10)
    assert [r.quantities["completion_tokens"] for r in chat.records(6)] == [3] * 5 + [4]
    chat.close()


@contextmanager
def full(worker: Worker, rig: Rig) -> Iterator[None]:
    """The journal's disk takes not one byte more, until the block ends."""
    (segment,) = rig.journal.iterdir()
    _, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
    size = segment.stat().st_size
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (hard, hard))


def test_a_full_disk_refuses_who_has_a_hard_budget_and_serves_others_if_told(rig: Rig) -> None:
    """By the declared policy; what is lost is counted, refusals count against no budget."""
    from gateway.test_admission import used

    blue = rig.key("blue")
    budget = Limit("hard", "budget", 100, "total", "rows", tenant="blue")
    rig.limit(budget)
    rig.replica("r2", "n:1", models.doubled())
    rig.deploy("blue/n", target("n:1", models.doubled(), ["r2"]))
    worker, http = served(rig, journal_full="serve")
    theirs = {"authorization": f"Bearer {blue}"}
    asked = {"model": "n", "input_data": [[1, 2]]}
    with http:
        assert http.post("/predict", json=BODY).status_code == 200
        assert http.post("/predict", json=asked, headers=theirs).status_code == 200
        with full(worker, rig):
            for _ in range(3):
                assert http.post("/predict", json=BODY).status_code == 200
            statuses = [
                http.post("/predict", json=asked, headers=theirs).status_code for _ in range(20)
            ]
            assert statuses == [503] * 20
        until(lambda: http.post("/predict", json=asked, headers=theirs).status_code == 200, 5)
        # Counters are files too: what was lost is told once the disk takes them.
        until(lambda: [w.vitals.journal_lost for w in stats.read_all(rig.sockets)] == [3], 10)
    assert used(rig, budget) == (2, 0)
    records = rig.records()
    assert sorted(r.tenant for r in records) == ["acme", "blue", "blue"]
