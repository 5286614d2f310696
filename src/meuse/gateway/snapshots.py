"""Follows what control publishes: one line in, one file read, one swap, one line back.

    → {"slot": 0, "epoch": 1, "pid": 4711, "loaded": 6}      on connect
    ← {"snapshot": 7}
    → {"ack": 7}
    → {"wake": "acme/digits"}                                a request waits where nothing runs

Without control the worker goes on with what it has and tries again every 0.2 s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from meuse.serve import snapshot
from meuse.serve.snapshot import Snapshot

logger = logging.getLogger(__name__)

_RETRY_S = 0.2


class _Published(msgspec.Struct):
    snapshot: int


class SnapshotClient:
    """Loads the file at start, then whenever control says so."""

    def __init__(
        self, socket: Path, file: Path, swap: Callable[[Snapshot], None], slot: int, epoch: int
    ) -> None:
        self._socket = str(socket)
        self._file = file
        self._swap = swap
        self._slot = slot
        self._epoch = epoch
        self._loaded = 0
        self.taken_ms = 0.0
        """When the last snapshot was taken, Unix milliseconds."""
        self._writer: asyncio.StreamWriter | None = None

    def load(self) -> None:
        """Read the file and swap. Raises OSError or msgspec.MsgspecError; nothing changes then."""
        self._take(snapshot.read(self._file))

    @property
    def is_following(self) -> bool:
        """Whether control is there."""
        return self._writer is not None

    def wake(self, deployment: str) -> None:
        """Ask for a replica. Lost while control is away: its next look sees who waits."""
        if self._writer is not None:
            self._writer.write(_line(wake=deployment))

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._session()
            except (OSError, msgspec.MsgspecError, ValueError) as error:
                logger.debug("control is away: %s", error)
            await asyncio.sleep(_RETRY_S)

    async def _session(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        self._writer = writer
        try:
            writer.write(
                _line(slot=self._slot, epoch=self._epoch, pid=os.getpid(), loaded=self._loaded)
            )
            while line := await reader.readline():
                published = msgspec.json.decode(line, type=_Published)
                if await self._reload(published.snapshot):
                    writer.write(_line(ack=self._loaded))
        finally:
            self._writer = None
            writer.close()

    async def _reload(self, number: int) -> bool:
        """Whether what is loaded now is what was published, or newer."""
        try:
            # A large file takes its time to read; requests go on meanwhile.
            self._take(await asyncio.to_thread(snapshot.read, self._file))
        except (OSError, msgspec.MsgspecError) as error:
            logger.error("snapshot %d cannot be read: %s", number, error)
            return False
        return self._loaded >= number

    def _take(self, fresh: Snapshot) -> None:
        self._swap(fresh)
        self._loaded = fresh.number
        self.taken_ms = time.time() * 1000.0


def _line(**fields: int | str) -> bytes:
    return msgspec.json.encode(fields) + b"\n"
