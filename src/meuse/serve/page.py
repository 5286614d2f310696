"""The page on which a replica marks the requests that it is executing.

u32 count (little-endian), then `count` usage ids of 16 bytes. The count is zeroed first, the
ids are written, then the count, so that a reader never sees a half-written list. The file
outlives the process: a worker that loses the replica reads which of its requests had been
started, and may so have caused the death. A new replica makes a new file; a worker keeps the
one that it opened when it connected.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

_ID = 16


class PageWriter:
    """The replica's side: room for `capacity` ids."""

    def __init__(self, path: Path, capacity: int) -> None:
        fresh = path.with_suffix(".page-new")
        size = 4 + _ID * capacity
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        fresh.replace(path)
        self._capacity = capacity

    def mark(self, ids: Sequence[bytes]) -> None:
        """These are executed from now on, and no others."""
        if len(ids) > self._capacity:
            raise ValueError(f"{len(ids)} ids on a page for {self._capacity}")
        page = self._map
        page[0:4] = b"\0\0\0\0"
        if ids:
            marks = b"".join(ids)
            page[4 : 4 + len(marks)] = marks
            page[0:4] = len(ids).to_bytes(4, "little")


class PageReader:
    """The worker's side. Opened while the replica lives, read after its death."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def started(self) -> frozenset[bytes]:
        """Ids of the batch that was executed last."""
        content = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        count = int.from_bytes(content[:4], "little")
        marks = content[4 : 4 + _ID * count]
        return frozenset(marks[i : i + _ID] for i in range(0, len(marks) - _ID + 1, _ID))

    def close(self) -> None:
        os.close(self._fd)
