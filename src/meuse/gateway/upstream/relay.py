"""One call that an external server answers, from admission to its last usage record.

Tokens are reserved from above at admission, as everywhere; counted by the events that come, and
at the end by what the server tells. When the client has gone the server gets `DRAIN_MS` to tell
what it came to; where it does not tell, tokens are estimated. Knows no protocol of clients: what
comes goes to a `Sink`. Called from within the reading of connections: nothing here waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.ids import uuid7_bytes
from meuse.gateway import batches
from meuse.gateway.generation import LONGEST_MS, quantities
from meuse.gateway.links import late
from meuse.gateway.openai import rates
from meuse.gateway.routes import Caller, Headers, Route, Target
from meuse.gateway.upstream import asked, errors, events
from meuse.gateway.upstream.account import Account, Counted
from meuse.gateway.upstream.asked import EMBEDDINGS, Sent
from meuse.gateway.upstream.events import Events
from meuse.gateway.upstream.pool import RemotePool
from meuse.gateway.upstream.wire import Connection
from meuse.meter.cells import BusyError

if TYPE_CHECKING:
    from meuse.gateway.dataplane import DataPlane
    from meuse.gateway.observe import Observation

logger = logging.getLogger(__name__)

DRAIN_MS = 5000
_MAX_ERROR = 64 * 1024
_BUSY_S = (0.002, 0.01, 0.05, 0.2)


class Sink(Protocol):
    """Who waits. After `whole`, `end` or `fail` nothing more comes."""

    def whole(self, body: bytes) -> None: ...
    def begin(self) -> None:
        """A stream of events."""

    def write(self, data: bytes) -> None: ...
    def end(self, data: bytes) -> None: ...
    def fail(self, error: MeuseError) -> None:
        """Instead of an answer, or in the middle of a stream."""


class Relay:
    """`start` it; `pause` and `resume` as the client takes what comes; `leave` when it has gone."""

    def __init__(
        self,
        plane: DataPlane,
        caller: Caller,
        sent: Sent,
        protocol: str,
        sink: Sink,
        timeout_ms: int | None = None,
        headers: Headers = (),
    ) -> None:
        self.id = uuid7_bytes()
        self.caller = caller
        self.link: Connection | None = None
        self.data = b""
        self.deadline_ms = 0
        self.is_over = False
        self._plane = plane
        self._sent = sent
        self.protocol = protocol
        self._sink = sink
        self._timeout_ms = timeout_ms
        self._headers = headers
        record = batches.record_id(caller, headers, self.id)
        self._account = Account(plane, sent, protocol, record)
        self._until_ms = 0
        self._pauses = 0
        self._status = 0
        self._wait = b""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._events: Events | None = None
        self._is_paused = self._has_left = False
        self._seen: Observation | None = None
        self.target: Target
        self._began = 0.0

    def start(self) -> None:
        """Admit it and send it on its way. Raises `MeuseError`, and then nothing is held."""
        if self._plane.observer is not None:
            self._seen = self._plane.observer.current()
        try:
            self._admit()
        except BusyError:
            self._again()

    def pause(self) -> None:
        """The client does not take what comes: neither is more read."""
        self._is_paused = True
        if self.link is not None and not self.is_over:
            self.link.transport.pause_reading()

    def resume(self) -> None:
        self._is_paused = False
        if self.link is not None:
            self.link.transport.resume_reading()
        if self._began:
            self._wait_more()

    def leave(self) -> None:
        """The client has gone. Briefly the server may still say what it came to."""
        if self.is_over:
            self._sink = _NOBODY
            return
        if self._has_left:
            return
        self._has_left = True
        self._sink = _NOBODY
        if not self._began:  # it waits for the limits
            self.is_over = True
            return
        if self._is_paused:
            self.resume()
        self.deadline_ms = min(self.deadline_ms, now_ms() + DRAIN_MS)
        if self.link is None:  # nothing was sent yet
            self._fail(_gone())

    def rates(self) -> list[tuple[bytes, bytes]]:
        return rates.headers(self._plane.standings(self.caller, self._sent.model))

    # Admission.

    def _again(self) -> None:
        """Another worker was taken off its core while it held the limits."""
        asyncio.get_running_loop().call_later(_BUSY_S[self._pauses], self._once_more)
        self._pauses += 1

    def _once_more(self) -> None:
        if self.is_over:
            return
        try:
            self._admit()
        except BusyError as error:
            if self._pauses < len(_BUSY_S):
                self._again()
            else:
                self._refused(error)
        except MeuseError as error:
            self._refused(error)

    def _refused(self, error: MeuseError) -> None:
        self.is_over = True
        self._sink.fail(error)

    def _admit(self) -> None:
        plane, sent = self._plane, self._sent
        caller = self.caller = plane.current(self.caller, "infer")
        name, adapter = plane.adapted(caller, sent.model)
        route = plane.route(caller, name)
        try:
            target = route.choose(None, caller.key, self._headers)
            if adapter:
                target = route.adapted(target, adapter)
            self.target = target
            pool, entry = target.pool, target.entry.upstream
            if entry is None or not isinstance(pool, RemotePool):
                raise MeuseError(Code.UNAVAILABLE, "the model is being replaced", field="model")
            clamp = self._account.reserve(caller, target)
            now = now_ms()
            longest = LONGEST_MS if self._timeout_ms is None else self._timeout_ms
            self._until_ms = now + longest
            self.deadline_ms = min(now + route.deployment.timeout_ms, self._until_ms)
            try:
                pool.ask(self, asked.write(sent, adapter or entry.model, clamp))
            except MeuseError:
                self._account.release()
                raise
        except BusyError:
            raise
        except MeuseError as error:
            plane.counters.refused(error, route.stats)
            if self._seen is not None:
                self._seen.refused(route.full_name, error.code)
            raise rates.limited(error, self.rates) from None
        self._began = plane.counters.begin(route.stats)

    # What the server says.

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        if self.is_over:
            return
        self._status = status
        self._wait = headers.get(b"retry-after", b"")
        if headers.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
            self._fail(events.garbage("compressed its answer, which nobody asked for"))
        elif status == 200 and self._sent.stream:
            if not headers.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
                self._fail(events.garbage("sent no stream of events"))
                return
            self._events = Events(self._sent.model, keep_usage=self._sent.include_usage)
            self._sink.begin()
        if self._is_paused and self.link is not None:
            self.link.transport.pause_reading()

    def on_body(self, data: bytes) -> None:
        if self.is_over:
            return
        if self._events is None:
            self._body_bytes += len(data)
            if self._body_bytes <= (events.MAX_WHOLE if self._status == 200 else _MAX_ERROR):
                self._body.append(data)
            elif self._status == 200:
                self._fail(events.garbage(f"answered more than {events.MAX_WHOLE} bytes"))
            return
        self._wait_more()
        try:
            out = self._events.feed(data)
            if self._events.is_done:
                # The record stands before the last byte.
                self._finish(out)
                return
            self._account.checkpoint(self._events)
        except MeuseError as error:
            self._fail(error)
            return
        if out:
            self._sink.write(out)

    def on_end(self) -> None:
        if self.is_over:
            self._pool.calls.discard(self)
            return
        if self._events is not None:
            if self._events.usage is None:
                self._fail(events.garbage("ended the stream before the answer was whole"))
            else:
                self._finish(b"data: [DONE]\n\n")
        elif self._status != 200:
            body = b"".join(self._body)
            self._fail(errors.refused(self._status, self._wait, body, self._pool.secret))
        else:
            self._whole(b"".join(self._body))

    def on_broken(self, error: MeuseError) -> None:
        if self.is_over:
            self._pool.calls.discard(self)
        else:
            self._fail(error)

    def late(self) -> None:
        """Nothing has come for too long."""
        if self.is_over:
            # All was said, but for the end of the message.
            self._pool.calls.discard(self)
            self._let_go()
        elif self._has_left:
            self._fail(_gone())
        elif self._is_paused:
            self._fail(
                MeuseError(
                    Code.CANCELLED, "the client takes the answer too slowly",
                    hint="Read faster, or ask anew.",
                )
            )  # fmt: skip
        else:
            self._fail(late())

    def _wait_more(self) -> None:
        if not self._has_left:
            patience = self.target.route.deployment.timeout_ms
            self.deadline_ms = min(now_ms() + patience, self._until_ms)

    def _whole(self, body: bytes) -> None:
        try:
            read = events.vectors if self.protocol == EMBEDDINGS else events.whole
            body, usage, tokens = read(body, self._sent.model)
            self._end(self._account.counts(usage, tokens), None)
        except MeuseError as error:
            self._fail(error)
            return
        self._tell(lambda: self._sink.whole(body))

    def _finish(self, last: bytes) -> None:
        stream = self._events
        assert stream is not None
        failure = events.garbage("failed in the middle of the answer")
        try:
            self._end(
                self._account.counts(stream.usage, stream.tokens),
                failure if stream.has_failed else None,
            )
        except MeuseError as error:
            self._sink.fail(error)
            return
        self._tell(lambda: self._sink.end(last))
        if self.link is not None:
            self.deadline_ms = now_ms() + DRAIN_MS
            self._pool.calls.add(self)

    # What it came to.

    def _fail(self, error: MeuseError) -> None:
        """It came to nothing, or to a part; what was produced is charged."""
        stream = self._events
        if stream is None:
            # A server that refused has produced nothing; one that was left may have.
            prompt = events.estimate(self._sent.size) if self._was_left(error) else 0
            counts = Counted(quantities(prompt, -1, 0), estimated=prompt > 0)
        else:
            counts = self._account.counts(stream.usage, stream.tokens)
        with contextlib.suppress(MeuseError):  # the first error tells more
            self._end(counts, error)
        self._let_go()
        self._tell(lambda: self._sink.fail(error))

    def _tell(self, outcome: Callable[[], None]) -> None:
        """Tell the sink; in `strict` once the record is on the disk."""
        commits = self._plane.commits
        if commits is None:
            outcome()
            return

        def then(failure: MeuseError | None) -> None:
            if failure is None:
                outcome()
            else:
                self._sink.fail(failure)

        commits.after(then)

    def _let_go(self) -> None:
        if self.link is not None:
            link, self.link = self.link, None
            link.abandon()

    @property
    def _pool(self) -> RemotePool:
        pool = self.target.pool
        assert isinstance(pool, RemotePool)
        return pool

    def _was_left(self, error: MeuseError) -> bool:
        if self.link is None or self._status not in (0, 200):
            return False
        return error.code in (Code.CANCELLED, Code.DEADLINE_EXCEEDED)

    def _end(self, counts: Counted, error: MeuseError | None) -> None:
        """Record it and let it go. Raises `unavailable` where it cannot be recorded; then there
        is no answer."""
        self.is_over = True
        target, plane = self.target, self._plane
        self._pool.calls.discard(self)
        if self._is_paused and self.link is not None:
            self.link.transport.resume_reading()
        if error is None and self._has_left:
            error = _gone()
        try:
            self._account.record(counts, error, final=True)
        except MeuseError as failure:
            error = failure
            raise
        finally:
            if error is not None:
                error.is_counted = True
            code = None if error is None else error.code
            plane.counters.end(target.route.stats, target.stats, self._began, 0, None, code)
            if self._seen is not None:
                self._seen.ran(target.route.full_name, target.entry.version, 0, None, code)


class _Nobody:
    """The sink of those who have gone."""

    def whole(self, body: bytes) -> None: ...
    def begin(self) -> None: ...
    def write(self, data: bytes) -> None: ...
    def end(self, data: bytes) -> None: ...
    def fail(self, error: MeuseError) -> None: ...


_NOBODY = _Nobody()


def _gone() -> MeuseError:
    return MeuseError(Code.CANCELLED, "the caller has gone")


def is_remote(route: Route, protocol: str) -> bool:
    """Whether another server answers for this deployment. Those of ours have no embeddings."""
    upstream = route.targets[0].entry.upstream if route.targets else None
    return upstream is not None and not (upstream.own and protocol == EMBEDDINGS)
