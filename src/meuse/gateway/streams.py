"""A worker's connection to a replica that produces text: answers that arrive in many parts.

What is lost with a replica is asked of another one as long as nothing of its answer was read;
after that it ends with an error, and with the counts of what was read. Knows frames; knows no
key, no limit and no protocol.
"""

from __future__ import annotations

from collections.abc import Callable

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.gateway.link import AbandonedError, Answer, Flight, Link
from meuse.serve import frames
from meuse.serve.frames import Finished, FrameError, Generate, Part, Response, Started, Tokens


class Stream(Flight):
    """A text on its way. `deadline_ms` moves with every part: it bounds the wait for the next
    one, `until_ms` the whole. A replica holds LOW ones back as long as it has better ones: such a
    wait is bounded by the whole alone. `on_started` and `on_part` are called from within the link's
    reading and must not raise; `on_answer` gets an `Answer` without outputs at the end, when
    `finished` is set, else an exception."""

    __slots__ = (
        "ask", "cached_tokens", "finished", "has_begun", "is_gone", "on_part", "on_started",
        "patience_ms", "prompt_tokens", "tokens", "until_ms", "was_started",
    )  # fmt: skip

    def __init__(
        self,
        id: bytes,
        ask: bytes,
        until_ms: int,
        patience_ms: int,
        on_started: Callable[[], None],
        on_part: Callable[[Part], None],
        on_answer: Callable[[Answer | Exception], None],
        priority: int = frames.NORMAL,
        flow: str = "",
    ) -> None:
        super().__init__(id, until_ms, (), len(ask), on_answer, priority, flow)
        self.ask = ask
        self.until_ms = until_ms
        self.patience_ms = patience_ms
        self.wait(now_ms())
        self.on_started = on_started
        self.on_part = on_part
        self.was_started = self.has_begun = self.is_gone = False
        self.prompt_tokens = self.tokens = 0
        self.cached_tokens = -1
        self.finished: Finished | None = None

    @property
    def is_held_back(self) -> bool:
        """Whether what it waits for is that others leave room for it."""
        return self.priority == frames.LOW and not self.was_started

    def wait(self, now: int) -> None:
        """For what comes next: only so long."""
        self.deadline_ms = min(now + self.patience_ms, self.until_ms)

    def leave(self) -> None:
        """Nobody wants more of it. What the replica says to that still counts."""
        if self.outcome is not None or self.is_gone:
            return
        self.is_gone = True
        if self.link is None:
            self.abandon()
        else:
            self.link.cancel(self)


class StreamLink(Link):
    """As `Link`, for replicas that are asked by `Generate`."""

    def send(self, flight: Flight) -> None:
        assert isinstance(flight, Stream)
        self._number = number = self._number + 1
        header = Generate(
            number, flight.id, flight.until_ms, flight.ask, flight.priority, flight.flow
        )
        try:
            buffers = frames.encode(header)
        except FrameError as error:
            flight.fail(MeuseError(Code.TOO_LARGE, str(error), field="messages"))
            return
        flight.was_started = False
        self.flights[number] = flight
        flight.link, flight.number = self, number
        if flight.is_held_back:
            flight.deadline_ms = flight.until_ms
        self._bytes += flight.size
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += buffers

    def connection_lost(self, exc: Exception | None) -> None:
        for flight in self.flights.values():
            assert isinstance(flight, Stream)
            if flight.is_gone:
                flight.fail(AbandonedError())
            elif flight.has_begun:
                flight.fail(_broken())
            elif flight.is_held_back:
                flight.wait(now_ms())
        super().connection_lost(exc)

    def _started(self) -> frozenset[bytes]:
        # Not from the page: many are worked on at once, and each says when it begins.
        streams = self.flights.values()
        return frozenset(s.id for s in streams if isinstance(s, Stream) and s.was_started)

    def _answered(self, response: Response, tensors: frames.Tensors) -> None:
        raise FrameError("a replica that produces text answered with tensors")

    def _other(self, header: frames.Header) -> None:
        if isinstance(header, Tokens):
            now = now_ms()
            for part in header.parts:
                self._take(self._stream(part.number), part, now)
        elif isinstance(header, Started):
            stream = self._stream(header.number)
            if stream.outcome is None:
                if stream.is_held_back:
                    stream.wait(now_ms())
                stream.was_started = True
                stream.prompt_tokens = header.prompt_tokens
                stream.cached_tokens = header.cached_tokens
                stream.on_started()
        elif isinstance(header, Finished):
            stream = self._stream(header.number)
            del self.flights[header.number]
            self._bytes -= stream.size
            self._depth = header.depth
            if stream.outcome is None:
                stream.finished = header
                stream.answer(Answer([], 0, header.compute_us, header.queue_us))
        else:
            super()._other(header)

    def _stream(self, number: int) -> Stream:
        stream = self.flights.get(number)
        if not isinstance(stream, Stream):
            raise FrameError(f"a part of {number}, which was not asked")
        return stream

    @staticmethod
    def _take(stream: Stream, part: Part, now: int) -> None:
        if stream.outcome is not None:
            return
        stream.has_begun = True
        stream.tokens = part.tokens
        stream.wait(now)
        stream.on_part(part)


def _broken() -> MeuseError:
    return MeuseError(
        Code.UNAVAILABLE,
        "the replica ended in the middle of the answer",
        hint="What was produced is charged. Try again.",
    )
