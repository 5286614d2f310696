"""A replica process, spoken to frame by frame over its socket."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gateway.rig import Rig
from meuse.core.clock import now_ms
from meuse.core.ids import uuid7_bytes
from meuse.serve import frames
from meuse.serve.frames import Cancel, Decoder, Hello, Request, Response
from serve import models


class Client:
    """A worker's side of the socket."""

    def __init__(self, rig: Rig, replica: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(rig.sockets / f"{replica}.sock"))
        self.decoder = Decoder()
        self.frames: list[Any] = []
        self.hello: Hello = self.read()[0]
        self.number = 0

    def frame(self, array: Any, *, alone: bool = False, ms: int = 10_000) -> bytes:
        self.number += 1
        header = Request(
            self.number, uuid7_bytes(), now_ms() + ms, alone, (frames.spec_of("x", array),)
        )
        return b"".join(frames.encode(header, [array]))

    def send(self, *arrays: Any, **more: Any) -> None:
        self.socket.sendall(b"".join(self.frame(array, **more) for array in arrays))

    def read(self) -> Any:
        while not self.frames:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self.frames += self.decoder.feed(data)
        return self.frames.pop(0)

    def responses(self, count: int) -> dict[int, tuple[Response, Any]]:
        got = [self.read() for _ in range(count)]
        return {header.number: (header, tensors) for header, tensors in got}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def turns(*counts: float) -> Any:
    return np.array([[count] for count in counts], np.float32)


def test_it_greets_and_answers(rig: Rig) -> None:
    """Listening means ready; many requests in one write come back, each with its own rows."""
    rig.replica("r1", "doubled:1", models.doubled(), credits=100)
    with Client(rig, "r1") as client:
        assert client.hello == Hello("r1", "doubled:1", 100)
        client.send(*(np.full((i, 2), i, np.float32) for i in range(1, 41)))
        got = client.responses(40)
        for i in range(1, 41):
            header, (y,) = got[i]
            assert (header.rows, header.error) == (i, None)
            assert np.array_equal(y, np.full((i, 2), 2 * i))


def test_workers_meet_in_one_batch(rig: Rig) -> None:
    """What arrives from two connections while the engine runs is one batch."""
    rig.replica("r1", "slow:1", models.slow())
    with Client(rig, "r1") as one, Client(rig, "r1") as two:
        one.send(turns(150))
        time.sleep(0.05)
        one.send(turns(1))
        two.send(turns(2))
        first = one.responses(2)
        (second,) = two.responses(1).values()
        assert len(rig.started("r1")) == 2
        assert first[2][1][0].tolist() == [[1.0]]
        assert second[1][0].tolist() == [[2.0]]


def test_credits_and_the_queue_are_bounds(rig: Rig) -> None:
    """Beyond either, requests are refused as overloaded; the others are answered."""
    rig.replica("r1", "slow:1", models.slow(), credits=4, max_queue=3)
    with Client(rig, "r1") as client:
        client.send(turns(100), *[turns(1)] * 5)
        got = client.responses(6)
        codes = [got[n][0].error.code if got[n][0].error else None for n in range(1, 7)]
        assert codes.count("overloaded") >= 2
        assert codes[0] is None


def test_a_late_request_is_not_run(rig: Rig) -> None:
    """One whose deadline passed in the queue is told so."""
    rig.replica("r1", "slow:1", models.slow())
    with Client(rig, "r1") as client:
        client.send(turns(150))
        time.sleep(0.05)
        client.send(turns(1), ms=10)
        got = client.responses(2)
        assert got[1][0].error is None
        assert got[2][0].error.code == "deadline_exceeded"


def test_what_would_be_late_is_refused_while_the_engine_runs(rig: Rig) -> None:
    """A deadline that cannot be met is answered at once, before the running batch is done."""
    rig.replica("r1", "slow:1", models.slow(), max_rows=1)
    with Client(rig, "r1") as client:
        client.send(turns(40))  # teaches what a row takes
        client.responses(1)
        client.send(turns(300))
        client.send(turns(1), ms=1)
        header, _ = client.read()
        assert (header.number, header.error.code) == (3, "overloaded")
        assert header.error.retry_after_s >= 1
        assert client.read()[0].number == 2


