"""Servers elsewhere that answer for versions: asked now and then whether they are there.

To the rest of this package such a server is a replica that somebody else runs: one of each wanted
target, ready when its server answers, neither started nor stopped. A thread asks, so that a turn
of the reconciler waits for nobody. Connects only to hosts that the operator allows.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import httpx

from meuse.access.sealing import Sealer, SealError
from meuse.core.errors import MeuseError
from meuse.core.nouns import ModelVersion, Scope
from meuse.core.ports import Blobs
from meuse.data import hosts
from meuse.data.hosts import Host, Source
from meuse.deploy.plan import Replica, Wanted
from meuse.serve.snapshot import UpstreamEntry

log = logging.getLogger(__name__)

FORMAT = "external"
SEALED = "sealed"
PREFIX = "upstream-"
LOOK_S = 10.0
AGAIN_S = 1.0
TIMEOUT_S = 5.0
ENOUGH = 3
"""Failures in a row after which a server that answered counts as gone."""


@dataclass(slots=True)
class Health:
    """`failures` in a row, and why the last one."""

    entry: UpstreamEntry
    ready: bool = False
    failures: int = 0
    reason: str = ""
    look_at: float = 0.0


class Upstreams:
    """`changed` is called from the thread when a server came or went."""

    def __init__(
        self,
        blobs: Blobs,
        sealer: Sealer,
        allowed: Sequence[Host],
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sealer = sealer
        self._allowed = allowed
        self._changed = changed
        self._clock = clock
        self._known: dict[UpstreamEntry, Health] = {}
        self._lock = threading.Condition()
        self._read = lru_cache(1024)(blobs.read)

    def run(self) -> None:
        """Ask for ever, in a daemon thread."""
        while True:
            if self.look():
                self._changed()
            with self._lock:
                due = min((h.look_at for h in self._known.values()), default=self._clock() + LOOK_S)
                self._lock.wait(max(due - self._clock(), 0.05))

    def look(self) -> bool:
        """Ask those that are due; whether anything is otherwise than before."""
        with self._lock:
            due = [h for h in self._known.values() if h.look_at <= self._clock()]
        changes = [self._ask(health) for health in due]  # all of them, whatever the first says
        return any(changes)

    def entry(self, scope: Scope, version: ModelVersion) -> UpstreamEntry | None:
        """How workers are to ask for a version; None where replicas run it."""
        if version.artifacts[0].format != FORMAT:
            return None
        told = version.report["upstream"]
        sealed = [a.digest for a in version.artifacts if a.format == SEALED]
        key = self._read(scope.tenant, sealed[0]) if sealed else b""
        return UpstreamEntry(told["url"], told["model"], key)

    def replicas(self, found: Collection[tuple[Wanted, str, UpstreamEntry]]) -> list[Replica]:
        """One for each (deployment, version) with its server; all others are forgotten."""
        with self._lock:
            for _, _, entry in found:
                if entry not in self._known:
                    self._known[entry] = Health(entry)
                    self._lock.notify()
            for entry in self._known.keys() - {entry for _, _, entry in found}:
                del self._known[entry]
            return [
                Replica(
                    f"{PREFIX}{want.name}/{version}".replace("/", "."),
                    want.name,
                    version,
                    self._known[entry].ready,
                    want.revision,
                )
                for want, version, entry in found
            ]

    def failing(self, entries: Collection[UpstreamEntry]) -> Health | None:
        """The one that has failed most often of these, if any has."""
        with self._lock:
            found = [h for e in entries if (h := self._known.get(e)) is not None and h.failures]
        return max(found, key=lambda health: health.failures, default=None)

    def _ask(self, health: Health) -> bool:
        reason = self.problem(health.entry)
        before = (health.ready, health.reason)
        with self._lock:
            health.reason = reason
            health.failures = health.failures + 1 if reason else 0
            if not reason or health.failures >= ENOUGH:
                health.ready = not reason
            health.look_at = self._clock() + (AGAIN_S if reason else LOOK_S)
        if reason and before[1] != reason:
            log.warning("%s: %s", health.entry.url, reason)
        return (health.ready, health.reason) != before

    def problem(self, entry: UpstreamEntry) -> str:
        """Why the server cannot be used; empty when it can."""
        try:
            source = hosts.check(entry.url, self._allowed)
            key = self._sealer.open(entry.sealed, entry.url) if entry.sealed else ""
            status = _status(source, _address(source.host), key)
        except MeuseError:
            return "the host is not in external_hosts, or has no address that may be called"
        except SealError as error:
            return f"its key cannot be read: {error}"
        except (httpx.HTTPError, OSError) as error:
            return f"the server cannot be reached: {type(error).__name__}"
        if status in (401, 403):
            return "the server refuses the key"
        # Some have no list of models; that they answer is what is asked.
        return "" if status < 500 else f"the server answers with status {status}"


def _address(host: Host) -> str:
    found = socket.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
    for info in found:
        if hosts.allowed_address(host, str(info[4][0])):
            return str(info[4][0])
    raise OSError("no address that may be called")


def _status(source: Source, address: str, key: str) -> int:
    """Of GET /models, asked at this address: names may lead elsewhere the next time."""
    host = source.host
    name = f"[{host.name}]" if ":" in host.name else host.name
    netloc = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    url = f"{host.scheme}://{netloc}:{host.port}{source.target.rstrip('/')}/models"
    headers = {"host": f"{name}:{host.port}"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    extensions = {"sni_hostname": host.name}
    with (
        httpx.Client(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as client,
        client.stream("GET", url, headers=headers, extensions=extensions) as answer,
    ):
        return answer.status_code
