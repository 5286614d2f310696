"""The end of a worker loses no request: not one in flight, nor one on its way to it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from typing import Any

import grpc
import pytest

from gateway.rig import Rig, Worker, target, until
from gateway.test_rpc import auth, request
from meuse.gateway.wire.inference_pb2_grpc import GRPCInferenceServiceStub
from meuse.gateway.worker import IDLE_S
from meuse.meter import segments
from meuse.runtime.lifeline import BEAT_S
from serve import models

BODY = b'{"model":"m","input_data":[[1,2]]}'


class Connection:
    """A kept connection that sees every byte of the answers."""

    def __init__(self, worker: Worker, key: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", worker.port), 10)
        self._file = self.socket.makefile("rb")
        self._head = b"POST /predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n" % (
            key.encode()
        )

    def send(self, body: bytes = BODY, parts: int = 2) -> None:
        """The first of two parts ends in the middle of the head."""
        whole = self._head + b"content-length: %d\r\n\r\n" % len(body) + body
        self.socket.sendall(whole if parts == 2 else whole[:30])
        self._rest = whole[30:]

    def send_rest(self) -> None:
        self.socket.sendall(self._rest)

    def answer(self) -> tuple[int, bool, bytes]:
        """(status, whether it is the last of this connection, body)."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.partition(b": ")
            headers[name] = value
        body = self._file.read(int(headers[b"content-length"]))
        return status, headers.get(b"connection") == b"close", body

    def call(self) -> tuple[int, bool]:
        self.send()
        return self.answer()[:2]

    def is_closed(self) -> bool:
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def serving(rig: Rig, model: bytes | None = None) -> tuple[Worker, str]:
    key = rig.key()
    rig.replica("r1", "m:1", model or models.doubled())
    rig.deploy("acme/m", target("m:1", model or models.doubled(), ["r1"]))
    rig.publish()
    return rig.worker(), key


def terminate(worker: Worker) -> None:
    """SIGTERM, and wait until it has let go of the listening socket."""
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: worker.status("/health/live") == 0)


def test_a_kept_connection_serves_one_more_request(rig: Rig) -> None:
    """Idle connections outlive SIGTERM; the next answer on them says that it was the last."""
    worker, key = serving(rig)
    connections = [Connection(worker, key) for _ in range(3)]
    assert [each.call() for each in connections] == [(200, False)] * 3
    terminate(worker)
    for each in connections[:2]:
        assert each.call() == (200, True)
        assert each.is_closed()
    assert connections[2].is_closed()  # without a request, after a while
    assert worker.process.wait(15) == 0
    assert Counter(r.status for r in rig.records()) == {"ok": 5}
    assert all(segments.is_released(path) for path in segments.list_segments(rig.journal))
    for each in connections:
        each.close()


def test_a_worker_without_connections_ends_at_once(rig: Rig) -> None:
    """The drain time is for open connections alone."""
    worker, key = serving(rig)
    connection = Connection(worker, key)
    assert connection.call() == (200, False)
    connection.close()
    begun = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - begun < IDLE_S + 1


def test_what_has_begun_is_answered(rig: Rig) -> None:
    """A request in flight, and one of which half a head has arrived, get their answers."""
    worker, key = serving(rig, models.slow())
    running, begun = Connection(worker, key), Connection(worker, key)
    running.send(b'{"model":"m","input_data":[[400]]}')
    begun.send(b'{"model":"m","input_data":[[1]]}', parts=1)
    until(lambda: rig.started("r1"))
    terminate(worker)
    assert running.answer()[:2] == (200, True)
    time.sleep(IDLE_S)  # its head may take longer than idle connections have
    begun.send_rest()
    assert begun.answer()[:2] == (200, True)
    assert worker.process.wait(15) == 0
    for each in (running, begun):
        each.close()


def test_a_worker_says_when_it_is_ready(rig: Rig) -> None:
    """A byte on `ready_fd` once connections are taken, then one for every second that its loop
    turns; none while it is stopped."""
    read_end, write_end = os.pipe()
    worker = rig.worker(ready_fd=write_end)
    os.close(write_end)
    assert os.read(read_end, 10) == b"1"
    assert os.read(read_end, 10) == b"1"
    os.set_blocking(read_end, False)
    worker.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED | os.WNOWAIT)
    with contextlib.suppress(BlockingIOError):
        os.read(read_end, 10)
    time.sleep(2.2 * BEAT_S)
    with pytest.raises(BlockingIOError):
        os.read(read_end, 10)
    worker.process.send_signal(signal.SIGCONT)
    until(lambda: worker.status("/health/live") == 200)
    os.set_blocking(read_end, True)
    assert os.read(read_end, 10).startswith(b"1")
    assert worker.status("/health/live") == 200
    os.close(read_end)


class Rpcs:
    """Channels that call in a closed loop until the block ends; every outcome is counted."""

    def __init__(self, address: str, key: str, channels: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(address, key)) for _ in range(channels)
        ]

    def _call(self, address: str, key: str) -> None:
        alone = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, alone) as channel:
            stub = GRPCInferenceServiceStub(channel)
            given: Any = request("m", fp32_contents=[1, 2])
            while not self._stop.is_set():
                try:
                    stub.ModelInfer(given, metadata=auth(key), timeout=30)
                    self.outcomes["OK"] += 1
                except grpc.RpcError as error:
                    self.outcomes[f"{error.code()} {error.details()}"] += 1

    def __enter__(self) -> Rpcs:
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def more(self) -> None:
        so_far = self.outcomes["OK"]
        until(lambda: self.outcomes["OK"] > so_far + 100, 30)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.timeout(180)
def test_no_call_is_lost_when_a_worker_goes(rig: Rig) -> None:
    """Busy and idle gRPC channels move to the other worker of the port, and no call fails."""
    first, key = serving(rig)
    address = first.grpc
    with grpc.insecure_channel(address) as idle:
        stub = GRPCInferenceServiceStub(idle)
        given: Any = request("m", fp32_contents=[1, 2])
        stub.ModelInfer(given, metadata=auth(key), timeout=30)
        with Rpcs(address, key, 8) as load:
            for slot in range(1, 4):
                second = rig.worker(slot=slot, grpc_address=address)
                assert first.stop(30) == 0
                load.more()
                first = second
        stub.ModelInfer(given, metadata=auth(key), timeout=30)
    assert load.outcomes.keys() == {"OK"}, load.outcomes
    assert len(rig.records()) == load.outcomes["OK"] + 2
