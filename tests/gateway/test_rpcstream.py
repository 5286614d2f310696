"""Streams over gRPC: order, bounds, errors in their place, and what ends them."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from gateway.rig import Rig, target, until
from meuse.core.errors import Code, MeuseError
from meuse.gateway import rpcstream
from meuse.gateway.rpchealth import MAX_WATCHES
from meuse.gateway.rpcservice import SERVICE
from meuse.gateway.wire import health_pb2, reflection_pb2
from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire.health_pb2_grpc import HealthStub
from meuse.gateway.wire.inference_pb2_grpc import GRPCInferenceServiceStub
from meuse.gateway.wire.reflection_pb2_grpc import ServerReflectionStub
from serve import models

if TYPE_CHECKING:
    from gateway.conftest import Platform

MIB = 1024 * 1024


def auth(key: str) -> Any:
    return (("authorization", f"Bearer {key}"),)


def request(i: int, model: str = "double", values: Any = (1, 2), **more: Any) -> Any:
    data = np.array([values], np.float32)
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=data.shape)
    return pb.ModelInferRequest(
        model_name=model,
        id=str(i),
        inputs=[tensor],
        raw_input_contents=[data.tobytes()],
        **more,
    )


class Sender:
    """Requests that a test sends one after the other, until it closes."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()
        self.taken = 0

    def send(self, *requests: Any) -> None:
        for one in requests:
            self._queue.put(one)

    def close(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Sender:
        return self

    def __next__(self) -> Any:
        if (one := self._queue.get()) is None:
            raise StopIteration
        self.taken += 1
        return one


@pytest.fixture
def channel(platform: Platform) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(platform.worker.grpc) as channel:
        yield channel


def test_answers_come_in_order(platform: Platform, channel: Any) -> None:
    """Also where later requests are answered by a faster model, and errors keep their place."""
    stub = GRPCInferenceServiceStub(channel)
    given = []
    for i in range(100):
        if i % 10 == 3:
            given.append(request(i, "absent"))
        elif i % 10 == 7:
            given.append(request(i, values=(1, 2, 3)))
        else:
            given.append(request(i, "double", model_version="23"[i % 2]))
    seen = list(stub.ModelStreamInfer(iter(given), metadata=auth(platform.key), timeout=30))
    assert [answer.infer_response.id for answer in seen] == [str(i) for i in range(100)]
    for i, answer in enumerate(seen):
        if i % 10 == 3:
            assert "there is no model 'absent'" in answer.error_message
        elif i % 10 == 7:
            assert "(field: inputs[0].shape)" in answer.error_message
        else:
            assert answer.error_message == ""
            (data,) = answer.infer_response.raw_output_contents
            assert np.frombuffer(data, np.float32).tolist() == [[2, 4], [1, 2]][i % 2]


def test_answers_come_while_the_stream_is_open(platform: Platform, channel: Any) -> None:
    """A request is answered when it has come, not when the stream ends; each is recorded."""
    stub, sender = GRPCInferenceServiceStub(channel), Sender()
    before = len(platform.rig.records())
    answers = stub.ModelStreamInfer(sender, metadata=auth(platform.key), timeout=30)
    for i in range(3):
        sender.send(request(i))
        assert next(answers).infer_response.id == str(i)
    sender.close()
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK
    assert {r.protocol for r in platform.rig.records()[before:]} == {"oip-grpc"}
    assert len(platform.rig.records()) == before + 3


def test_a_stream_without_requests(platform: Platform, channel: Any) -> None:
    """Ends as it began."""
    stub = GRPCInferenceServiceStub(channel)
    answers = stub.ModelStreamInfer(iter(()), metadata=auth(platform.key), timeout=10)
    assert list(answers) == []


def test_a_message_over_the_limit_ends_the_stream(platform: Platform, channel: Any) -> None:
    """RESOURCE_EXHAUSTED; and the worker goes on."""
    stub = GRPCInferenceServiceStub(channel)
    huge = request(1)
    huge.raw_input_contents[0] = bytes(MIB)
    answers = stub.ModelStreamInfer(iter([huge]), metadata=auth(platform.key), timeout=10)
    with pytest.raises(grpc.RpcError) as caught:
        list(answers)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    answers = stub.ModelStreamInfer(iter([request(2)]), metadata=auth(platform.key), timeout=10)
    assert [a.infer_response.id for a in answers] == ["2"]


def test_a_revoked_key_ends_in_errors(rig: Rig) -> None:
    """A stream outlives a revocation, its key does not: each later request says so."""
    key = rig.key("acme")
    rig.replica("r", "double:1", models.doubled())
    rig.deploy("acme/double", target("double:1", models.doubled(), ["r"]))
    rig.publish()
    worker = rig.worker()
    rig.listen()
    with grpc.insecure_channel(worker.grpc) as channel:
        stub, sender = GRPCInferenceServiceStub(channel), Sender()
        answers = stub.ModelStreamInfer(sender, metadata=auth(key), timeout=30)
        sender.send(request(1))
        assert next(answers).error_message == ""
        rig.state.keys.clear()
        rig.publish()
        sender.send(request(2))
        assert "API key is not valid" in next(answers).error_message
        sender.close()
        assert list(answers) == []


@pytest.fixture
def slow(rig: Rig) -> tuple[Rig, Any, str]:
    """A worker with a model that takes its time: about a millisecond times the value."""
    key = rig.key("acme")
    rig.replica("r", "slow:1", models.slow(), max_rows=1)
    rig.deploy("acme/slow", target("slow:1", models.slow(), ["r"]), timeout_ms=60_000)
    rig.publish()
    return rig, rig.worker(), key


def test_a_cut_stream_cancels_what_is_in_flight(slow: Any) -> None:
    """Every request that was in flight has its record, as an error; no later one was read."""
    rig, worker, key = slow
    with grpc.insecure_channel(worker.grpc) as channel:
        stub, sender = GRPCInferenceServiceStub(channel), Sender()
        answers = stub.ModelStreamInfer(sender, metadata=auth(key), timeout=60)
        sender.send(request(0, "slow", (1,)))
        next(answers)
        sender.send(*(request(i, "slow", (30,)) for i in range(1, 200)))
        until(lambda: sender.taken == 200)
        # It is answering some of them, and has read no more than it may.
        until(lambda: len(rig.records()) >= 2)
        answers.cancel()
        sender.close()
    until(lambda: [r.status for r in rig.records()].count("error") >= 1)
    assert worker.stop() == 0
    statuses = [r.status for r in rig.records()]
    assert len(statuses) <= 1 + 2 * rpcstream.AT_ONCE
    assert statuses.count("error") <= rpcstream.AT_ONCE


def test_a_worker_that_ends_answers_what_it_has_read(slow: Any) -> None:
    """On SIGTERM streams are read no further, answered, and told to go elsewhere."""
    _, worker, key = slow
    with grpc.insecure_channel(worker.grpc) as channel:
        stub, sender = GRPCInferenceServiceStub(channel), Sender()
        nothing = Sender()
        idle = stub.ModelStreamInfer(nothing, metadata=auth(key), timeout=60)
        answers = stub.ModelStreamInfer(sender, metadata=auth(key), timeout=60)
        sender.send(request(0, "slow", (1,)))
        next(answers)
        sender.send(*(request(i, "slow", (50,)) for i in range(1, 4)))
        assert next(answers).infer_response.id == "1"
        worker.process.terminate()
        assert [next(answers).infer_response.id for _ in range(2)] == ["2", "3"]
        for stream in (answers, idle):
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert dict(caught.value.trailing_metadata())["meuse-code"] == "unavailable"
        sender.close(), nothing.close()
    assert worker.process.wait(15) == 0


class _Plane:
    is_ready = True


class _Message:
    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size

    def ByteSize(self) -> int:  # noqa: N802
        return self.size


@pytest.mark.parametrize(("size", "expected"), [(1, rpcstream.AT_ONCE), (400, 2), (5000, 1)])
def test_in_flight_is_bounded(size: int, expected: int) -> None:
    """In number and in bytes, one always let through; an answer taken makes room for one."""

    async def run() -> None:
        asked, gates = [], [asyncio.Event() for _ in range(100)]

        async def requests() -> AsyncIterator[Any]:
            for i in range(100):
                yield _Message(i, size)

        async def answer(message: Any) -> Any:
            asked.append(message.number)
            await gates[message.number].wait()
            return message.number

        readiness = rpcstream.Readiness(_Plane())  # type: ignore[arg-type]
        stream = aiter(rpcstream.InferStream(requests(), answer, readiness, 1000))
        first = asyncio.ensure_future(anext(stream))
        for _ in range(500):
            await asyncio.sleep(0)
        assert asked == list(range(expected))
        gates[0].set()
        assert await first == 0
        for _ in range(500):
            await asyncio.sleep(0)
        # Not before the client has taken the answer: only then is the next one asked for.
        assert asked == list(range(expected))
        second = asyncio.ensure_future(anext(stream))
        for _ in range(500):
            await asyncio.sleep(0)
        assert asked == list(range(expected + 1))
        for gate in gates:
            gate.set()
        assert [await second] + [n async for n in stream] == list(range(1, 100))

    asyncio.run(run())


def test_leaving_a_stream_cancels_its_requests() -> None:
    """All of them, before it is left."""

    async def run() -> None:
        cancelled = []

        async def requests() -> AsyncIterator[Any]:
            for i in range(5):
                yield _Message(i, 1)

        async def answer(message: Any) -> Any:
            if message.number == 0:
                return 0
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(message.number)
                raise

        readiness = rpcstream.Readiness(_Plane())  # type: ignore[arg-type]
        stream: Any = aiter(rpcstream.InferStream(requests(), answer, readiness, 1000))
        assert await anext(stream) == 0
        for _ in range(50):
            await asyncio.sleep(0)
        await stream.aclose()
        assert sorted(cancelled) == [1, 2, 3, 4]

    asyncio.run(run())


def test_a_failure_that_is_no_refusal_ends_the_stream() -> None:
    """It is not passed over, and neither is a failure to read."""

    async def run(broken: str) -> None:
        async def requests() -> AsyncIterator[Any]:
            yield _Message(0, 1)
            if broken == "read":
                raise OSError("gone")

        async def answer(message: Any) -> Any:
            if broken == "answer":
                raise ValueError("a bug")
            return message.number

        readiness = rpcstream.Readiness(_Plane())  # type: ignore[arg-type]
        async for _ in rpcstream.InferStream(requests(), answer, readiness, 1000):
            pass

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(run("answer"))
    with pytest.raises(OSError, match="gone"):
        asyncio.run(run("read"))


# Health


def test_health_checks_need_no_key(channel: Any) -> None:
    """Of the server and of the service by name; another name is NOT_FOUND."""
    stub = HealthStub(channel)
    for name in ("", SERVICE):
        got = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert got.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_watches_see_the_end(slow: Any) -> None:
    """SERVING at once, NOT_SERVING when the worker is about to end, then the watch ends."""
    _, worker, _ = slow
    serving = health_pb2.HealthCheckResponse
    with grpc.insecure_channel(worker.grpc) as channel:
        stub = HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == serving.SERVING
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=60)
        assert next(unknown).status == serving.SERVICE_UNKNOWN
        worker.process.terminate()
        assert [answer.status for answer in watch] == [serving.NOT_SERVING]
        assert list(unknown) == []
    assert worker.process.wait(15) == 0


