"""The page that a replica shares with those who watch it: that it lives, and what it executes.

    magic    4 bytes
    beat     u32: grows several times a second while the process gets to run at all
    step     u32: odd while a batch is executed, and another number for every batch
    count    u32, then as many usage ids of 16 bytes: the batch that was executed last

In the machine's byte order. The count is zeroed before ids are written and set after them, so
that a reader never sees a half-written list. Numbers that change, and not times, so that
nobody's clock has to agree and a machine that slept makes nobody look dead.

The file outlives the process: a worker that loses the replica reads which of its requests had
been started, and may so have caused the death. A new replica makes a new file; a worker keeps
the one that it opened when it connected.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

BEAT_S = 0.1
_ID = 16
_MAGIC = b"MPG2"
_HEADER = 16
_PULSE = struct.Struct("=4sII")
_WRAP = 0xFFFFFFFF


class PageWriter:
    """The replica's side: room for `capacity` ids."""

    def __init__(self, path: Path, capacity: int) -> None:
        fresh = path.with_suffix(".page-new")
        size = _HEADER + _ID * capacity
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._map[0:4] = _MAGIC
        self._words = memoryview(self._map).cast("I")  # a fraction of what a slice of bytes costs
        fresh.replace(path)
        self._capacity = capacity
        self._beat = 0
        self._step = 0

    def mark(self, ids: Sequence[bytes]) -> None:
        """These are executed from now on, and no others."""
        if len(ids) > self._capacity:
            raise ValueError(f"{len(ids)} ids on a page for {self._capacity}")
        words = self._words
        words[2] = self._step = (self._step + 1 | 1) & _WRAP
        words[3] = 0
        if ids:
            marks = b"".join(ids)
            self._map[_HEADER : _HEADER + len(marks)] = marks
            words[3] = len(ids)

    def rest(self) -> None:
        """Nothing is executed now; what was executed last stays to be read."""
        if self._step & 1:
            self._words[2] = self._step = (self._step + 1) & _WRAP

    def beat(self) -> None:
        """A sign of life."""
        self._words[1] = self._beat = (self._beat + 1) & _WRAP

    def keep_beating(self) -> None:
        """In a thread of its own until the process ends: an engine may hold up the loop for
        long. It must let other threads run meanwhile, as those that compute in C do."""

        def keep() -> None:
            pause = threading.Event()
            while not pause.wait(BEAT_S):
                self.beat()

        threading.Thread(target=keep, name="beat", daemon=True).start()


class PageReader:
    """The watcher's side. Opened while the replica lives, read also after its death.

    Raises OSError, and ValueError for what is no such page (or one of another release).
    """

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
        if self._map[0:4] != _MAGIC or len(self._map) < _HEADER:
            self._map.close()
            raise ValueError(f"{path} is not a replica's page")

    def pulse(self) -> tuple[int, int]:
        """(beat, step). A look at memory: cheap."""
        _, beat, step = _PULSE.unpack_from(self._map)
        return beat, step

    def started(self) -> frozenset[bytes]:
        """Ids of the batch that was executed last."""
        content = self._map[:]
        count = int.from_bytes(content[12:16], sys.byteorder)
        marks = content[_HEADER : _HEADER + _ID * count]
        return frozenset(marks[i : i + _ID] for i in range(0, len(marks) - _ID + 1, _ID))

    def close(self) -> None:
        self._map.close()
