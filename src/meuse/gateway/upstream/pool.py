"""A target that a server answers for by HTTP, where pools of replicas stand for others.

Knows where it is, what it is asked with, and which calls are under way; runs none itself. A server
that is a replica of ours comes again after its death: what could not be sent waits for it, bounded.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import urlsplit
from weakref import WeakSet

from meuse.access.sealing import Sealer, SealError
from meuse.core.errors import Code, MeuseError, invalid
from meuse.data import hosts
from meuse.data.hosts import Host
from meuse.gateway.link import Flight
from meuse.gateway.links import MAX_WAITING, MAX_WAITING_BYTES, Pool
from meuse.gateway.upstream.wire import Exchange, Wires
from meuse.serve.snapshot import TargetEntry, UpstreamEntry

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PATHS = {
    "openai-chat": "/chat/completions",
    "openai-completions": "/completions",
    "openai-embeddings": "/embeddings",
}
"""By protocol, beneath the server's base URL."""


class Call(Exchange, Protocol):
    """One under way."""

    deadline_ms: int

    @property
    def protocol(self) -> str: ...
    def late(self) -> None: ...


class RemotePool(Pool):
    """`sealer` opens the keys of the snapshot, `allowed` are the hosts that may be called."""

    def __init__(self, name: str, sealer: Sealer | None, allowed: Sequence[Host]) -> None:
        super().__init__(name, Path(), _nobody)
        self._sealer = sealer
        self._allowed = allowed
        self._entry: UpstreamEntry | None = None
        self._wires: Wires | None = None
        self._error: MeuseError | None = None
        self._heads: dict[str, bytes] = {}
        self.secret = ""
        self.calls: set[Call] = set()
        self._held: deque[tuple[Call, bytes]] = deque()
        self._held_bytes = 0
        self._taken: WeakSet[Call] = WeakSet()  # once already

    @property
    def is_ready(self) -> bool:
        return self._error is None and not (self._is_own and self._wires is None)

    @property
    def _is_own(self) -> bool:
        return self._entry is not None and self._entry.own

    @property
    def connected(self) -> int:
        return int(self.is_ready)

    @property
    def is_empty(self) -> bool:
        return not self.calls

    def update(self, target: TargetEntry) -> None:
        entry = target.upstream
        if entry is None or entry == self._entry:
            return
        self._entry = entry
        if self._wires is not None:
            self._wires.leave()
        self._wires, self._error = None, None
        if entry.own and not entry.url:
            return
        try:
            source = _own(entry) if entry.own else hosts.check(entry.url, self._allowed)
            self.secret = self._opened(entry)
        except (MeuseError, SealError) as error:
            logger.error("the server of %s cannot be asked: %s", target.version, error)
            self._error = MeuseError(
                Code.UNAVAILABLE, "the model's server cannot be asked",
                hint="Its operator has to look at external_hosts, and at its key.",
            )  # fmt: skip
            return
        self._wires = Wires(source.host, self._again if entry.own else None)
        self._heads = {
            protocol: _head(source, path, self.secret) for protocol, path in PATHS.items()
        }
        self._send_held(self._wires)

    def ask(self, call: Call, body: bytes) -> None:
        """Send it, or let it wait. Raises `MeuseError`."""
        if self._error is not None:
            raise self._error
        if self._wires is not None:
            self._send(self._wires, call, body)
        elif self._is_own:
            self._wait(call, body)
        else:
            raise _nowhere()
        self.calls.add(call)

    def _send(self, wires: Wires, call: Call, body: bytes) -> None:
        call.data = b"%b%d\r\n\r\n%b" % (self._heads[call.protocol], len(body), body)
        wires.send(call)

    def _wait(self, call: Call, body: bytes) -> None:
        size = self._held_bytes + len(body)
        if len(self._held) >= MAX_WAITING or (self._held and size > MAX_WAITING_BYTES):
            raise MeuseError(
                Code.OVERLOADED, f"too many requests wait for {self.name}", hint="Try again later."
            )
        self._held.append((call, body))
        self._held_bytes = size

    def _again(self, exchange: Exchange, taken: bool) -> bool:
        """It waits for who comes next: always where nobody had listened, and once where a server
        had taken it and was gone before a byte of its answer."""
        call = cast("Call", exchange)  # nothing else was sent
        if taken and call in self._taken:
            return False
        if taken:
            self._taken.add(call)
        try:
            self._wait(call, call.data.partition(b"\r\n\r\n")[2])
        except MeuseError as error:
            call.on_broken(error)
        return True

    def _send_held(self, wires: Wires) -> None:
        held, self._held, self._held_bytes = self._held, deque(), 0
        for call, body in held:
            if call.is_over:
                continue
            try:
                self._send(wires, call, body)
            except MeuseError as error:
                call.on_broken(error)

    def submit(self, flight: Flight) -> None:
        raise invalid(
            "model",
            f"{self.name} produces text, and takes no tensors",
            "Ask it by POST /v1/chat/completions, or /v1/embeddings where its server has them.",
        )

    def sweep(self, now: int) -> None:
        for call in [call for call in self.calls if call.deadline_ms <= now]:
            call.late()

    def look(self) -> None:
        if self._wires is not None:
            self._wires.sweep()
            if self._held:  # it was only too busy to take a connection
                self._send_held(self._wires)

    def leave(self) -> None:
        if self._wires is not None:
            self._wires.leave()
        held, self._held, self._held_bytes = self._held, deque(), 0
        for call, _ in held:
            if not call.is_over:
                call.on_broken(_nowhere())

    def close(self) -> None:
        if self._wires is not None:
            self._wires.close()

    def _opened(self, entry: UpstreamEntry) -> str:
        if not entry.sealed:
            return ""
        if self._sealer is None:
            raise SealError("this worker has no key to open it")
        return self._sealer.open(entry.sealed, entry.url)


def _own(entry: UpstreamEntry) -> hosts.Source:
    """Of ours none is anywhere but on loopback. Raises `invalid_field`, `forbidden`."""
    return hosts.check(entry.url, (hosts.Host("http", LOOPBACK, _port(entry.url), 4),))


def _port(url: str) -> int:
    return urlsplit(url).port or 0


def _head(source: hosts.Source, path: str, secret: str) -> bytes:
    host = source.host
    name = f"[{host.name}]" if ":" in host.name else host.name
    port = "" if host.port == hosts.PORTS[host.scheme] else f":{host.port}"
    authorization = f"authorization: Bearer {secret}\r\n" if secret else ""
    return (
        f"POST {source.target.rstrip('/')}{path} HTTP/1.1\r\nhost: {name}{port}\r\n"
        f"{authorization}content-type: application/json\r\naccept-encoding: identity\r\n"
        "user-agent: meuse\r\ncontent-length: "
    ).encode()


def _nowhere() -> MeuseError:
    return MeuseError(Code.UNAVAILABLE, "the model's server is not known yet")


def _nobody(_: str) -> None: ...
