"""One worker's connection to one replica.

Keeps what is in flight, gathers writes per turn of the loop, holds to the replica's credits,
connects again while it is wanted. What to do with requests of a dead replica is not decided
here (see `links`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.serve import frames, sharing
from meuse.serve.frames import (
    Attach,
    Cancel,
    Decoder,
    Failure,
    FrameError,
    Hello,
    Request,
    Response,
)
from meuse.serve.page import PageReader

logger = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024 * 1024
"""Tensor bytes in flight per link; one request is always let through."""
SILENT_LOOKS = 5
"""A replica whose page shows no beat this many looks long gets nothing until it greets again."""
HELD_LOOKS = 5
_HELD = 1 << 20  # more than any other load
_RETRY_S = 0.02
_RETRY_MAX_S = 1.0


@dataclass(slots=True, eq=False)
class Answer:
    """What a replica produced. Arrays are read-only."""

    outputs: list[tuple[str, NDArray[Any]]]
    rows: int
    compute_us: int
    queue_us: int = 0
    batch_rows: int = 0


class FailedError(MeuseError):
    """A replica's refusal or failure, with the work that it cost all the same."""

    def __init__(self, failure: Failure, response: Response) -> None:
        known = MeuseError.from_dict(msgspec.structs.asdict(failure))
        super().__init__(
            known.code,
            known.message,
            field=known.field,
            hint=known.hint,
            retry_after_s=failure.retry_after_s,
        )
        self.compute_us = response.compute_us
        self.queue_us = response.queue_us
        self.batch_rows = response.batch_rows


class Flight:
    """A request on its way. `alone` once it has been under a replica that died.

    `on_answer` is called once, on the loop: from within the link's reading for an answer, which
    is on the hot path, in a turn of its own for everything else. It must not raise.
    """

    __slots__ = (
        "alone", "deadline_ms", "flow", "id", "inputs", "link", "number", "on_answer",
        "outcome", "priority", "size",
    )  # fmt: skip

    def __init__(
        self,
        id: bytes,
        deadline_ms: int,
        inputs: Sequence[tuple[str, NDArray[Any]]],
        size: int,
        on_answer: Callable[[Answer | Exception], None],
        priority: int = frames.NORMAL,
        flow: str = "",
    ) -> None:
        self.id = id
        self.deadline_ms = deadline_ms
        self.inputs = inputs
        self.size = size
        self.on_answer = on_answer
        self.priority = priority
        self.flow = flow
        self.alone = False
        self.link: Link | None = None
        self.number = 0
        self.outcome: Answer | Exception | None = None

    def answer(self, outcome: Answer | Exception) -> None:
        """What it came to; anything later is passed over."""
        if self.outcome is None:
            self._end(outcome)(outcome)

    def fail(self, error: Exception) -> None:
        """As `answer`, but from a later turn: whoever fails many walks over them undisturbed."""
        if self.outcome is None:
            asyncio.get_running_loop().call_soon(self._end(error), error)

    def abandon(self) -> None:
        """Nobody waits for it any more: where it was sent, it need not be run."""
        if self.outcome is None:
            self._end(AbandonedError())
            if self.link is not None:
                self.link.cancel(self)

    def _end(self, outcome: Answer | Exception) -> Callable[[Answer | Exception], None]:
        """Whom to tell. Who waits knows this flight: forgotten here, both can go at once, and
        what tensors they hold, without a collection of cycles."""
        tell, self.on_answer, self.outcome = self.on_answer, _nobody, outcome
        return tell


def _nobody(outcome: Answer | Exception) -> None: ...


class AbandonedError(Exception):
    """The caller has gone."""


class Owner(Protocol):
    """Who is told what happens on a link."""

    def ready(self, link: Link) -> None:
        """There is credit again, or for the first time."""

    def lost(self, link: Link, flights: list[Flight], started: frozenset[bytes] | None) -> None:
        """The connection broke, or was given up (`was_silent`). `started` is None when that
        cannot be known."""


