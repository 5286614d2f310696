"""An open-loop HTTP load client: requests are due by a clock, whatever the server does.

Latency runs from the moment at which a request was due, not from when it could be sent: a
server that stalls is charged for all that had to wait meanwhile (no coordinated omission; Gil
Tene, "How not to measure latency", 2015). A request that finds no idle connection opens one, up
to a limit, then waits in line here and its clock runs on. How late sends left for the client's
own reasons is reported as `lag`.

A process of its own (`python benchmarks/openloop.py < options.json`): rate, seconds, poisson,
connections, timeout_s, seed, objective_s and the request. Prints one JSON line. It works on
epoll itself because event loops keep time in milliseconds.
"""

from __future__ import annotations

import base64
import collections
import ctypes
import itertools
import json
import random
import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from histogram import Histogram

_PR_SET_TIMERSLACK = 29


def arrivals(rate: float, seconds: float, poisson: bool, seed: int) -> Iterator[float]:
    """Due times from 0 up to `seconds`: a Poisson process, or one every 1/rate seconds."""
    chance = random.Random(seed)
    at = 0.0
    for i in itertools.count():
        at = at + chance.expovariate(rate) if poisson else i / rate
        if at >= seconds:
            return
        yield at


class Link:
    """One connection: idle, or with one request whose due time it knows."""

    __slots__ = ("buffer", "due", "sock")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.due = 0.0
        self.buffer = b""


def status(buffer: bytes) -> int | None:
    """The status of a whole answer; None while it is not whole."""
    head, separator, rest = buffer.partition(b"\r\n\r\n")
    if not separator:
        return None
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at < 0:
        whole = rest.endswith(b"0\r\n\r\n")  # chunked
    else:
        end = lower.find(b"\r\n", at)
        whole = len(rest) >= int(lower[at + 15 : end if end >= 0 else None])
    return int(head[9:12]) if whole else None


class Run:
    def __init__(self, options: dict[str, Any]) -> None:
        self.port: int = options["port"]
        self.request = base64.b64decode(options["request"])
        self.limit: int = options["connections"]
        self.timeout: float = options["timeout_s"]
        self.objective: float = options.get("objective_s") or float("inf")
        self.due = arrivals(
            options["rate"], options["seconds"], options["poisson"], options.get("seed", 0)
        )
        self.epoll = select.epoll()
        self.links: dict[int, Link] = {}
        self.idle: list[Link] = []
        self.waiting: collections.deque[float] = collections.deque()
        self.all, self.good, self.lag = Histogram(), Histogram(), Histogram()
        self.statuses: collections.Counter[str] = collections.Counter()
        self.in_time = 0
        self.busy = 0

    def open(self) -> Link:
        link = Link(self.port)
        self.links[link.sock.fileno()] = link
        self.epoll.register(link.sock.fileno(), select.EPOLLIN)
        return link

    def close(self, link: Link) -> None:
        self.links.pop(link.sock.fileno(), None)
        link.sock.close()

    def send(self, link: Link, due: float) -> None:
        link.due, link.buffer = due, b""
        self.busy += 1
        try:
            link.sock.sendall(self.request)
        except OSError:
            self.failed(link)

    def start(self, due: float) -> None:
        if self.idle:
            self.send(self.idle.pop(), due)
        elif len(self.links) < self.limit:
            self.send(self.open(), due)
        else:
            self.waiting.append(due)

    def failed(self, link: Link, why: str = "broken") -> None:
        self.busy -= 1
        self.statuses[why] += 1
        self.close(link)

    def received(self, link: Link) -> None:
        try:
            data = link.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if link in self.idle:
                self.idle.remove(link)
                self.close(link)
            else:
                self.failed(link)
            return
        link.buffer += data
        code = status(link.buffer)
        if code is None:
            return
        took = time.perf_counter() - link.due
        self.busy -= 1
        self.statuses[str(code)] += 1
        self.all.add(took)
        if code == 200:
            self.good.add(took)
            self.in_time += took <= self.objective
        if self.waiting:
            self.send(link, self.waiting.popleft())
        else:
            self.idle.append(link)

    def expire(self, now: float) -> None:
        for link in [k for k in self.links.values() if k not in self.idle]:
            if now - link.due > self.timeout:
                self.failed(link, "timeout")
        while self.waiting and now - self.waiting[0] > self.timeout:
            self.waiting.popleft()
            self.statuses["timeout"] += 1

    def run(self) -> None:
        for _ in range(min(8, self.limit)):
            self.idle.append(self.open())
        began = time.perf_counter() + 0.05
        upcoming = next(self.due, None)
        checked = began
        while upcoming is not None or self.busy or self.waiting:
            now = time.perf_counter()
            while upcoming is not None and began + upcoming <= now:
                self.lag.add(now - began - upcoming)
                self.start(began + upcoming)
                upcoming = next(self.due, None)
            if now - checked > 0.1:
                checked = now
                self.expire(now)
            wait = 0.05 if upcoming is None else began + upcoming - time.perf_counter()
            if wait > 0:  # select, because epoll rounds to milliseconds
                select.select([self.epoll], [], [], min(wait, 0.05))
            for number, _ in self.epoll.poll(0):
                link = self.links.get(number)
                if link is not None:
                    self.received(link)
        for link in list(self.links.values()):
            link.sock.close()


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)
    run = Run(json.load(sys.stdin))
    run.run()
    print(
        json.dumps(
            {
                "statuses": run.statuses,
                "in_time": run.in_time,
                "all": run.all.to_dict(),
                "good": run.good.to_dict(),
                "lag": run.lag.to_dict(),
            }
        )
    )


if __name__ == "__main__":
    main()
