"""Connections to one external server: HTTP/1.1, kept alive, one request on each at a time.

Connects only to addresses that the operator allows, and verifies certificates. A request that a
kept connection swallowed (the server was just closing it: no byte of an answer came) is sent
once more on a fresh one, unless another try is somebody else's business (`Hold`). Knows no key,
no limit and no model.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

import httptools

from meuse.core.errors import Code, MeuseError
from meuse.data.hosts import Host, allowed_address
from meuse.gateway.upstream.events import garbage

logger = logging.getLogger(__name__)

CONNECT_S = 10.0
IDLE_S = 55.0
MAX_CONNECTIONS = 2048
MAX_HEAD = 64 * 1024
_LOOKED_FOR = frozenset({b"content-type", b"retry-after", b"content-encoding"})


class Exchange(Protocol):
    """One request and who is told of its answer. Nothing of this may raise."""

    link: Connection | None
    data: bytes

    @property
    def is_over(self) -> bool:
        """Nobody waits for it any more."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_broken(self, error: MeuseError) -> None: ...


Hold = Callable[[Exchange, bool], bool]
"""(what got no answer, whether a server had taken it) → whether it is kept for another try."""


class Connection(asyncio.Protocol):
    """One of them. Free while `exchange` is None."""

    def __init__(self, wires: Wires) -> None:
        self._wires = wires
        self._parser = httptools.HttpResponseParser(self)
        self.exchange: Exchange | None = None
        self.used = 0
        self.idle_since = 0.0
        self._got = self._ends_by_close = self._keeps = False
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self.transport: asyncio.Transport

    def send(self, exchange: Exchange) -> None:
        self.exchange = exchange
        exchange.link = self
        self.used += 1
        self._got = False
        self.transport.write(exchange.data)

    def abandon(self) -> None:
        """Nobody wants the rest."""
        self.exchange = None
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._got = True
        if self.exchange is None:
            self.transport.abort()  # nothing was asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(garbage("answered with something else than HTTP"))
        if self._head_bytes > MAX_HEAD:
            self._fail(garbage(f"sent headers of more than {MAX_HEAD} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._wires.lost(self)
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        exchange.link = None
        if self._ends_by_close and exc is None:
            exchange.on_end()
        elif not self._got and self._wires.holds(exchange):
            pass
        elif not self._got and self.used > 1 and not self._wires.is_held:
            self._wires.send(exchange, fresh=True)
        else:
            exchange.on_broken(_cut())

    # httptools

    def on_message_begin(self) -> None:
        self._headers = {}
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 32
        name = name.lower()
        if name in _LOOKED_FOR:
            self._headers[name] = value
        elif name in (b"content-length", b"transfer-encoding"):
            self._headers[b"framed"] = value

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        parser = self._parser
        self._keeps = parser.should_keep_alive()
        status = parser.get_status_code()
        if status >= 200 and self.exchange is not None:
            self._ends_by_close = b"framed" not in self._headers and status not in (204, 304)
            self.exchange.on_head(status, self._headers)

    def on_body(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.on_body(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            return
        self._ends_by_close = False
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        exchange.link = None
        if self._keeps and not self.transport.is_closing():
            self._wires.free(self)
        else:
            self.transport.close()
        exchange.on_end()

    def _fail(self, error: MeuseError) -> None:
        exchange, self.exchange = self.exchange, None
        self.transport.abort()
        if exchange is not None:
            exchange.link = None
            exchange.on_broken(error)


class Wires:
    """All connections of a worker to one server. `hold` is given what nobody has taken, and what
    was taken and got no byte; what it does not keep has come to its end."""

    def __init__(self, host: Host, hold: Hold | None = None) -> None:
        self._host = host
        self._hold = hold
        self._idle: list[Connection] = []  # the one that was used last is used first
        self._all: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False

    def send(self, exchange: Exchange, *, fresh: bool = False) -> None:
        """Ask; the answer, or why there is none, comes by the exchange. Raises `overloaded`."""
        while self._idle and not fresh:
            link = self._idle.pop()
            if not link.transport.is_closing():
                link.send(exchange)
                return
        if len(self._all) + len(self._opening) >= MAX_CONNECTIONS:
            error = MeuseError(
                Code.OVERLOADED, "too many requests wait for the model's server",
                hint="Try again later.",
            )  # fmt: skip
            if not fresh:
                raise error
            exchange.on_broken(error)
            return
        task = asyncio.get_running_loop().create_task(self._open(exchange))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    @property
    def is_held(self) -> bool:
        return self._hold is not None

    def holds(self, exchange: Exchange, *, taken: bool = True) -> bool:
        """Whether it waits now for another try."""
        if self._hold is None or exchange.is_over:
            return False
        return self._hold(exchange, taken)

    def free(self, link: Connection) -> None:
        if self._closed:
            link.transport.close()
            return
        link.idle_since = time.monotonic()
        self._idle.append(link)

    def lost(self, link: Connection) -> None:
        self._all.discard(link)
        with contextlib.suppress(ValueError):
            self._idle.remove(link)

    def sweep(self) -> None:
        """Close what was idle for long: servers do so too, and not always in time."""
        since = time.monotonic() - IDLE_S
        while self._idle and self._idle[0].idle_since < since:
            self._idle.pop(0).transport.close()

    def leave(self) -> None:
        """What is under way is still answered."""
        self._closed = True
        for link in self._idle:
            link.transport.close()
        self._idle = []

    def close(self) -> None:
        self.leave()
        for task in self._opening:
            task.cancel()
        for link in list(self._all):
            link.transport.abort()

    async def _open(self, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                link = await self._connect()
        except MeuseError as error:
            exchange.on_broken(error)
        except (OSError, TimeoutError) as error:
            logger.warning("%s:%d: %s", self._host.name, self._host.port, _reason(error))
            if not self.holds(exchange, taken=False):
                exchange.on_broken(_unreachable())
        else:
            self._all.add(link)
            if exchange.is_over:
                self.free(link)
            else:
                link.send(exchange)

    async def _connect(self) -> Connection:
        host, loop = self._host, asyncio.get_running_loop()
        found = await loop.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
        allowed = [info for info in found if allowed_address(host, str(info[4][0]))]
        if not allowed:
            raise MeuseError(
                Code.UNAVAILABLE, "the model's server has no address that this platform may call",
                hint="Its operator has to look at external_hosts.",
            )  # fmt: skip
        secure: dict[str, Any] = {}
        if host.scheme == "https":
            secure = {"ssl": _tls(), "server_hostname": host.name}
        for number, info in enumerate(allowed):
            try:
                _, link = await loop.create_connection(
                    lambda: Connection(self), str(info[4][0]), host.port, **secure
                )
            except OSError:
                if number + 1 == len(allowed):
                    raise
            else:
                return link
        raise OSError("no address")


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _unreachable() -> MeuseError:
    return MeuseError(
        Code.UNAVAILABLE, "the model's server cannot be reached", hint="Try again later."
    )


def _cut() -> MeuseError:
    return MeuseError(
        Code.UPSTREAM_ERROR,
        "the model's server broke the connection off",
        hint="What was produced is charged. Try again.",
    )
