"""A replica: one engine, its queue and its batcher behind one unix socket.

All gateway workers of the host connect here, so this is where batches form. Whatever has
arrived while the engine ran makes the next batch, and an idle engine never waits. A short
batch runs on the loop itself (handing it to a thread costs tens of µs), a long one in the one
engine thread, so that arrivals are judged and cancellations heard meanwhile. Listening means
ready. Knows frames and an `Engine`; knows no model format, no key and no deployment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
from meuse.serve.batcher import Done, cancelled, now_us, run_batch
from meuse.serve.cost import CostModel
from meuse.serve.frames import (
    DTYPES,
    Attach,
    Cancel,
    Decoder,
    Failure,
    FrameError,
    Hello,
    Request,
    Response,
)
from meuse.serve.page import PageWriter
from meuse.serve.queue import Item, Queue, batchable, item_of
from meuse.serve.sharing import LARGE, Side, Sides, shared_size

logger = logging.getLogger(__name__)

_LINGER_S = 2.0
INLINE_US = 2000.0
"""Batches that should take no longer run on the loop."""


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
    cost = CostModel()
    warm_up(engine, config.max_rows, cost)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Replica(engine, config, cost).run())


def warm_up(engine: Engine, max_rows: int, cost: CostModel) -> None:
    """Run zeros with one row and with `max_rows`, so that no caller pays for it; the second
    run of each tells `cost` what a batch takes.

    A model whose shapes are open beyond the batch may refuse what we make up; then the first
    callers warm it.
    """
    specs = engine.signature.inputs
    open_shape = any(-1 in spec.shape[1:] for spec in specs)
    for rows in (1, max_rows) if batchable(engine.signature) else (1,):
        zeros = {
            spec.name: np.full(
                [rows if i == 0 and n == -1 else max(n, 1) for i, n in enumerate(spec.shape)],
                b"" if spec.datatype == "BYTES" else 0,
                DTYPES[spec.datatype],
            )
            for spec in specs
        }
        try:
            engine.run(zeros)
            started = now_us()
            engine.run(zeros)
            cost.observe(rows, now_us() - started)
        except Exception as error:
            if not open_shape:
                raise MeuseError(
                    Code.INVALID_DATA, f"the model fails on {rows} rows of zeros: {error}"
                ) from error


class _Connection(asyncio.Protocol):
    """One worker. What is unanswered is held to the credits that Hello gave."""

    def __init__(self, replica: _Replica) -> None:
        self._replica = replica
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self.side: Side | None = None
        self.items: dict[int, Item] = {}  # unanswered, by number

    @property
    def unanswered(self) -> int:
        return len(self.items)

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
                if type(header) is Request:
                    self._replica.receive(header, tensors, self)
                elif type(header) is Attach and self.side is None:
                    self.side = self._replica.sides.claim(header.token)
                    self._decoder.fetch = self.side.fetch if self.side is not None else None
                elif type(header) is Cancel:
                    self._replica.cancel(header.number, self)
                else:
                    raise FrameError(f"a worker sent {type(header).__name__}")
        except FrameError as error:
            logger.error("a worker is cut off: %s", error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.side is not None:
            self.side.close()
        for number in list(self.items):  # nobody is there to be answered
            self._replica.cancel(number, self)
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
    def __init__(self, engine: Engine, config: ReplicaConfig, cost: CostModel) -> None:
        self.config = config
        self.connections: set[_Connection] = set()
        self.sides = Sides(config.socket.with_suffix(".fds"))
        self._engine = engine
        self._cost = cost
        self._objective_us = (config.objective_ms or math.inf) * 1000.0
        together = batchable(engine.signature)
        self._queue = Queue(config.max_rows, config.max_queue, together, cost)
        self._page = PageWriter(config.page, max(config.max_rows, 1))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._running: list[Item] = []  # the batch in the thread
        self._free_us = 0.0  # when that should be done
        self._scheduled = False
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._left = asyncio.Event()

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        self._page.keep_beating()
        path = str(self.config.socket)
        self.config.socket.unlink(missing_ok=True)
        server = await self._loop.create_unix_server(lambda: _Connection(self), path)
        self.config.socket.chmod(0o600)
        await self._stopping.wait()
        # From here on requests are dropped unread: their workers see that they were not
        # started and give them to another replica.
        server.close()
        self.config.socket.unlink(missing_ok=True)
        self.config.socket.with_suffix(".fds").unlink(missing_ok=True)
        while len(self._queue) or self._running:
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
        now = now_us()
        item = item_of(
            header,
            tensors,
            connection,
            now_us=now,
            left_us=(header.deadline_ms - now_ms()) * 1000.0,
            objective_us=self._objective_us,
        )
        if header.number in connection.items:
            raise FrameError(f"two requests have the number {header.number}")
        connection.items[header.number] = item
        try:
            if connection.unanswered > self.config.credits:
                raise MeuseError(
                    Code.OVERLOADED, "a worker sent more than its credits", hint="Try again later."
                )
            busy = max(self._free_us - now, 1.0) if self._running else 0.0
            self._queue.add(item, busy, now)
        except MeuseError as error:
            self._answer([Done(item, {}, 0, 0, error)])
            return
        self._schedule()

    def cancel(self, number: int, connection: _Connection) -> None:
        """Nobody waits for it: out of the queue, or out of the engine once all of its batch
        are cancelled. One that is answered already is no error: the two met on the way."""
        item = connection.items.get(number)
        if item is None or item.cancelled:
            return
        if item in self._running:
            item.cancelled = True
            stop = getattr(self._engine, "cancel", None)
            if stop is not None and all(other.cancelled for other in self._running):
                stop()
            return
        self._queue.cancel(item)
        self._answer([Done(item, {}, 0, 0, cancelled())])
        if not len(self._queue):
            self._idle.set()

    def _schedule(self) -> None:
        if not self._scheduled and not self._running:
            self._scheduled = True
            # After this turn's reads: what other workers have sent joins the batch.
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._scheduled = False
        now = now_us()
        batch = self._queue.take(now)
        if not batch:
            self._idle.set()
            return
        expected = self._cost.predict(sum([item.rows for item in batch]))
        if self._cost.known and expected <= INLINE_US:
            done = run_batch(self._engine, batch, self._page.mark)
            self._page.rest()
            self._finish(done)
            return
        self._running, self._free_us = batch, now + expected
        work = self._loop.run_in_executor(
            self._thread, run_batch, self._engine, batch, self._page.mark
        )
        work.add_done_callback(self._returned)

    def _returned(self, work: asyncio.Future[list[Done]]) -> None:
        self._running = []
        self._page.rest()
        self._finish(work.result())

    def _finish(self, done: list[Done]) -> None:
        ran = [d.batch_rows for d in done if d.batch_rows]
        if len(ran) == 1 and not [d for d in done if d.error]:
            # What failed, or was run in parts, says nothing of how long a batch takes.
            self._cost.observe(ran[0], sum([d.compute_us for d in done]))
        self._answer(done)
        if len(self._queue):
            self._schedule()
        else:
            self._idle.set()

    def _answer(self, batch: list[Done]) -> None:
        """One write per connection and batch."""
        buffers: dict[_Connection, list[bytes]] = {}
        depth = len(self._queue)
        for done in batch:
            item = done.item
            connection: _Connection = item.connection
            connection.items.pop(item.header.number, None)
            frame = _response(done, depth, connection.side)
            if connection in buffers:
                buffers[connection] += frame
            else:
                buffers[connection] = frame
        for connection, parts in buffers.items():
            connection.write(parts)


def _response(done: Done, depth: int, side: Side | None) -> list[bytes]:
    number, error = done.item.header.number, done.error
    times = (done.queue_us, done.batch_rows)
    if error is None:
        try:
            specs, tensors, shared = [], [], 0
            for name, value in done.outputs.items():
                specs.append(frames.spec_of(name, value))
                tensors.append(value)
                shared += value.nbytes
            if side is None or shared < LARGE:
                shared = 0
            else:
                shared = shared_size(tensors)
                if shared and not side.send(number, shared, tensors):
                    shared = 0
            header = Response(
                number, tuple(specs), done.rows, done.compute_us, depth, None, *times, shared
            )
            return frames.encode(header, () if shared else tensors)
        except (FrameError, KeyError, msgspec.MsgspecError) as reason:
            error = MeuseError(Code.ENGINE_ERROR, f"the output cannot be sent: {reason}")
    failure = Failure(str(error.code), error.message, error.field, error.hint, error.retry_after_s)
    return frames.encode(Response(number, (), 0, done.compute_us, depth, failure, *times))
