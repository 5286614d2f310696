"""The open-loop client against real servers on loopback."""

from __future__ import annotations

import contextlib
import itertools
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from bodies import Request
from clients import OpenLoop
from openloop import arrivals, status

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"
REQUEST = Request("/", b"{}")


class Server:
    """Answers every request with what `answer()` gives; requests have no more than a packet."""

    def __init__(self, answer: Callable[[], bytes]) -> None:
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(link,), daemon=True).start()

    def serve(self, link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):  # the client hangs up on a timeout
            while link.recv(65536):
                link.sendall(self.answer())


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[], bytes]], int]]:
    made: list[Server] = []

    def start(answer: Callable[[], bytes]) -> int:
        made.append(Server(answer))
        return made[-1].port

    yield start
    for server in made:
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()


def test_a_stall_is_charged_to_all_that_were_due_meanwhile(
    serve: Callable[[Callable[[], bytes]], int],
) -> None:
    """One pause of half a second, seen over one connection, shows in far more than one latency."""
    lock, paused = threading.Lock(), []

    def answer() -> bytes:
        with lock:
            first = not paused
            paused.append(1)
        if first:
            time.sleep(0.5)
        return OK

    figures = OpenLoop(serve(answer), REQUEST, 100, 1.0, poisson=False, connections=1).figures()
    assert figures["statuses"] == {"200": 100}
    # A closed loop would have one slow request in a hundred. Here half of them were due
    # during the pause, the median one just at its end.
    assert figures["p90_us"] > 350_000
    assert figures["p100_us"] >= 500_000


def test_all_that_is_due_is_sent_and_refusals_are_no_goodput(
    serve: Callable[[Callable[[], bytes]], int],
) -> None:
    """429s are counted as such and are in neither the latencies nor the goodput."""
    figures = OpenLoop(serve(lambda: BUSY), REQUEST, 200, 0.5, poisson=False).figures()
    assert figures["statuses"] == {"429": 100}
    assert figures["goodput"] == 0
    assert figures["p50_us"] is None


def test_several_processes_share_a_rate(serve: Callable[[Callable[[], bytes]], int]) -> None:
    """A rate beyond one process is split, and their figures are those of one run."""
    loop = OpenLoop(serve(lambda: OK), REQUEST, 9_000, 0.1, poisson=False, timeout_s=60.0)
    figures = loop.figures()
    assert figures["processes"] == 2
    assert figures["statuses"] == {"200": 900}


def test_no_answer_in_time_is_a_timeout(serve: Callable[[Callable[[], bytes]], int]) -> None:
    """A request that is never answered ends as a timeout, and so does the run."""

    def never() -> bytes:
        time.sleep(20)
        return OK

    figures = OpenLoop(serve(never), REQUEST, 20, 0.2, poisson=False, timeout_s=0.5).figures()
    assert figures["statuses"] == {"timeout": 4}


def test_poisson_arrivals_have_the_rate_and_the_spread() -> None:
    """Gaps of a Poisson process have a mean of 1/rate and a deviation as large."""
    times = list(arrivals(1000, 20, True, 7))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert statistics.mean(gaps) == pytest.approx(0.001, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (OK, 200),
        (OK[:-1], None),
        (OK[:20], None),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nx: y\r\n\r\n", 503),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", None),
    ],
)
def test_an_answer_counts_when_it_is_whole(answer: bytes, code: int | None) -> None:
    """By its content length, or its last chunk."""
    assert status(answer) == code