def test_watches_are_bounded(platform: Platform, channel: Any) -> None:
    """They need no key, so they may not use up the worker's calls; a place comes back."""
    stub = HealthStub(channel)

    def watch() -> Any:
        made = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        next(made)
        return made

    watches = [watch() for _ in range(MAX_WATCHES)]
    with pytest.raises(grpc.RpcError) as caught:
        watch()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for one in watches:
        one.cancel()

    def again() -> bool:
        try:
            watch().cancel()
        except grpc.RpcError:
            return False
        return True

    until(again)


# Reflection


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_describes_what_is_served(
    platform: Platform, channel: Any, version: str
) -> None:
    """A client finds the services, and from a symbol or a name the file that has it."""
    ask = reflection_pb2.ServerReflectionRequest
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    call = channel.stream_stream(
        path, ask.SerializeToString, reflection_pb2.ServerReflectionResponse.FromString
    )
    given = [
        ask(list_services=""),
        ask(file_containing_symbol=SERVICE),
        ask(file_containing_symbol="inference.ModelInferRequest.InferInputTensor"),
        ask(file_by_filename="health.proto", host="h"),
        ask(file_by_filename="/etc/passwd"),
        ask(file_containing_symbol="inference.Nothing"),
        ask(all_extension_numbers_of_type="inference.ModelInferRequest"),
        ask(),
    ]
    got = list(call(iter(given), metadata=auth(platform.key), timeout=10))
    assert [a.original_request for a in got] == given
    assert [s.name for s in got[0].list_services_response.service] == [
        "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", SERVICE,
    ]  # fmt: skip
    for answer in got[1:3]:
        (file,) = answer.file_descriptor_response.file_descriptor_proto
        assert file == pb.DESCRIPTOR.serialized_pb
    assert got[3].valid_host == "h"
    assert b"grpc.health.v1" in got[3].file_descriptor_response.file_descriptor_proto[0]
    assert [a.error_response.error_code for a in got[4:]] == [5, 5, 5, 3]


