"""A replica that produces text: one engine, its queue and its steps behind one unix socket.

One thread does everything: an engine's step holds Python's lock anyway, so what arrives is read
between two steps, what was produced is written before the next, and nothing is handed over.
Each step's text leaves as one frame and one write per connection. Knows frames and the port
`Generator`; knows no model format, no key and no deployment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, invalid, not_found
from meuse.serve import frames, heap
from meuse.serve.batcher import cancelled, now_us
from meuse.serve.frames import Failure, Finished, FrameError, Generate, Started
from meuse.serve.generation import messages, tools
from meuse.serve.generation.beater import beside
from meuse.serve.generation.choice import Choice
from meuse.serve.generation.connection import Connection
from meuse.serve.generation.engine import Generator, Progress, Work
from meuse.serve.generation.messages import Ask
from meuse.serve.generation.prompt import Prompt, Reader
from meuse.serve.generation.shelf import Shelf
from meuse.serve.generation.spare import PATIENCE_MS, startable
from meuse.serve.generation.turns import Turns
from meuse.serve.generation.waiting import Request, Waiting
from meuse.serve.page import PageWriter

logger = logging.getLogger(__name__)

ADAPTER_TURN_MS = 2000
GATHER_S = 0.001
GATHER_MOST_S = 0.01
"""How long an idle engine waits for one more request, and for all: those that come together share
their first step, which takes long whatever is in it."""
_LINGER_S = 10.0
_SWEEP_US = 20_000
_MAX_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the replica is told at start. `socket` and `page` are made by it."""

    id: str
    version: str
    socket: Path
    page: Path
    max_queue: int = 1024
    credits: int = 256
    """Unanswered requests per connection."""
    adapter_turn_ms: int = ADAPTER_TURN_MS
    """How long requests of one adapter are started while others wait."""
    low_patience_ms: int = PATIENCE_MS
    """How long requests of the class LOW are held back for better ones (see `spare`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the replica is made of."""

    generator: Generator
    reader: Reader
    choice: Callable[[int, Ask], Choice]
    """(index, what is asked) → an answer that has not begun."""
    family: str = ""
    shelf: Shelf | None = None
    """Of adapters; None: the engine takes none."""