def test_cancelling_reaches_the_queue(rig: Rig) -> None:
    """What waits is answered as cancelled at once; what was answered already is no error."""
    rig.replica("r1", "slow:1", models.slow(), max_rows=1)
    with Client(rig, "r1") as client:
        client.send(turns(50))  # teaches that a batch takes long, so cancellations are heard
        client.responses(1)
        client.send(turns(300), turns(1), turns(1))
        client.socket.sendall(b"".join(frames.encode(Cancel(3))))
        header, _ = client.read()
        assert (header.number, header.error.code, header.compute_us) == (3, "cancelled", 0)
        got = client.responses(2)
        assert [got[n][0].error for n in (2, 4)] == [None, None]
        client.socket.sendall(b"".join(frames.encode(Cancel(4))))
        client.send(turns(1))
        assert client.read()[0].number == 5


def test_a_worker_that_dies_takes_its_requests_along(rig: Rig) -> None:
    """Nobody is left to read the answers: the queue is free for others."""
    rig.replica("r1", "slow:1", models.slow(), max_rows=1, max_queue=60)
    with Client(rig, "r1") as other:
        other.send(turns(50))  # teaches that a batch takes long
        other.responses(1)
        with Client(rig, "r1") as doomed:
            doomed.send(*[turns(200)] * 60)
            time.sleep(0.1)
        time.sleep(0.1)
        other.send(turns(1))
        assert other.responses(1)[2][0].error is None


def test_answers_tell_of_queue_and_batch(rig: Rig) -> None:
    """How long each waited, how large its batch was; each batch is told of once."""
    rig.replica("r1", "slow:1", models.slow())
    with Client(rig, "r1") as client:
        client.send(turns(50))  # teaches that a batch takes long, so arrivals are seen meanwhile
        client.responses(1)
        client.send(turns(200))
        time.sleep(0.03)
        client.send(turns(1), turns(1, 1))
        got = client.responses(3)
        assert [got[n][0].batch_rows for n in (2, 3, 4)] == [1, 3, 0]
        assert got[3][0].queue_us > 1000
        assert got[2][0].compute_us > got[3][0].compute_us


def test_a_bad_frame_costs_one_connection(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    """The process and its other connections go on; the log says why the one was cut."""
    rig.replica("r1", "doubled:1", models.doubled())
    with Client(rig, "r1") as good:
        for noise in (b"\xff" * 64, b"".join(frames.encode(Hello("a", "b", 1)))):
            with Client(rig, "r1") as bad:
                bad.socket.sendall(noise)
                with pytest.raises((EOFError, ConnectionResetError)):
                    bad.read()
        good.send(np.ones((1, 2), np.float32))
        assert good.responses(1)[1][0].error is None
    log = capfd.readouterr().err
    assert "a worker is cut off: a frame of 4294967295 bytes is not acceptable" in log
    assert "a worker is cut off: a worker sent Hello" in log


def test_sigterm_finishes_the_queue(rig: Rig) -> None:
    """The socket goes at once, queued requests are answered, the exit status is 0."""
    process = rig.replica("r1", "slow:1", models.slow())
    with Client(rig, "r1") as client:
        client.send(turns(100))
        time.sleep(0.03)
        client.send(*[turns(1)] * 70)  # two batches
        time.sleep(0.03)
        process.send_signal(signal.SIGTERM)
        assert len(client.responses(71)) == 71
        with pytest.raises(EOFError):
            client.read()
    assert process.wait(5) == 0
    assert not (rig.sockets / "r1.sock").exists()


def test_a_model_that_fails_on_zeros_never_listens(rig: Rig) -> None:
    """Warming up comes before listening, so a broken model never looks ready."""
    process = rig.replica("r1", "broken:1", models.broken(), wait=False)
    assert process.wait(10) != 0
    assert not (rig.sockets / "r1.sock").exists()
