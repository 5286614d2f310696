"""A replica: one engine, its queue and its batcher behind one unix socket.

All gateway workers of the host connect here, so this is where batches form. One loop, one
thread: whatever has arrived while the engine ran makes the next batch, and an idle engine
never waits. Listening means ready. Knows frames and an `Engine`; knows no model format, no
key and no deployment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import uvloop

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Engine
from meuse.serve import frames
from meuse.serve.batcher import Done, Queue, batchable, item_of, run_batch
from meuse.serve.frames import DTYPES, Decoder, Failure, FrameError, Hello, Request, Response
from meuse.serve.page import PageWriter

logger = logging.getLogger(__name__)

_LINGER_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """What a replica is told at start. `socket` and `page` are made by it."""

    id: str
    version: str
    socket: Path
    page: Path
    max_rows: int = 64
    max_queue: int = 1024
    credits: int = 256
    """Unanswered requests per connection."""
    objective_ms: int | None = None
    """The latency that the size of a batch aims at; None: the deadline alone."""


def serve(engine: Engine, config: ReplicaConfig) -> None:
    """Warm up, listen, answer until SIGTERM, then finish what is queued and return."""
    warm_up(engine, config.max_rows)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Replica(engine, config).run())


def warm_up(engine: Engine, max_rows: int) -> None:
    """Run zeros once with one row and once with `max_rows`, so that no caller pays for it.

    A model whose shapes are open beyond the batch may refuse what we make up; then the first
    callers warm it.
    """
    specs = engine.signature.inputs
    open_shape = any(-1 in spec.shape[1:] for spec in specs)
    for rows in (1, max_rows) if batchable(engine.signature) else (1,):
        zeros = {
            spec.name: np.zeros(
                [rows if i == 0 and n == -1 else max(n, 1) for i, n in enumerate(spec.shape)],
                DTYPES[spec.datatype],
            )
            for spec in specs
        }
        try:
            engine.run(zeros)
        except Exception as error:
            if not open_shape:
                raise MeuseError(
                    Code.INVALID_DATA, f"the model fails on {rows} rows of zeros: {error}"
                ) from error


class _Connection(asyncio.Protocol):
    """One worker. `unanswered` is held to the credits that Hello gave."""

    def __init__(self, replica: _Replica) -> None:
        self._replica = replica
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self.unanswered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._replica.connections.add(self)
        config = self._replica.config
        self.write(frames.encode(Hello(config.id, config.version, config.credits)))

    def data_received(self, data: bytes) -> None:
        try:
            arrived = self._decoder.feed(data)
            for header, tensors in arrived:
                if type(header) is not Request:
                    raise FrameError(f"a worker sent {type(header).__name__}")
                self.unanswered += 1
                self._replica.receive(header, tensors, self)
        except FrameError as error:
            logger.error("a worker is cut off: %s", error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._replica.left(self)

    def write(self, buffers: Sequence[bytes]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            frames.write(self._transport, buffers)

    def finish(self) -> None:
        """Nothing more will be answered; what was written is still delivered."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Replica:
    def __init__(self, engine: Engine, config: ReplicaConfig) -> None:
        self.config = config
        self.connections: set[_Connection] = set()
        self._engine = engine
        self._queue = Queue(config.max_rows, config.max_queue, batchable(engine.signature))
        self._page = PageWriter(config.page, max(config.max_rows, 1))
        self._scheduled = False
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._left = asyncio.Event()

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        path = str(self.config.socket)
        self.config.socket.unlink(missing_ok=True)
        server = await self._loop.create_unix_server(lambda: _Connection(self), path)
        self.config.socket.chmod(0o600)
        await self._stopping.wait()
        # From here on requests are dropped unread: their workers see that they were not
        # started and give them to another replica.
        server.close()
        self.config.socket.unlink(missing_ok=True)
        while len(self._queue):
            self._idle.clear()
            await self._idle.wait()
        if not self.connections:
            return
        self._left.clear()
        for connection in list(self.connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                await self._left.wait()

    def left(self, connection: _Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._left.set()

    def receive(self, header: Request, tensors: frames.Tensors, connection: _Connection) -> None:
        if self._stopping.is_set():
            return
        item = item_of(header, tensors, connection)
        if connection.unanswered > self.config.credits or not self._queue.add(item):
            error = MeuseError(
                Code.OVERLOADED, "the replica's queue is full", hint="Try again later."
            )
            self._answer([Done(item, {}, 0, 0, error)])
            return
        if not self._scheduled:
            self._scheduled = True
            # After this turn's reads: what other workers have sent joins the batch.
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._scheduled = False
        if len(self._queue):
            self._answer(run_batch(self._engine, self._queue.take(), self._page.mark, now_ms()))
        if len(self._queue):
            self._scheduled = True
            self._loop.call_soon(self._step)
        else:
            self._idle.set()

    def _answer(self, batch: list[Done]) -> None:
        """One write per connection and batch."""
        buffers: dict[_Connection, list[bytes]] = {}
        depth = len(self._queue)
        for done in batch:
            connection: _Connection = done.item.connection
            connection.unanswered -= 1
            buffers.setdefault(connection, []).extend(_response(done, depth))
        for connection, parts in buffers.items():
            connection.write(parts)


def _response(done: Done, depth: int) -> list[bytes]:
    number, error = done.item.header.number, done.error
    if error is None:
        try:
            specs = tuple([frames.spec_of(name, value) for name, value in done.outputs.items()])
            header = Response(number, specs, done.rows, done.compute_us, depth)
            return frames.encode(header, list(done.outputs.values()))
        except (FrameError, KeyError, msgspec.MsgspecError) as reason:
            error = MeuseError(Code.ENGINE_ERROR, f"the output cannot be sent: {reason}")
    failure = Failure(str(error.code), error.message, error.field, error.hint)
    return frames.encode(Response(number, (), 0, done.compute_us, depth, failure))
