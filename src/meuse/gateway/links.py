"""All links of a worker: a pool per target of a deployment, and who gets which request.

A request goes to the less loaded of two replicas that have credit, else it waits in the pool,
bounded in number and bytes, until there is credit or its deadline passes. When a replica dies,
or shows no life, requests it had not started wait again; started ones are run once more, alone;
one that takes a replica down alone is quarantined. Knows frames and snapshots; knows no key and
no protocol.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, invalid
from meuse.gateway.link import Flight, Link
from meuse.gateway.streams import Stream, StreamLink
from meuse.serve.snapshot import Snapshot, TargetEntry

MAX_WAITING = 1024
MAX_WAITING_BYTES = 128 * 1024 * 1024
_SWEEP_S = 0.02
_LOOK_EVERY = 10  # sweeps


class MovedError(Exception):
    """The target left its deployment while the request waited; it may go to another."""


class Pool:
    """The replicas of one target, and the requests that wait for one of them.

    Where nothing runs, the requests of all `workers` together are bounded: each holds its part.
    """

    _link: type[Link] = Link

    def __init__(
        self, name: str, sockets: Path, wake: Callable[[str], None], workers: int = 1
    ) -> None:
        self.name = name
        self._workers = workers
        self._sockets = sockets
        self._wake = wake
        self._links: dict[str, Link] = {}
        self._leaving: set[Link] = set()
        self._waiting: deque[Flight] = deque()
        self._waiting_bytes = 0
        self._gone = False

    @property
    def is_ready(self) -> bool:
        """Whether a replica is connected."""
        return any(link.is_ready for link in self._links.values())

    @property
    def connected(self) -> int:
        """How many replicas are."""
        return sum(link.is_ready for link in self._links.values())

    @property
    def is_empty(self) -> bool:
        return not (self._links or self._leaving or self._waiting)

    def update(self, target: TargetEntry) -> None:
        """Follow the snapshot: connect to new replicas, let the others finish."""
        wanted = {replica.id for replica in target.replicas}
        for replica in wanted - self._links.keys():
            self._links[replica] = self._link(self, replica, target.version, self._sockets)
        for replica in self._links.keys() - wanted:
            self._release(self._links.pop(replica))
        self._gone = False
        self._wake_if_nobody()

    def leave(self) -> None:
        """The target takes no more traffic. What is in flight is still answered."""
        self._gone = True
        for link in self._links.values():
            self._release(link)
        self._links = {}
        self._drain()

    def close(self) -> None:
        """End at once."""
        for link in (*self._links.values(), *self._leaving):
            link.close()
        self._links = {}

    def submit(self, flight: Flight) -> None:
        """Send, or queue. Raises `overloaded` when the queue is full."""
        if not self._waiting:
            link = self._choose(flight.size)
            if link is not None:
                link.send(flight)
                return
        bytes_after = self._waiting_bytes + flight.size
        parts = 1 if self._links else self._workers
        if len(self._waiting) >= max(1, MAX_WAITING // parts) or (
            self._waiting and bytes_after > MAX_WAITING_BYTES // parts
        ):
            raise MeuseError(
                Code.OVERLOADED,
                f"too many requests wait for {self.name}",
                hint="Try again later, or add replicas.",
            )
        self._waiting.append(flight)
        if len(self._waiting) == 1:
            self._wake_if_nobody()
        self._waiting_bytes = bytes_after

    def sweep(self, now: int) -> None:
        """Fail what is late, and give back the places of those who have gone.

        In flight a request keeps its credit until the replica answers.
        """
        for link in (*self._links.values(), *self._leaving):
            for flight in list(link.flights.values()):
                if flight.deadline_ms <= now and flight.outcome is None:
                    flight.fail(_late(flight))
                    link.cancel(flight)
        if not self._waiting:
            return
        for flight in self._waiting:
            if flight.deadline_ms <= now:
                flight.fail(_late(flight) if self.is_ready else _nobody(self.name))
        still = [flight for flight in self._waiting if flight.outcome is None]
        if len(still) < len(self._waiting):
            self._set_waiting(still)

    def look(self) -> None:
        """See which replicas live."""
        for link in (*self._links.values(), *self._leaving):
            link.look()

    # link.Owner

    def ready(self, link: Link) -> None:
        if self._waiting:
            self._drain()
        if link in self._leaving and not link.flights:
            self._leaving.discard(link)

    def lost(self, link: Link, flights: list[Flight], started: frozenset[bytes] | None) -> None:
        again = []
        for flight in flights:
            if flight.outcome is not None:
                continue
            if started is None or flight.id in started:
                if flight.alone:
                    flight.fail(_unanswered() if link.was_silent else _quarantined())
                    continue
                flight.alone = True
            again.append(flight)
        self._leaving.discard(link)
        self._set_waiting([*again, *self._waiting])
        self._drain()
        self._wake_if_nobody()

    def _release(self, link: Link) -> None:
        if link.flights:
            self._leaving.add(link)
        link.retire()

    def _choose(self, size: int) -> Link | None:
        if len(self._links) == 1:
            (link,) = self._links.values()
            return link if link.has_room(size) else None
        links = list(self._links.values())
        if len(links) > 2:
            pair = random.sample(links, 2)
            with_room = [link for link in pair if link.has_room(size) and not link.is_held]
            if with_room:
                return min(with_room, key=_load)
        with_room = [link for link in links if link.has_room(size)]
        if len(with_room) > 1:
            return min(with_room, key=_load)
        return with_room[0] if with_room else None

    def _drain(self) -> None:
        if self._gone and self._waiting:
            for flight in self._waiting:
                flight.fail(MovedError())
            self._set_waiting([])
        while self._waiting:
            link = self._choose(self._waiting[0].size)
            if link is None:
                return
            flight = self._waiting.popleft()
            self._waiting_bytes -= flight.size
            if flight.outcome is None:
                link.send(flight)

    def _wake_if_nobody(self) -> None:
        if self._waiting and not self._links:
            self._wake(self.name)

    def _set_waiting(self, flights: list[Flight]) -> None:
        self._waiting = deque(flights)
        self._waiting_bytes = sum(flight.size for flight in flights)


class TextPool(Pool):
    """That of a target which produces text."""

    _link = StreamLink

    def submit(self, flight: Flight) -> None:
        if not isinstance(flight, Stream):
            raise invalid(
                "model",
                f"{self.name} produces text, and takes no tensors",
                "Ask it by POST /v1/chat/completions.",
            )
        super().submit(flight)


class Links:
    """Every pool of the worker, by deployment ("owner/name") and version.

    `wake` is told the name of a deployment when a request begins to wait and no replica is there.
    `workers`: how many processes like this one share a bound. `remote` makes the pool of a target
    that a server elsewhere answers for.
    """

    def __init__(
        self,
        sockets: Path,
        wake: Callable[[str], None],
        workers: int = 1,
        remote: Callable[[str], Pool] | None = None,
    ) -> None:
        self._sockets = sockets
        self._workers = workers
        self._wake = wake
        self._remote = remote
        self._pools: dict[tuple[str, str], Pool] = {}
        self._old: list[Pool] = []

    def update(self, snapshot: Snapshot) -> None:
        """Make a pool for every target and drop the others, without losing a request."""
        wanted = {
            (name, target.version): target
            for name, deployment in snapshot.deployments.items()
            for target in deployment.targets
        }
        for name, deployment in snapshot.deployments.items():
            if deployment.shadow is not None:
                shadow = deployment.shadow.target
                wanted.setdefault((name, shadow.version), shadow)
        for key, target in wanted.items():
            if key not in self._pools:
                self._pools[key] = self._made(key[0], target)
            self._pools[key].update(target)
        gone = [self._pools.pop(key) for key in self._pools.keys() - wanted.keys()]
        self._old = [pool for pool in self._old if not pool.is_empty] + gone

    def _made(self, name: str, target: TargetEntry) -> Pool:
        if target.upstream is not None and self._remote is not None:
            return self._remote(name)
        kind = Pool if target.generation is None else TextPool
        return kind(name, self._sockets, self._wake, self._workers)

    def leave_old(self) -> None:
        """Send the waiting requests of dropped targets elsewhere; the new routes must stand."""
        for pool in self._old:
            pool.leave()

    def pool(self, deployment: str, version: str) -> Pool:
        return self._pools[deployment, version]

    def connected(self) -> dict[tuple[str, str], int]:
        """Connected replicas by deployment ("owner/name") and version."""
        return {key: pool.connected for key, pool in self._pools.items()}

    def close(self) -> None:
        for pool in (*self._pools.values(), *self._old):
            pool.close()

    async def sweep(self) -> None:
        """Let no request wait for ever, nor for a replica that is stuck; until cancelled."""
        for number in itertools.count():
            await asyncio.sleep(_SWEEP_S)
            now = now_ms()
            for pool in (*self._pools.values(), *self._old):
                pool.sweep(now)
                if number % _LOOK_EVERY == 0:
                    pool.look()


def _load(link: Link) -> int:
    return link.load


def late() -> MeuseError:
    return MeuseError(
        Code.DEADLINE_EXCEEDED,
        "the deployment did not answer in time",
        hint="Send smaller requests, add replicas or raise timeout_ms.",
    )


def _late(flight: Flight) -> MeuseError:
    """Of one that was held back: that it was busy, for it is to come again."""
    if not (isinstance(flight, Stream) and flight.is_held_back):
        return late()
    return MeuseError(
        Code.OVERLOADED,
        "others kept the deployment busy until the deadline",
        hint="Try again later, or add replicas.",
        retry_after_s=1,
    )


def _nobody(name: str) -> MeuseError:
    return MeuseError(
        Code.UNAVAILABLE, f"no replica of {name} was there in time", hint="Try again later."
    )


def _quarantined() -> MeuseError:
    return MeuseError(
        Code.QUARANTINED,
        "a replica died of this request twice; it is not tried again",
        field="inputs",
        hint="Check the input against what the model can take.",
    )


def _unanswered() -> MeuseError:
    return MeuseError(
        Code.UNAVAILABLE,
        "a replica stopped answering with this request, and then another one",
        hint="Try again later.",
    )
