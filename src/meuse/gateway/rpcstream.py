"""A stream of requests answered in order, several at a time, bounded; and who it ends for.

Knows neither messages nor a protocol but that a message has `ByteSize()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from meuse.core.errors import Code, MeuseError
from meuse.gateway.dataplane import DataPlane

AT_ONCE = 32
"""Requests of one stream that are unanswered; then it is not read further."""
_POLL_S = 0.1


class Readiness:
    """Tells whether the worker is ready, and calls back when that changes."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._told: dict[object, Callable[[], None]] = {}
        self._poll: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        return self._plane.is_ready

    def add(self, who: object, callback: Callable[[], None]) -> None:
        self._told[who] = callback
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._watch())

    def remove(self, who: object) -> None:
        self._told.pop(who, None)

    async def _watch(self) -> None:
        was = self.is_ready
        while self._told:
            await asyncio.sleep(_POLL_S)
            if self.is_ready != was:
                was = not was
                for callback in list(self._told.values()):
                    callback()


class InferStream:
    """Iterate once over the answers to `requests`.

    Up to `AT_ONCE` of them, or `max_bytes` together, are being answered; the next is read when
    the client has taken an answer. Leaving the iteration cancels what is in flight. When the
    worker is about to end, what was read is answered, then `unavailable` is raised.
    """

    def __init__(
        self,
        requests: AsyncIterator[Any],
        answer: Callable[[Any], Awaitable[Message]],
        readiness: Readiness,
        max_bytes: int,
    ) -> None:
        self._requests = requests
        self._answer = answer
        self._readiness = readiness
        self._max_bytes = max_bytes
        self._bytes = 0
        self._in_flight: dict[asyncio.Future[Message], int] = {}
        self._queue: asyncio.Queue[asyncio.Future[Message] | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[Message]:
        # The reader is never cancelled: gRPC's core would go on to write into what it awaits.
        # It ends with the call.
        reader = asyncio.create_task(self._read())
        self._readiness.add(self, self._end)
        try:
            while (future := await self._queue.get()) is not None:
                yield await future
                self._bytes -= self._in_flight.pop(future)
                self._room.set()
        finally:
            self._readiness.remove(self)
            self._end()
            for future in self._in_flight:
                future.cancel()
            await asyncio.gather(*self._in_flight, return_exceptions=True)
        if not self._readiness.is_ready:
            raise MeuseError(
                Code.UNAVAILABLE, "this worker is about to end", hint="Open a new stream."
            )
        if reader.done():
            reader.result()

    async def _read(self) -> None:
        try:
            async for request in self._requests:
                size = request.ByteSize()
                while self._is_full(size) and not self._ended:
                    self._room.clear()
                    await self._room.wait()
                if self._ended:
                    return
                future = asyncio.ensure_future(self._answer(request))
                self._in_flight[future] = size
                self._bytes += size
                self._queue.put_nowait(future)
                del request
        finally:
            self._queue.put_nowait(None)

    def _is_full(self, size: int) -> bool:
        if not self._in_flight:
            return False
        return len(self._in_flight) >= AT_ONCE or self._bytes + size > self._max_bytes

    def _end(self) -> None:
        """Read no more; what was read before is still answered."""
        self._ended = True
        self._room.set()
        self._queue.put_nowait(None)
