"""The short way of an inference request: from the parser to the answer in one object.

Most requests are whole within one read of their connection. For those a scope, a cycle, events,
a task and coroutines, as ASGI has them, are two thirds of what the HTTP server costs; here a
request is read, started, and written when its answer is there, by plain calls. Everything else
goes the long way, through the same readers, writers and refusals (`http.App`). Stands where
uvicorn keeps its cycle, and shows what uvicorn looks at there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from meuse.core.errors import Code, MeuseError

if TYPE_CHECKING:
    from meuse.gateway.dataplane import Work
    from meuse.gateway.heads import Headers
    from meuse.gateway.http import App
    from meuse.gateway.readers import Asked, ShortRoute

logger = logging.getLogger(__name__)

_JSON_200 = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "


class Connection(Protocol):
    """What the answer is written to."""

    def write(self, data: bytes) -> None: ...
    def respond(self, data: bytes, *, keep_alive: bool) -> None: ...


class _NoEvent:
    """uvicorn sets the event of a cycle; here nobody waits for one."""

    def set(self) -> None: ...


_NO_EVENT = _NoEvent()


class Short:
    """One request. `body` grows until `start`; `gone` tells that nobody is there any more."""

    __slots__ = (
        "_app", "_asked", "_connection", "_headers", "_route", "_work", "body", "disconnected",
        "keep_alive", "message_event", "more_body", "response_complete", "response_started",
    )  # fmt: skip

    def __init__(
        self,
        app: App,
        route: ShortRoute,
        connection: Connection,
        headers: Headers,
        keep_alive: bool,
    ) -> None:
        self._app = app
        self._route = route
        self._connection = connection
        self._headers = headers
        self._asked: Asked | None = None
        self._work: Work | None = None
        self.body = b""
        self.keep_alive = keep_alive
        self.disconnected = False
        self.more_body = True
        self.message_event = _NO_EVENT
        self.response_started = False
        self.response_complete = False

    def start(self) -> bool:
        """The request is whole. False: it has to go the long way after all."""
        self.more_body = False
        app = self._app
        try:
            self._asked = asked = app.read(self._route, self._headers, self.body)
            self._work = app.plane.start(asked.call, self._done)
        except MeuseError as error:
            self._refuse(error)
        except Exception:
            logger.exception("a request failed")
            self._refuse(ours())
        return True

    def pause(self) -> None:
        """The client does not take what is written."""

    def resume(self) -> None:
        """It does again."""

    def gone(self) -> None:
        """The connection is lost."""
        self.disconnected = True
        if self._work is not None and not self.response_complete:
            self._app.plane.abandon(self._work)
        self._forget()

    def _done(self, work: Work) -> None:
        if self.disconnected:
            return
        assert self._asked is not None
        try:
            status, body, *more = self._asked.write(work.result())
        except MeuseError as error:
            self._refuse(error)
            return
        except Exception:
            logger.exception("an answer could not be written")
            self._refuse(ours())
            return
        if more or status != 200 or not self.keep_alive:
            self._write(status, body, more[0] if more else self._app.json)
            return
        self._end(b"%b%d\r\n\r\n%b" % (_JSON_200, len(body), body))

    def _refuse(self, error: MeuseError) -> None:
        if self._asked is not None:
            error = self._asked.refused(error)
        status, body, headers = self._app.refusal(error, self._route.raw_path, self._headers)
        if error.code is Code.TOO_LARGE:
            self.keep_alive = False
        self._write(status, body, headers)

    def _write(self, status: int, body: bytes, headers: Headers) -> None:
        parts = [STATUS_LINE[status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"content-length: %d\r\n\r\n" % len(body))
        parts.append(body)
        self._end(b"".join(parts))

    def _end(self, data: bytes) -> None:
        self.response_started = self.response_complete = True
        self._forget()
        self._connection.respond(data, keep_alive=self.keep_alive)

    def _forget(self) -> None:
        """An idle connection keeps nothing of its last request."""
        self._work = self._asked = None
        self.body = b""


def ours() -> MeuseError:
    return MeuseError(Code.INTERNAL, "something went wrong on our side")
