"""What a client without a key may cost before its request is whole."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from gateway.rig import Rig, Worker, until
from meuse.gateway.cork import MAX_HEAD

if TYPE_CHECKING:
    from gateway.conftest import Platform

GET = b"GET /health/live HTTP/1.1\r\nhost: x\r\n"
POST = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"
END = b"connection: close\r\n\r\n"


def connect(worker: Worker) -> socket.socket:
    return socket.create_connection(("127.0.0.1", worker.port), 5)


def read(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    connection.settimeout(5)
    answer = b""
    while part := connection.recv(1 << 16):
        answer += part
    return answer


@pytest.mark.parametrize(
    "sent",
    [
        GET + b"a: b\r\n" * 4000 + END,
        GET + b"a: b\r\n" * 4000,
        GET + b"a: " + b"b" * 2 * MAX_HEAD,
        b"GET /" + b"b" * 2 * MAX_HEAD,
        b"GET /" + b"b" * MAX_HEAD + b" HTTP/1.1\r\n" + END,
        b"\r\n" * MAX_HEAD,
    ],
    ids=["many", "many and no end", "one endless", "endless path", "long path", "blank lines"],
)
@pytest.mark.parametrize("step", [1 << 30, 1000])
def test_a_large_head_is_refused(platform: Platform, sent: bytes, step: int) -> None:
    """431 and the end of the connection, in one piece or in many."""
    with connect(platform.worker) as connection:
        for start in range(0, len(sent), step):
            connection.sendall(sent[start : start + step])
        answer = read(connection)
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert answer.endswith(b"larger than 65536 bytes")


@pytest.mark.parametrize("end", [b"", END])
def test_a_large_head_behind_another_request_is_refused(platform: Platform, end: bytes) -> None:
    """The connection ends without a word: it would be taken for the first request's answer."""
    with connect(platform.worker) as connection:
        connection.sendall(GET + b"\r\n" + GET + b"a: b\r\n" * 4000 + end)
        try:
            answer = read(connection)
        except ConnectionResetError:
            answer = b""
    assert b"431" not in answer
    assert answer.count(b"HTTP/1.1 200 OK") <= 1


@pytest.mark.parametrize("trailer", [b"a: b\r\n" * 40_000, b"a: " + b"b" * 300_000])
def test_large_trailers_are_refused(platform: Platform, trailer: bytes) -> None:
    """What follows a body is bounded as what precedes it; nobody waits for an answer yet."""
    head = POST.replace(b"\r\n\r\n", f"\r\nauthorization: Bearer {platform.key}\r\n\r\n".encode())
    with connect(platform.worker) as connection:
        connection.sendall(head + b"0\r\n")
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(trailer), 1000):
                connection.sendall(trailer[start : start + 1000])
            assert read(connection) == b""


def test_heads_do_not_stay_in_memory(platform: Platform) -> None:
    """Many clients with endless heads leave the worker as small as it was."""
    before = platform.worker.rss_mb()
    for _ in range(3):
        open_ones = [connect(platform.worker) for _ in range(50)]
        for connection in open_ones:
            connection.sendall(GET + b"a: b\r\n" * 100_000)
        for connection in open_ones:
            connection.close()
    assert platform.worker.status("/health/live") == 200
    assert platform.worker.rss_mb() - before < 30


def test_a_head_below_the_bound_is_read(platform: Platform) -> None:
    """Also twice on one connection, in pieces and pipelined."""
    large = GET + b"a: " + b"b" * 60_000 + b"\r\n"
    with connect(platform.worker) as connection:
        for start in range(0, len(large), 1000):
            connection.sendall(large[start : start + 1000])
        connection.sendall(b"\r\n" + large + b"\r\n" + large + END)
        assert read(connection).count(b"HTTP/1.1 200 OK") == 3


@pytest.fixture
def hasty(rig: Rig) -> Worker:
    """A worker that waits one second for a head, and takes three connections."""
    rig.publish()
    return rig.worker(head_s=1.0, max_connections=3)


def test_a_slow_head_is_cut_off(hasty: Worker) -> None:
    """However often a byte comes; a connection that says nothing is closed without a word."""
    begun = time.monotonic()
    with connect(hasty) as silent, connect(hasty) as slow:
        slow.sendall(GET + b"a: ")
        for _ in range(9):
            time.sleep(0.1)
            slow.sendall(b"b")
        assert read(slow).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert time.monotonic() - begun < 4
        assert read(silent) == b""
    with connect(hasty) as second:
        second.sendall(GET + b"\r\n")
        assert second.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        second.sendall(GET + b"\r\nGET /hea")
        assert second.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        assert read(second).startswith(b"HTTP/1.1 408 ")


def test_only_heads_are_hurried(hasty: Worker) -> None:
    """An idle connection stays, and a body may take its time."""
    with connect(hasty) as connection:
        for wait in (1.5, 0):
            connection.sendall(GET + b"\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
            time.sleep(wait)
        connection.sendall(POST)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        time.sleep(1.5)
        connection.sendall(b"1\r\nx\r\n0\r\n\r\n" + GET + END)
        assert read(connection).startswith(b"HTTP/1.1 200 OK")


def test_connections_are_bounded(hasty: Worker) -> None:
    """Beyond the bound requests are answered 503; afterwards all is well again."""
    held = [connect(hasty) for _ in range(3)]
    assert hasty.status("/health/live") == 503
    for connection in held:
        connection.close()
    until(lambda: hasty.status("/health/live") == 200)


BODY = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n"


def test_a_slow_body_is_cut_off(rig: Rig) -> None:
    """A body that hardly comes is answered 408 and its place is free again; a fair one goes on."""
    key = rig.key("acme")
    rig.publish()
    worker = rig.worker(body_s=2.0)
    head = BODY + f"authorization: Bearer {key}\r\n\r\n".encode()
    with connect(worker) as silent, connect(worker) as slow, connect(worker) as fair:
        for one in (silent, slow, fair):
            one.sendall(head)
        for _ in range(25):
            time.sleep(0.1)
            with contextlib.suppress(ConnectionError):
                slow.sendall(b"[" * 10)
            fair.sendall(b"[" * 40_000)
        assert fair.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
        for one in (silent, slow):
            answer = read(one)
            assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert answer.endswith(b"the body arrives too slowly")
    with connect(worker) as refused:
        # Answered before the body came: it may not stay away for ever either.
        refused.sendall(BODY + b"\r\n")
        assert read(refused).startswith(b"HTTP/1.1 401 ")
