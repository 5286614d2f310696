"""The long way of a chat that another server answers: what an ASGI application waits for.

Shows what `openai.texts.Answer` shows. Between its relay and a client that reads slowly little is
held: the relay pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from meuse.core import openai_errors
from meuse.core.errors import MeuseError
from meuse.gateway.openai import chunks
from meuse.gateway.upstream.relay import Relay

MAX_HELD = 64 * 1024


class Awaited:
    """The `Sink` of a relay. `begun` it, then take `whole_answer` or the `events`."""

    relay: Relay

    def __init__(self) -> None:
        self.is_stream = False
        self.headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._held = 0
        self._wake = asyncio.Event()
        self._is_over = False
        self._error: MeuseError | None = None

    async def begun(self) -> None:
        """Until an answer begins. Raises `MeuseError`; cancelled, it leaves nothing running."""
        try:
            self.relay.start()
            await self._wake.wait()
        except asyncio.CancelledError:
            self.leave()
            raise
        if self._error is not None and not self.is_stream:
            raise self._error
        self.headers = self.relay.rates()

    async def whole_answer(self) -> bytes:
        return b"".join(self._parts)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """What is to be written; a failure is the last event."""
        while True:
            if self._parts:
                parts, self._parts, self._held = self._parts, [], 0
                yield b"".join(parts)
                self.relay.resume()
            elif self._is_over:
                if self._error is not None:
                    yield chunks.event(openai_errors.dress(self._error))
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def leave(self) -> None:
        self.relay.leave()

    # Sink

    def whole(self, body: bytes) -> None:
        self.end(body)

    def begin(self) -> None:
        self.is_stream = True
        self._wake.set()

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)
        if self._held > MAX_HELD:
            self.relay.pause()
        self._wake.set()

    def end(self, data: bytes) -> None:
        self._parts.append(data)
        self._is_over = True
        self._wake.set()

    def fail(self, error: MeuseError) -> None:
        self._error = error
        self._is_over = True
        self._wake.set()