def test_reflection_needs_a_key(platform: Platform, channel: Any) -> None:
    """What is served is told to those who may call it."""
    stub = ServerReflectionStub(channel)
    given = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ServerReflectionInfo(iter([given]), timeout=10))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_many_streams_at_once(platform: Platform) -> None:
    """Each has its own order and its own bounds."""
    failures: list[Any] = []

    def one() -> None:
        with grpc.insecure_channel(
            platform.worker.grpc, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = GRPCInferenceServiceStub(channel)
            given = [request(i) for i in range(200)]
            answers = stub.ModelStreamInfer(iter(given), metadata=auth(platform.key), timeout=60)
            seen = [a.infer_response.id for a in answers]
            if seen != [str(i) for i in range(200)]:
                failures.append(seen)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_refusals_in_a_stream_are_the_same(platform: Platform, channel: Any) -> None:
    """The text in band is what a unary call says."""
    stub = GRPCInferenceServiceStub(channel)
    bad = request(1, values=(1, 2, 3))
    (answer,) = stub.ModelStreamInfer(iter([bad]), metadata=auth(platform.key), timeout=10)
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(bad, metadata=auth(platform.key), timeout=10)
    assert answer.error_message == caught.value.details()
    assert MeuseError(Code.UNAVAILABLE, "x").grpc_status == "UNAVAILABLE"