class Link(asyncio.Protocol):
    """Connects on its own until `retire` or `close`."""

    def __init__(self, owner: Owner, replica: str, version: str, sockets: Path) -> None:
        self._owner = owner
        self.replica = replica
        self._version = version
        self._socket = sockets / f"{replica}.sock"
        self._page_path = sockets / f"{replica}.page"
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._side: sharing.Side | None = None
        self._page: PageReader | None = None
        self._number = 0
        self._out: list[Any] = []
        self._credits = 0
        self._bytes = 0
        self._depth = 0
        self._retired = False
        self._retry_s = _RETRY_S
        self._broken = asyncio.Event()
        self._pulse = (0, 0)
        self._silent = self._held = 0  # looks since its beat, its step have changed
        self.is_ready = False
        self.is_held = False
        self.was_silent = False
        self.flights: dict[int, Flight] = {}
        self._keeper = self._loop.create_task(self._keep())

    @property
    def load(self) -> int:
        """How much lies before a new request: what we sent, or what others queued too. One that
        has been in a single batch for long comes after all that have not: it may never end."""
        return max(len(self.flights), self._depth) + (_HELD if self.is_held else 0)

    def has_room(self, size: int) -> bool:
        if not self.is_ready or self._retired or len(self.flights) >= self._credits:
            return False
        return not self.flights or self._bytes + size <= MAX_BYTES

    def send(self, flight: Flight) -> None:
        """Hand over a request; `has_room` was asked before."""
        self._number = number = self._number + 1
        specs, tensors = [], []
        for name, array in flight.inputs:
            specs.append(frames.spec_of(name, array))
            tensors.append(array)
        shared = 0 if flight.size < sharing.LARGE else self._share(number, tensors)
        header = Request(
            number, flight.id, flight.deadline_ms, flight.alone, tuple(specs), flight.priority,
            flight.flow, shared,
        )  # fmt: skip
        try:
            buffers = frames.encode(header, () if shared else tensors)
        except FrameError as error:
            flight.fail(MeuseError(Code.TOO_LARGE, str(error), field="inputs"))
            return
        self.flights[number] = flight
        flight.link, flight.number = self, number
        self._bytes += flight.size
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += buffers

    def _share(self, number: int, tensors: list[NDArray[Any]]) -> int:
        """The bytes that are shared for a large request; 0: they go inline."""
        if self._side is None:
            return 0
        size = sharing.shared_size(tensors)
        return size if size and self._side.send(number, size, tensors) else 0

    def cancel(self, flight: Flight) -> None:
        """Tell the replica, once. Its place is free when the replica has answered all the same."""
        if self.flights.get(flight.number) is not flight or self._transport is None:
            return
        flight.link = None
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += frames.encode(Cancel(flight.number))

    def look(self) -> None:
        """See whether the replica lives, by its page; a few times a second.

        One that does not (stopped, starved, swapped out) is hung up on, and what it had goes
        elsewhere. The connection that is made anew at once is taken for one only when it greets:
        when it has come to itself. Who kills it if it does not is control.
        """
        if self._page is None:
            return
        beat, step = self._page.pulse()
        last_beat, last_step = self._pulse
        self._pulse = beat, step
        self._silent = self._silent + 1 if beat == last_beat else 0
        self._held = self._held + 1 if step == last_step and step & 1 else 0
        self.is_held = self._held >= HELD_LOOKS
        if self._silent >= SILENT_LOOKS and self._transport is not None:
            logger.warning("replica %s shows no life; it gets nothing until it does", self.replica)
            self.was_silent = True
            self._transport.abort()

    def retire(self) -> None:
        """Take nothing new; close when all is answered."""
        self._retired = True
        self._close_if_done()

    def close(self) -> None:
        self._keeper.cancel()
        self._retired = True
        if self._transport is not None:
            self._transport.abort()

    async def _keep(self) -> None:
        while not self._retired:
            self._broken.clear()
            with contextlib.suppress(OSError):
                await self._loop.create_unix_connection(lambda: self, str(self._socket))
                await self._broken.wait()
            await asyncio.sleep(self._retry_s)
            self._retry_s = min(self._retry_s * 2, _RETRY_MAX_S)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            frames.write(self._transport, out)

    def _close_if_done(self) -> None:
        if self._retired and not self.flights:
            self._keeper.cancel()
            if self._transport is not None:
                self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._decoder = Decoder()

    def data_received(self, data: bytes) -> None:
        try:
            for header, tensors in self._decoder.feed(data):
                if type(header) is Response:
                    self._answered(header, tensors)
                elif type(header) is Hello and not self.is_ready:
                    self._greeted(header)
                else:
                    self._other(header)
        except FrameError as error:
            logger.error("replica %s is cut off: %s", self.replica, error)
            if self._transport is not None:
                self._transport.abort()
            return
        self._close_if_done()
        if self.is_ready:
            self._owner.ready(self)

    def connection_lost(self, exc: Exception | None) -> None:
        started = self._started()
        if self._page is not None:
            self._page.close()
        if self._side is not None:
            self._side.close()
            self._side = None
        flights = list(self.flights.values())
        self._transport, self._page, self._out = None, None, []
        self._credits = self._bytes = self._depth = 0
        self.is_ready = self.is_held = False
        self.flights = {}
        self._broken.set()
        self._owner.lost(self, flights, started)

    def _started(self) -> frozenset[bytes] | None:
        """What was being executed, where that can be known."""
        return None if self._page is None else self._page.started()

    def _other(self, header: frames.Header) -> None:
        """What only replicas of other kinds may say."""
        raise FrameError(f"a replica sent {type(header).__name__}")

    def _greeted(self, hello: Hello) -> None:
        if hello.replica != self.replica or hello.version != self._version or hello.credits < 1:
            raise FrameError(f"expected {self.replica} with {self._version}, got {hello}")
        with contextlib.suppress(OSError, ValueError):
            self._page = PageReader(self._page_path)
        self._silent = self._held = 0
        self.was_silent = False
        self._credits = hello.credits
        self._retry_s = _RETRY_S
        self._attach()
        self.is_ready = True

    def _attach(self) -> None:
        """Offer the replica shared memory for what is large."""
        joined = sharing.connect(self._socket.with_suffix(".fds"))
        if joined is not None and self._transport is not None:
            self._side, token = joined
            self._decoder.fetch = self._side.fetch
            frames.write(self._transport, frames.encode(Attach(token)))

    def _answered(self, response: Response, tensors: frames.Tensors) -> None:
        flight = self.flights.pop(response.number, None)
        if flight is None:
            raise FrameError(f"an answer to {response.number}, which was not asked")
        self._bytes -= flight.size
        self._depth = response.depth
        if flight.outcome is not None:  # its deadline passed, or its caller has gone
            return
        error = response.error
        if error is not None:
            flight.answer(FailedError(error, response))
            return
        outputs = []
        for spec, tensor in zip(response.tensors, tensors, strict=True):
            outputs.append((spec.name, tensor))
        flight.answer(
            Answer(
                outputs, response.rows, response.compute_us, response.queue_us, response.batch_rows
            )
        )
