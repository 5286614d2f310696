"""A gateway worker's connection: what each step gave it leaves as one frame.

While the worker does not read, text is held and joined, bounded for each request; past that the
request is ended, and the others go on. Knows frames and asyncio; knows no engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from meuse.core.errors import Code, MeuseError
from meuse.serve import frames
from meuse.serve.frames import (
    Cancel,
    Decoder,
    Finished,
    FrameError,
    Generate,
    Hello,
    Part,
    Tokens,
)
from meuse.serve.generation.waiting import Request

logger = logging.getLogger(__name__)

MAX_HELD = 64 * 1024
"""Bytes of one request that are held for a worker that does not read."""
_MAX_FRAME_PARTS = 1024


class Owner(Protocol):
    """The replica, as connections need it."""

    config: Any
    connections: set[Connection]

    def receive(self, header: Generate, connection: Connection) -> None: ...
    def cancel(self, number: int, connection: Connection) -> None: ...
    def stop(self, request: Request, error: MeuseError) -> None: ...
    def left(self, connection: Connection) -> None: ...


@dataclass(slots=True)
class _Held:
    """What one choice has more."""

    tokens: int = 0
    texts: list[str] = field(default_factory=list)
    calls: list[bytes] = field(default_factory=list)
    logprobs: list[bytes] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One worker. What is unanswered is held to the credits that Hello gave."""

    def __init__(self, owner: Owner) -> None:
        self.requests: dict[int, Request] = {}  # unanswered, by number
        self._owner = owner
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._paused = self._finishing = False
        self._held: dict[tuple[int, int], _Held] = {}  # by number and index
        self._sizes: dict[int, int] = {}  # bytes held, by number
        self._ends: list[Finished] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._owner.connections.add(self)
        config = self._owner.config
        self.write(frames.encode(Hello(config.id, config.version, config.credits)))

    def data_received(self, data: bytes) -> None:
        try:
            for header, _ in self._decoder.feed(data):
                if type(header) is Generate:
                    self._owner.receive(header, self)
                elif type(header) is Cancel:
                    self._owner.cancel(header.number, self)
                else:
                    raise FrameError(f"a worker sent {type(header).__name__}")
        except FrameError as error:
            logger.error("a worker is cut off: %s", error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for number in list(self.requests):  # nobody is there to be answered
            self._owner.cancel(number, self)
        self._owner.left(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()
        if self._finishing:
            self.finish()

    def put(
        self, request: Request, index: int, text: str, calls: bytes = b"", logprobs: bytes = b""
    ) -> None:
        """More of a choice, to leave with the next `flush`."""
        number = request.header.number
        held = self._held.get((number, index))
        if held is None:
            held = self._held[number, index] = _Held()
        held.tokens = request.tokens
        if text:
            held.texts.append(text)
        if calls:
            held.calls.append(calls)
        if logprobs:
            held.logprobs.append(logprobs)
        if self._paused:
            size = len(text.encode()) + len(calls) + len(logprobs)
            self._sizes[number] = self._sizes.get(number, 0) + size

    def end(self, request: Request, last: Finished) -> None:
        """Its last word, after what is held."""
        self.requests.pop(request.header.number, None)
        self._ends.append(last)
        if not self._paused and not self._held:
            self.flush()

    def flush(self) -> None:
        """Everything in one write, if the worker reads."""
        if self._paused:
            for number in [n for n, size in self._sizes.items() if size > MAX_HELD]:
                self._sizes[number] = 0
                if (request := self.requests.get(number)) is not None:
                    self._owner.stop(
                        request,
                        MeuseError(Code.CANCELLED, "the text was not read as fast as it came"),
                    )
            return
        if not self._held and not self._ends:
            return
        buffers: list[Any] = []
        if self._held:
            parts = [
                Part(
                    number,
                    index,
                    held.tokens,
                    "".join(held.texts),
                    _joined(held.calls),
                    _joined(held.logprobs),
                )
                for (number, index), held in self._held.items()
            ]
            self._held.clear()
            self._sizes.clear()
            for start in range(0, len(parts), _MAX_FRAME_PARTS):
                buffers += frames.encode(Tokens(tuple(parts[start : start + _MAX_FRAME_PARTS])))
        for last in self._ends:
            buffers += frames.encode(last)
        self._ends.clear()
        self.write(buffers)

    def write(self, buffers: Sequence[bytes]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            frames.write(self._transport, buffers)

    def finish(self) -> None:
        """Nothing more will be answered; what is held or written is still delivered."""
        self._finishing = self._paused
        self.flush()
        if self._finishing:
            return
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _joined(lists: Sequence[bytes]) -> bytes:
    """JSON lists, as one."""
    if len(lists) < 2:
        return lists[0] if lists else b""
    return b"[" + b",".join([part[1:-1] for part in lists]) + b"]"