def serve(parts: Parts, config: Config) -> None:
    """Listen, answer until SIGTERM, then finish what was taken on and return."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Replica(parts, config).run())


class Replica:
    """`parts` behind one socket."""

    def __init__(self, parts: Parts, config: Config) -> None:
        self.config = config
        self.connections: set[Connection] = set()
        self._parts = parts
        self._engine = parts.generator
        self._waiting = Waiting(config.max_queue)
        self._running: dict[int, tuple[Request, Choice]] = {}  # by the engine's handle
        self._turns = Turns(config.adapter_turn_ms * 1000)
        self._active: str | None = ""  # the adapter that the engine runs with; None: who knows
        self._switches = 0  # of which no worker was told yet
        self._seen: set[str] = set()  # adapters that it was switched to before
        self._page = PageWriter(config.page, parts.generator.max_sequences)
        self._scheduled = False
        self._gathered_us = 0  # since when it waits for more
        self._swept_us = 0
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._left = asyncio.Event()
        self._broken: Exception | None = None

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        self._page.keep_beating()
        beater = beside(self.config.page)
        try:
            await self._serve()
        finally:
            beater.communicate()

    async def _serve(self) -> None:
        path = str(self.config.socket)
        self.config.socket.unlink(missing_ok=True)
        server = await self._loop.create_unix_server(lambda: Connection(self), path)
        self.config.socket.chmod(0o600)
        await self._stopping.wait()
        # From here on requests are dropped unread: their workers see that they were not
        # started and give them to another replica.
        server.close()
        self.config.socket.unlink(missing_ok=True)
        while self._busy and self._broken is None:
            self._idle.clear()
            await self._idle.wait()
        if self._broken is not None:
            raise self._broken
        if not self.connections:
            return
        self._left.clear()
        for connection in list(self.connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                await self._left.wait()

    @property
    def _busy(self) -> bool:
        return bool(self._running or len(self._waiting))

    def left(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._left.set()

    def receive(self, header: Generate, connection: Connection) -> None:
        if self._stopping.is_set():
            return
        if header.number in connection.requests:
            raise FrameError(f"two requests have the number {header.number}")
        if len(header.id) != 16:
            raise FrameError("a usage id has 16 bytes")
        now = now_us()
        left_us = (header.deadline_ms - now_ms()) * 1000
        request = Request(header, connection, now, now + left_us)
        connection.requests[header.number] = request
        try:
            if len(connection.requests) > self.config.credits:
                raise MeuseError(
                    Code.OVERLOADED, "a worker sent more than its credits", hint="Try again later."
                )
            request.ask = messages.decode(header.ask)
            self._waiting.expect()
            self._read(request)
        except MeuseError as error:
            self._end(request, error)
        except RecursionError:
            field = "tools" if request.ask.tools else "messages"
            self._end(request, invalid(field, "it is nested too deeply"))
        except msgspec.MsgspecError as error:
            raise FrameError(f"what is asked is not understood: {error}") from None

    def _read(self, request: Request) -> None:
        """The prompt, before the request's turn: what is wrong with it is told at once."""
        ask = request.ask = tools.prepared(request.ask, self._parts.family)
        if not 1 <= ask.sampling.n <= self._engine.max_sequences:
            raise invalid(
                "n", f"this deployment produces 1 to {self._engine.max_sequences} choices at once"
            )
        if ask.adapter:
            if self._parts.shelf is None:
                raise not_found("adapter", ask.adapter)
            self._parts.shelf.check(ask.adapter)
        if ask.sampling.logprobs:
            raise invalid(
                "top_logprobs" if ask.messages else "logprobs",
                "the engine tells the probability of the chosen token alone",
                "Leave it out, or 0.",
            )
        if ask.format.kind != "text":
            # A grammar takes up to seconds. Marked, nobody takes this process for stuck; and if it
            # ends, this request is the one that is not asked again for ever.
            self._page.mark([request.header.id])
            try:
                tools.check(ask, self._parts.family, self._engine.check)
            finally:
                self._page.rest()
        request.prompt = self._parts.reader.read(ask)
        self._waiting.add(request)
        self._schedule()

    def cancel(self, number: int, connection: Connection) -> None:
        """Nobody waits for it. One that has ended already is no error: the two met."""
        request = connection.requests.get(number)
        if request is not None:
            self.stop(request, cancelled())

    def stop(self, request: Request, error: MeuseError) -> None:
        """End it, wherever it is."""
        if request.waits:
            self._waiting.remove(request)
        for handle in [h for h, (other, _) in self._running.items() if other is request]:
            self._engine.cancel(handle)
            del self._running[handle]
        self._end(request, error)
        self._schedule()

    def _schedule(self) -> None:
        if self._scheduled:
            return
        self._scheduled = True
        if self._running or self._engine.busy:
            self._loop.call_soon(self._turn)
        else:
            self._gathered_us = now_us()
            self._loop.call_later(GATHER_S, self._gather, len(self._waiting))

    def _gather(self, before: int) -> None:
        """Begin, unless requests still arrive."""
        count = len(self._waiting)
        if count > before and now_us() - self._gathered_us < GATHER_MOST_S * 1e6:
            self._loop.call_later(GATHER_S, self._gather, count)
        else:
            self._turn()

    def _turn(self) -> None:
        """Admit, step once, send; again after what has arrived meanwhile was read."""
        self._scheduled = False
        self._sweep()
        self._admit()
        if not self._running and not self._engine.busy:
            if not self._busy:
                self._idle.set()
            return
        self._page.mark(list({request.header.id for request, _ in self._running.values()}))
        try:
            progress = self._engine.step()
        except Exception as error:
            self._failed(error)
        else:
            self._deliver(progress)
        self._page.rest()
        for connection in self.connections:
            connection.flush()
        self._schedule()

    def _admit(self) -> None:
        """Start what may start: requests of one adapter, the engine's."""
        while len(self._waiting):
            now, better = now_us(), self._waiting.classes()
            low = self._low(better, now)
            busy = bool(self._running) or self._engine.busy
            adapter = self._turns.look(now, better | low, busy)
            if adapter is None or self._broken is not None:
                return
            request = self._waiting.head(adapter, adapter in low)
            assert request is not None
            if adapter != self._active and not self._switch(adapter, request):
                continue
            n = request.ask.sampling.n
            if len(self._running) + n > self._engine.max_sequences:
                return
            self._waiting.pop(request)
            self._start(request)

    def _low(self, better: dict[str, int], now: int) -> dict[str, int]:
        """The adapters whose requests of the class LOW may start, by what they count as."""
        low = self._waiting.low(now)
        if not low:
            return {}
        # One that is to end takes nothing more: what waits here is done soonest beside the rest.
        draining = self._stopping.is_set()
        running = [] if draining else [request.priority for request, _ in self._running.values()]
        return startable(better, low, running, self.config.low_patience_ms * 1000)

    def _switch(self, adapter: str, first: Request) -> bool:
        """Have the engine run with this adapter, whose turn begins; False where it cannot: then
        all that wait for it have been told."""
        shelf = self._parts.shelf
        # If it ends the process, its first request is the one that is not asked again for ever.
        self._page.mark([first.header.id])
        try:
            self._engine.use(shelf.take(adapter) if shelf is not None and adapter else None)
        except Exception as error:
            logger.error("the engine cannot be switched to %s: %s", adapter or "the base", error)
            told = error if isinstance(error, MeuseError) else _model_failed(error)
            for request in self._waiting.of(adapter):
                self._waiting.remove(request)
                self._end(request, told)
            if not isinstance(error, MeuseError):  # the engine's: it may have begun
                self._active = None
                if not self._engine.reset():
                    self._break(error)
            return False
        finally:
            self._page.rest()
        self._active = adapter
        self._switches += 1
        if adapter and adapter not in self._seen:
            # Reading it and laying it out has left far more behind than it takes.
            self._seen.add(adapter)
            heap.give_back()
        return True

    def _start(self, request: Request) -> None:
        prompt, ask = request.prompt, request.ask
        assert prompt is not None
        request.started_us = now_us()
        counts = len(prompt.ids), self._engine.cached_tokens
        request.connection.write(frames.encode(Started(request.header.number, *counts)))
        seed = ask.sampling.seed
        first = secrets.randbelow(_MAX_SEED) if seed is None else seed
        try:
            for index in range(ask.sampling.n):
                choice = self._parts.choice(index, ask)
                request.choices.append(choice)
                handle = self._engine.add(_work(prompt, ask, first + index))
                self._running[handle] = request, choice
                if ask.echo and prompt.text:
                    request.connection.put(request, index, prompt.text)
        except MeuseError as error:
            self.stop(request, error)

    def _deliver(self, progress: list[Progress]) -> None:
        for each in progress:
            found = self._running.get(each.handle)
            if found is None:
                continue
            request, choice = found
            delta = choice.push(each)
            request.connection.put(request, choice.index, delta.text, delta.calls, delta.logprobs)
            if choice.reason:
                del self._running[each.handle]
                if not each.ended:
                    self._engine.cancel(each.handle)
                if all(other.reason for other in request.choices):
                    self._end(request)

    def _failed(self, error: Exception) -> None:
        logger.error("a step of the engine failed: %s", error)
        requests = {id(request): request for request, _ in self._running.values()}
        self._running.clear()
        for request in requests.values():
            self._end(request, _model_failed(error))
        if not self._engine.reset():
            self._break(error)

    def _break(self, error: Exception) -> None:
        """A new process is the only way to a working engine."""
        self._broken = error
        self._stopping.set()
        self._idle.set()

    def _sweep(self) -> None:
        now = now_us()
        if now - self._swept_us < _SWEEP_US:
            return
        self._swept_us = now
        for connection in self.connections:
            for request in list(connection.requests.values()):
                if request.deadline_us <= now and not request.ended:
                    self.stop(request, request.late())

    def _end(self, request: Request, error: MeuseError | None = None) -> None:
        """The last word."""
        request.ended = True
        now = now_us()
        begun = request.started_us or now
        prompt = request.prompt if request.started_us else None
        failure = None
        if error is not None:
            failure = Failure(
                str(error.code), error.message, error.field, error.hint, error.retry_after_s
            )
        request.connection.end(
            request,
            Finished(
                request.header.number,
                tuple(choice.reason for choice in request.choices),
                len(prompt.ids) if prompt is not None else 0,
                request.tokens,
                self._engine.cached_tokens if prompt is not None else 0,
                begun - request.arrived_us,
                now - begun,
                len(self._waiting),
                failure,
                self._switches,
            ),
        )
        self._switches = 0


def _model_failed(error: Exception) -> MeuseError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return MeuseError(Code.ENGINE_ERROR, f"the model failed: {lines[-1][:300]}")


def _work(prompt: Prompt, ask: Ask, seed: int) -> Work:
    return Work(
        ids=prompt.ids,
        max_tokens=prompt.max_tokens,
        sampling=ask.sampling,
        seed=seed % _MAX_SEED,
        format=ask.format,
    )
