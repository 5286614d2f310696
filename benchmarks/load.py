"""A closed-loop HTTP load client: each connection sends, waits for the answer, sends again.

Run as a process of its own (`python benchmarks/load.py < options.json`) so that it never shares
an interpreter with what it measures. Prints one JSON line.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from typing import Any

import uvloop
from openloop import status


class Connection(asyncio.Protocol):
    """Sends one prepared request after another and counts full answers."""

    def __init__(self, request: bytes, until: float, done: asyncio.Future[None]) -> None:
        self.request, self.until, self.done = request, until, done
        self.latencies: list[float] = []
        self.errors = 0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.send()

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        code = status(self.buffer)
        if code is None:
            return
        now = time.perf_counter()
        if code == 200:
            self.latencies.append(now - self.sent)
        else:
            self.errors += 1
        self.buffer = b""
        if now < self.until:
            self.send()
        else:
            self.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.errors += 1
            self.finish()

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self.transport.close()


async def run(options: dict[str, Any]) -> dict[str, Any]:
    request = base64.b64decode(options["request"])
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    connections = []
    for _ in range(options["connections"]):
        done = loop.create_future()
        made = Connection(request, began + options["seconds"], done)
        await loop.create_connection(lambda made=made: made, "127.0.0.1", options["port"])  # type: ignore[misc]
        connections.append(made)
    await asyncio.gather(*(c.done for c in connections))
    seconds = time.perf_counter() - began
    latencies = sorted(latency for c in connections for latency in c.latencies)

    def percentile(percent: int) -> float | None:
        return latencies[len(latencies) * percent // 100] * 1e6 if latencies else None

    return {
        "rate": len(latencies) / seconds,
        "requests": len(latencies),
        "p50_us": percentile(50),
        "p95_us": percentile(95),
        "p99_us": percentile(99),
        "errors": sum(c.errors for c in connections),
    }


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(json.load(sys.stdin)))))
