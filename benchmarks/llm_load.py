"""A client of streamed chat completions: waves of requests that begin together.

Run as a process of its own (`python benchmarks/llm_load.py < options.json`). Options: `port`,
`path`, `headers`, and `waves`, each a list of bodies (JSON texts) that are asked at once over
connections opened before. Prints one JSON line: for each wave its seconds, from the first byte
sent to the last received, and for each stream when its first text came, and what it was told.
What comes is kept and read after the wave, so that reading costs the measured nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any

import httptools
import uvloop

_TEXT = re.compile(rb'"content": ?"[^"]')
LONGEST_S = 300.0


class Stream(asyncio.Protocol):
    """One connection with one request."""

    def __init__(self, request: bytes, done: asyncio.Future[None]) -> None:
        self.request, self.done = request, done
        self.first = self.end = 0.0
        self.pieces: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def send(self) -> None:
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.first and _TEXT.search(data):
            self.first = time.perf_counter()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.end = time.perf_counter()
        self.status = self._parser.get_status_code()
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self.transport.close()

    def told(self, began: float) -> dict[str, Any]:
        """Raises ValueError for an answer that is not whole."""
        body = b"".join(self.pieces)
        if not self.end or self.status != 200:
            raise ValueError(f"not answered: {body[-300:]!r}")
        text, usage, events = [], None, 0
        for line in body.split(b"\n"):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "choices" not in event:
                raise ValueError(f"an error: {line[:300]!r}")
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                if piece := (choice.get("delta") or {}).get("content"):
                    text.append(piece)
                    events += 1
        if usage is None or not self.first:
            raise ValueError(f"no usage, or no text: {body[-300:]!r}")
        return {
            **{"first_s": self.first - began, "end_s": self.end - began, "events": events},
            **{"tokens": usage["completion_tokens"], "prompt_tokens": usage["prompt_tokens"]},
            "text": "".join(text),
        }


def wire(options: dict[str, Any], body: str) -> bytes:
    sent = body.encode()
    headers = {
        "host": f"127.0.0.1:{options['port']}",
        "content-type": "application/json",
        **options["headers"],
        "content-length": str(len(sent)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {options['path']} HTTP/1.1\r\n{head}\r\n".encode() + sent


async def wave(options: dict[str, Any], bodies: list[str]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    streams: list[Stream] = []
    for body in bodies:
        made = Stream(wire(options, body), loop.create_future())
        await loop.create_connection(lambda made=made: made, "127.0.0.1", options["port"])  # type: ignore[misc]
        streams.append(made)
    began = time.perf_counter()
    for stream in streams:
        stream.send()
    async with asyncio.timeout(LONGEST_S):
        await asyncio.gather(*(stream.done for stream in streams))
    told = [stream.told(began) for stream in streams]
    return {"seconds": max(each["end_s"] for each in told), "streams": told}


async def run(options: dict[str, Any]) -> list[dict[str, Any]]:
    return [await wave(options, bodies) for bodies in options["waves"]]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(json.load(sys.stdin)))))
