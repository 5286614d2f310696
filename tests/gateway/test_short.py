"""gateway.short: what is whole at once and what is not must not be told apart by a client."""

from __future__ import annotations

import json
import socket
import time

import pytest

from gateway.conftest import Platform
from gateway.rig import Rig, Worker, target, until
from serve import models

ROWS = json.dumps({"input_data": [[1.0, 2.0], [3.0, 4.0]]}).encode()


def request(key: str, path: str = "/predictions/double", body: bytes = ROWS, **more: str) -> bytes:
    headers = {"host": "m", "authorization": f"Bearer {key}", "content-length": str(len(body))}
    lines = "".join(f"{name.replace('_', '-')}: {v}\r\n" for name, v in {**headers, **more}.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


class Raw:
    """A connection that is written to as one likes."""

    def __init__(self, at: Platform | Worker) -> None:
        url = at.url if isinstance(at, Worker) else at.worker.url
        port = int(url.rpartition(":")[2])
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.data = b""

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self.data:
            self._more()
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        while len(self.data) < length:
            self._more()
        body, self.data = self.data[:length], self.data[length:]
        return int(status.split()[1]), headers, body

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self.data += data

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.mark.parametrize("cut", [1, 20, 60, -len(ROWS), -5, -1])
def test_in_two_reads_it_is_answered_alike(platform: Platform, cut: int) -> None:
    """Wherever a request is cut in two, its answer is that of the whole one."""
    whole = request(platform.key)
    with Raw(platform) as raw:
        raw.socket.sendall(whole)
        expected = raw.answer()
        raw.socket.sendall(whole[:cut])
        time.sleep(0.05)
        raw.socket.sendall(whole[cut:])
        assert raw.answer() == expected
    assert expected[0] == 200
    assert json.loads(expected[2])["output_data"] == [[2.0, 4.0], [6.0, 8.0]]


def test_requests_in_one_read_are_answered_in_order(platform: Platform) -> None:
    """Pipelined requests, whole or not, for the data plane or not, come back in their order."""
    wrong = request(platform.key, body=b'{"input_data": [[1.0]]}')
    public = b"GET /health/live HTTP/1.1\r\nhost: m\r\n\r\n"
    unknown = request(platform.key, "/predictions/nothing")
    with Raw(platform) as raw:
        raw.socket.sendall(
            request(platform.key) + wrong + public + unknown + request(platform.key)[:-3]
        )
        time.sleep(0.05)
        raw.socket.sendall(ROWS[-3:])
        assert [raw.answer()[0] for _ in range(5)] == [200, 400, 200, 404, 200]


def test_closing_is_said_and_done(platform: Platform) -> None:
    """A client that asks for the connection to be closed is answered, and it is closed."""
    with Raw(platform) as raw:
        raw.socket.sendall(request(platform.key, connection="close"))
        status, headers, _ = raw.answer()
        assert (status, headers["connection"]) == (200, "close")
        with pytest.raises(EOFError):
            raw.answer()


def test_an_answer_awaited_by_expect_is_given(platform: Platform) -> None:
    """`Expect: 100-continue` is answered before the body is sent."""
    whole = request(platform.key, expect="100-continue")
    with Raw(platform) as raw:
        raw.socket.sendall(whole[: -len(ROWS)])
        assert raw.socket.recv(100).startswith(b"HTTP/1.1 100")
        raw.socket.sendall(ROWS)
        assert raw.answer()[0] == 200


@pytest.mark.parametrize(
    ("header", "value", "field"),
    [
        ("x_timeout_ms", "soon", "X-Timeout-Ms"),
        ("x_timeout_ms", "0", "X-Timeout-Ms"),
        ("x_timeout_ms", "9" * 12, "X-Timeout-Ms"),
        ("x_priority", "urgent", "X-Priority"),
        ("content_encoding", "gzip", "Content-Encoding"),
    ],
)
def test_headers_are_checked(platform: Platform, header: str, value: str, field: str) -> None:
    """What a header asks for and cannot have is refused by name, by the short and the long way."""
    whole = request(platform.key, **{header: value})
    with Raw(platform) as raw:
        raw.socket.sendall(whole)
        status, _, body = raw.answer()
        assert (status in (400, 415), json.loads(body)["error"]["field"]) == (True, field)
        raw.socket.sendall(whole[:-1])
        time.sleep(0.05)
        raw.socket.sendall(whole[-1:])
        again, _, body = raw.answer()
        assert (again, json.loads(body)["error"]["field"]) == (status, field)


def test_a_short_patience_is_kept(rig: Rig) -> None:
    """X-Timeout-Ms ends the wait before the deployment's own timeout does, and a client that
    leaves is cancelled; each is recorded once, as an error."""
    key = rig.key("acme")
    rig.replica("s", "slow:1", models.slow(), max_rows=1)
    rig.deploy("acme/slow", target("slow:1", models.slow(), ["s"]), timeout_ms=60_000)
    rig.publish()
    worker = rig.worker()

    def ask(turns: float, **more: str) -> bytes:
        body = json.dumps({"input_data": [[turns]]}).encode()
        return request(key, "/predictions/slow", body, **more)

    with Raw(worker) as raw, Raw(worker) as leaves:
        raw.socket.sendall(ask(50, x_priority="low"))  # teaches that a batch takes long
        assert raw.answer()[0] == 200
        raw.socket.sendall(ask(1500, x_timeout_ms="300"))
        status, _, body = raw.answer()
        assert (status, json.loads(body)["error"]["code"]) == (504, "deadline_exceeded")
        leaves.socket.sendall(ask(1))
    until(lambda: len(rig.records()) == 3)
    assert [r.status for r in rig.records()] == ["ok", "error", "error"]
