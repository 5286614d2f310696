"""The short way of a chat that another server answers: no ASGI between two connections.

As `gateway.short`, whose place it takes on the routes of texts and of embeddings. Texts that no
other server answers go the long way, as if they had been all along.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from meuse.core import openai_errors
from meuse.core.errors import Code, MeuseError
from meuse.gateway.openai import chunks
from meuse.gateway.short import Short, ours

if TYPE_CHECKING:
    from meuse.gateway.heads import Headers
    from meuse.gateway.upstream.relay import Relay

logger = logging.getLogger(__name__)

_BEGIN = (
    STATUS_LINE[200]
    + b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n"
)
_LAST = b"0\r\n\r\n"
_JSON = (b"content-type", b"application/json")


class ShortText(Short):
    """One request, and the `Sink` of its relay."""

    __slots__ = ("_relay",)

    _relay: Relay | None

    def start(self) -> bool:
        self._relay = None
        try:
            relay = self._app.relay(self._route, self._headers, self.body, self)
            if relay is None:
                return False
            self.more_body = False
            self._relay = relay
            relay.start()
        except MeuseError as error:
            self._refuse(error)
        except Exception:
            logger.exception("a request failed")
            self._refuse(ours())
        return True

    def gone(self) -> None:
        self.disconnected = True
        relay = getattr(self, "_relay", None)
        if relay is not None and not self.response_complete:
            relay.leave()
        self._forget()

    def pause(self) -> None:
        if self._relay is not None and not self.response_complete:
            self._relay.pause()

    def resume(self) -> None:
        if self._relay is not None and not self.response_complete:
            self._relay.resume()

    # Sink

    def whole(self, body: bytes) -> None:
        self._write(200, body, [_JSON, *self._told()])

    def begin(self) -> None:
        self.response_started = True
        parts = [_BEGIN]
        for name, value in self._told():
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        self._connection.write(b"".join(parts))

    def write(self, data: bytes) -> None:
        if not self.response_complete:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, data: bytes) -> None:
        self._end(b"%x\r\n%b\r\n%b" % (len(data), data, _LAST) if data else _LAST)

    def fail(self, error: MeuseError) -> None:
        if not self.response_started:
            self._refuse(error)
        elif error.code is Code.CANCELLED:
            # Who does not read would not read this either.
            self.keep_alive = False
            self._end(b"")
        else:
            self.end(chunks.event(openai_errors.dress(error)))

    def _told(self) -> Headers:
        relay = self._relay
        assert relay is not None
        return [*relay.rates(), *self._app.identified(self._headers)]

    def _forget(self) -> None:
        super()._forget()
        self._relay = None


class ShortVectors(ShortText):
    """One request for embeddings: what no other server answers goes as all tensors do."""

    __slots__ = ()

    def start(self) -> bool:
        return super().start() or Short.start(self)

    def gone(self) -> None:
        if self._work is None:
            super().gone()
        else:
            Short.gone(self)
