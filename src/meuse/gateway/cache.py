"""Response caches, one per deployment and worker: answers by what was asked.

A key says version and inputs, so another version never answers for this one; outputs are kept
before they are dressed, so every protocol shares them. Requests for the same key that run at
once wait for the first one. Bounded in bytes (the least recently used goes first) and in age.
Each worker has its own: N workers may ask a model N times. Knows no caller and no price.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.serve.frames import size_of
from meuse.serve.snapshot import CacheEntry, DeploymentEntry

Tensors = Sequence[tuple[str, NDArray[Any]]]

_OVERHEAD = 512
"""Bytes that an entry costs beside its tensors, about."""


def key_of(version: str, inputs: Tensors) -> bytes:
    """32 bytes of BLAKE2b over the version and every input's name, datatype, shape and bytes.

    Every part is preceded by its length: no two questions have the same text.
    """
    digest = blake2b(digest_size=32)

    def add(part: bytes | memoryview) -> None:
        digest.update(len(part).to_bytes(8))
        digest.update(part)

    add(version.encode())
    for name, array in sorted(inputs, key=_name):
        add(f"{name}\0{array.dtype.str}\0{array.shape}".encode())
        if array.dtype.hasobject:  # pointers say nothing
            for element in array.ravel().tolist():
                add(element if isinstance(element, bytes) else str(element).encode())
        else:
            add(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class _Entry:
    outputs: Tensors
    size: int
    until: float


class Cache:
    """Not for two threads. `clock` is in seconds, monotonic."""

    def __init__(self, entry: CacheEntry, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = entry.ttl_s
        self._max_bytes = entry.max_bytes
        self._clock = clock
        self._kept: OrderedDict[bytes, _Entry] = OrderedDict()
        self._running: dict[bytes, list[Any]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __bool__(self) -> bool:
        return True  # an empty cache is one

    def get(self, key: bytes) -> Tensors | None:
        """The outputs that are kept for a key, if they are young enough. Read-only."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        if entry.until <= self._clock():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return entry.outputs

    def put(self, key: bytes, outputs: Tensors) -> None:
        """Keep a copy: what a worker reads from a socket shares its memory with other answers."""
        copies = [(name, array.copy()) for name, array in outputs]
        for _, array in copies:
            array.flags.writeable = False
        size = _OVERHEAD + sum([size_of(array) for _, array in copies])
        if size > self._max_bytes:
            return
        if key in self._kept:
            self._drop(key)
        while self._kept and self.bytes + size > self._max_bytes:
            self._drop(next(iter(self._kept)))
        self._kept[key] = _Entry(copies, size, self._clock() + self._ttl_s)
        self.bytes += size

    def join(self, key: bytes, who: Any) -> bool:
        """Whether this key is being run: then `who` waits for it. Otherwise the caller runs it,
        and says how it ended by `end`, whatever happens."""
        waiting = self._running.get(key)
        if waiting is None:
            self._running[key] = []
            return False
        waiting.append(who)
        return True

    def end(self, key: bytes, outputs: Tensors | None) -> list[Any]:
        """Keep the outputs (None: it failed); those who wait for it."""
        if outputs is not None:
            self.put(key, outputs)
        return self._running.pop(key)

    def _drop(self, key: bytes) -> None:
        self.bytes -= self._kept.pop(key).size


class Caches:
    """Those of a worker. A cache lasts as long as its deployment's spec: a new one empties it."""

    def __init__(self) -> None:
        self._caches: dict[tuple[str, str, str, int], Cache] = {}

    def follow(self, deployments: Iterable[DeploymentEntry]) -> None:
        """Keep the caches of these, and drop all others."""
        before, self._caches = self._caches, {}
        for entry in deployments:
            if entry.cache is not None:
                self._caches[_spec(entry)] = before.get(_spec(entry)) or Cache(entry.cache)

    def of(self, deployment: DeploymentEntry) -> Cache | None:
        return self._caches.get(_spec(deployment)) if deployment.cache is not None else None


def _spec(entry: DeploymentEntry) -> tuple[str, str, str, int]:
    return entry.tenant, entry.project, entry.name, entry.generation


def _name(item: tuple[str, NDArray[Any]]) -> str:
    return item[0]
