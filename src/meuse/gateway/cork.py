"""uvicorn's HTTP protocol with one write per response, and with bounds on a request's head.

uvicorn writes head and body one after the other and uvloop sends each at once: two system
calls, two packets and two wake-ups of the client for every small answer. Measured, that was a
tenth of a worker's time. Here writes of one turn of the loop leave together.

Neither uvicorn nor its parser bounds what a client without a key may send as headers, nor how
long it may take for them and for a body: here all are bounded.

A request that is whole within one read and may go the short way (`gateway.short`) does: uvicorn
then never hears of it. What turns out to be longer is handed to uvicorn as if it had been all
along.

uvicorn ends by cutting every idle connection, while a request may be on its way on it. Here a
connection that drains says so with its next answer.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from meuse.gateway.short import Short

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers, counted as RFC 9113 (6.5.2) counts: 32 more each."""
HEAD_S = 10.0
"""How long a new connection, or a head that has begun, may take to become a whole head."""
BODY_S = 20.0
MIN_BODY = 16 * 1024
"""Bytes of a body that must come within each `BODY_S`, while we take them: 0.8 KB/s."""
_NO_LINGER = struct.pack("ii", 1, 0)
ABORT = "meuse.abort"
"""In the scope: cuts the connection, also one whose client takes nothing any more."""
FLOW = "meuse.flow"
"""In the scope: uvicorn's `FlowControl` of the connection."""
_PER_HEADER = 32  # many empty headers cost us more than their bytes
_SURELY_SMALL = 4096  # too few bytes for so many headers
_LINGER_S = 2.0
_TOO_LARGE = b"the request line and headers are larger than %d bytes" % MAX_HEAD
_TOO_SLOW = b"the headers did not arrive within %d s" % HEAD_S
_BODY_TOO_SLOW = b"the body arrives too slowly"


class CorkedTransport:
    """A transport whose writes wait for the end of the turn. All else is passed on."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._out: list[bytes] = []
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def send(self, data: bytes) -> None:
        """As `write`, for a whole response: it waits for nothing but what was written before."""
        if self._out:
            self._out.append(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, []
            self._transport.write(b"".join(out))


class DrainState(ServerState):
    """uvicorn's state of a server, and whether new connections are to end at once."""

    draining = False


class _HeadTooLargeError(Exception):
    """Ends the parser's work; uvicorn takes it for bad input."""


