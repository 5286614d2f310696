"""A target that another server answers for, where pools of replicas stand for others.

Knows where it is, what it is asked with, and which calls are under way; runs none itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from meuse.access.sealing import Sealer, SealError
from meuse.core.errors import Code, MeuseError, invalid
from meuse.data import hosts
from meuse.data.hosts import Host
from meuse.gateway.link import Flight
from meuse.gateway.links import Pool
from meuse.gateway.upstream.wire import Exchange, Wires
from meuse.serve.snapshot import TargetEntry, UpstreamEntry

logger = logging.getLogger(__name__)

PATHS = {"openai-chat": "/chat/completions", "openai-completions": "/completions"}
"""By protocol, beneath the server's base URL."""


class Call(Exchange, Protocol):
    """One under way."""

    deadline_ms: int

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

    @property
    def is_ready(self) -> bool:
        return self._error is None

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
        try:
            source = hosts.check(entry.url, self._allowed)
            self.secret = self._opened(entry)
        except (MeuseError, SealError) as error:
            logger.error("the server of %s cannot be asked: %s", target.version, error)
            self._error = MeuseError(
                Code.UNAVAILABLE, "the model's server cannot be asked",
                hint="Its operator has to look at external_hosts, and at its key.",
            )  # fmt: skip
            return
        self._wires = Wires(source.host)
        self._heads = {
            protocol: _head(source, path, self.secret) for protocol, path in PATHS.items()
        }

    def ask(self, call: Call, protocol: str, body: bytes) -> None:
        """Send it. Raises `MeuseError`."""
        if self._error is not None or self._wires is None:
            raise self._error or _nowhere()
        call.data = b"%b%d\r\n\r\n%b" % (self._heads[protocol], len(body), body)
        self._wires.send(call)
        self.calls.add(call)

    def submit(self, flight: Flight) -> None:
        raise invalid(
            "model",
            f"{self.name} produces text, and takes no tensors",
            "Ask it by POST /v1/chat/completions.",
        )

    def sweep(self, now: int) -> None:
        for call in [call for call in self.calls if call.deadline_ms <= now]:
            call.late()

    def look(self) -> None:
        if self._wires is not None:
            self._wires.sweep()

    def leave(self) -> None:
        if self._wires is not None:
            self._wires.leave()

    def close(self) -> None:
        if self._wires is not None:
            self._wires.close()

    def _opened(self, entry: UpstreamEntry) -> str:
        if not entry.sealed:
            return ""
        if self._sealer is None:
            raise SealError("this worker has no key to open it")
        return self._sealer.open(entry.sealed, entry.url)


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