class CorkedHttpProtocol(HttpToolsProtocol):
    """Give this to `uvicorn.Config(http=…)`."""

    # Bytes of the reads since the parser last told of a whole head, a body or an end. Counted
    # per read, not per header: that would cost more than all the rest here.
    _unread = 0
    _in_head = False
    _in_body = False
    _too_large = False
    _refused = False
    _draining = False
    _timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _body_bytes = 0
    _body_before = 0
    _app: Any = None  # what may take requests the short way
    _pending: Short | None = None  # one whose body is not whole yet
    _before: Any = None  # the cycle before that
    _idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        corked = CorkedTransport(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", corked))
        self._draining = isinstance(self.server_state, DrainState) and self.server_state.draining
        self._timer = self.loop.call_later(HEAD_S, self._too_slow)
        if hasattr(self.app, "short"):
            self._app = self.app

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_body_timer()
        cycle: Any = self.cycle
        if isinstance(cycle, Short):
            cycle.gone()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unread += len(data)
        super().data_received(data)
        if self._pending is not None:
            self._take_the_long_way(self._pending)
        if self._in_body and self._body_timer is None and not self._refused:
            self._watch_body()
        if self._refused or not (self._unread or self._in_head):
            return
        # No head yet, or trailers without an end: also a line that only the parser keeps.
        if self._unread + _PER_HEADER * len(self.headers or ()) > MAX_HEAD:
            self._refuse(431, _TOO_LARGE)
        elif self._timer is None and not self._in_body:
            self._timer = self.loop.call_later(HEAD_S, self._too_slow)

    def on_message_begin(self) -> None:
        self._in_head = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        # 0 is a second message in one read: its size is not known by the reads.
        if not 0 < self._unread <= _SURELY_SMALL and self._head_size() > MAX_HEAD:
            self._too_large = True
            raise _HeadTooLargeError
        self._unread = 0
        self._in_head = False
        self._in_body = True
        if self._timer is not None:
            self._stop_timer()
        if self._app is not None and self._begin_short():
            return
        self._head_for_uvicorn()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        self._body_bytes += len(body)
        if self._pending is not None:
            self._pending.body = self._pending.body + body if self._pending.body else body
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        self._in_body = False
        if self._body_timer is not None:
            self._stop_body_timer()
        short = self._pending
        if short is not None:
            before, self._pending, self._before = self._before, None, None
            if short.start():
                return
            self._before = before
            self._take_the_long_way(short)
        super().on_message_complete()

    def _begin_short(self) -> bool:
        """Whether this request goes the short way, as long as it is whole at once."""
        cycle = self.cycle
        if (cycle is not None and not cycle.response_complete) or self.expect_100_continue:
            return False
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return False
        route = self._app.short(self.url)
        if route is None or parser.should_upgrade() or self._is_over_limit():
            return False
        keep_alive = parser.should_keep_alive() and not self._draining
        self._before = cycle
        short = route.kind(self._app, route, self, self.headers, keep_alive)
        self._pending = self.cycle = short
        return True

    def _is_over_limit(self) -> bool:
        limit = self.limit_concurrency
        return limit is not None and (len(self.connections) >= limit or len(self.tasks) >= limit)

    def _take_the_long_way(self, short: Short) -> None:
        self._pending = None
        self.cycle, self._before = self._before, None
        self._head_for_uvicorn()
        if short.body:
            super().on_body(short.body)

    def _head_for_uvicorn(self) -> None:
        """uvicorn makes its scope when a message begins; only the long way has one."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expect
        self.scope["headers"] = headers
        self.scope[ABORT] = self._cut  # type: ignore[literal-required]  # ours beside ASGI's
        self.scope[FLOW] = self.flow  # type: ignore[literal-required]
        super().on_headers_complete()
        if self._draining:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        super().pause_writing()
        cycle: Any = self.cycle
        if isinstance(cycle, Short):
            cycle.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        cycle: Any = self.cycle
        if isinstance(cycle, Short):
            cycle.resume()

    def write(self, data: bytes) -> None:
        """A part of an answer of the short way."""
        self.transport.write(data)

    def _cut(self) -> None:
        """Close at once, and forget what the kernel still holds for a client that takes nothing."""
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER
        )
        self.transport.abort()

    def respond(self, data: bytes, *, keep_alive: bool) -> None:
        """The answer of the short way; then the connection is uvicorn's again."""
        cast("CorkedTransport", self.transport).send(data)
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    # One timer per connection in place of one per answer: it looks how long nothing was asked.

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = self.loop.time()

    def on_response_complete(self) -> None:
        timer = self.timeout_keep_alive_task
        if timer is None or self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self._idle_since = self.loop.time()
            self.flow.resume_reading()

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        cycle = self.cycle
        idle = cycle is None or cycle.response_complete
        left = self._idle_since + self.timeout_keep_alive - self.loop.time() if idle else 1.0
        if left <= 0:
            super().timeout_keep_alive_handler()
        elif not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                max(left, 0.1), self.timeout_keep_alive_handler
            )

    def drain(self) -> None:
        """Let the next answer be the last: `connection: close` tells the client in time.

        An answer that has begun cannot say it any more; then the one after it does.
        """
        self._draining = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_started:
            cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close when nothing is on its way; a head that has begun is still answered."""
        self.drain()
        if not (self._unread or self._in_head):
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        if self._too_large:
            self._refuse(431, _TOO_LARGE)
        else:
            super().send_400_response(msg)

    def _head_size(self) -> int:
        sizes = [len(name) + len(value) + _PER_HEADER for name, value in self.headers]
        return len(self.url) + sum(sizes)

    def _too_slow(self) -> None:
        self._timer = None
        if self._unread or self._in_head:
            self._refuse(408, _TOO_SLOW)
        else:
            self.transport.close()

    def _watch_body(self) -> None:
        """A body that is whole within one read, as most are, needs no timer."""
        self._body_before = self._body_bytes
        self._body_timer = self.loop.call_later(BODY_S, self._check_body)

    def _check_body(self) -> None:
        self._body_timer = None
        if self.flow.read_paused or self._body_bytes - self._body_before >= MIN_BODY:
            self._watch_body()
            return
        cycle = self.cycle
        if cycle is None or cycle.response_started:
            self.transport.close()
            return
        # The application sees that its client has gone; what is said to the client is ours.
        cycle.disconnected = True
        cycle.message_event.set()
        self.cycle = None  # type: ignore[assignment]
        self._refuse(408, _BODY_TOO_SLOW)

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _refuse(self, status: int, message: bytes) -> None:
        """Answer and close. Closing on a client that still sends would reset the connection,
        and it might never read the answer: for a moment what it sends is thrown away."""
        self._refused = True
        self._stop_timer()
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # what we say would be taken for the answer before it
            return
        # All that was read of this head.
        self.headers, self.scope, self.parser = [], {}, None  # type: ignore[assignment,typeddict-item]
        head = b"content-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(message) + message)
        self._timer = self.loop.call_later(_LINGER_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
