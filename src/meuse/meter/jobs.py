"""What jobs used, as records of the batch tier in the same journal as requests.

A job has one record, whose id follows from the job's and whose bytes from its result: writing
it again, as a step that is repeated does, bills nothing twice. Knows no database.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from meuse.meter.journal import JournalWriter
from meuse.meter.record import UsageRecord

TIER = "batch"
SOURCE = "job"
"""Ours alone, as `gateway` is."""
SLOT = 9_000
"""Of the host's slots in the journal; workers have the low numbers."""


def record_id(job: str, part: str = "") -> bytes:
    """16 bytes for a part of a job, always the same: a UUID of version 8 (RFC 9562) that
    begins with the time in the job's own id, so that records of a time lie together."""
    digest = hashlib.sha256(f"{job}\0{part}".encode()).digest()
    try:
        head = bytes.fromhex(job.rpartition("-")[2])[:6]
    except ValueError:
        head = b""
    made = bytearray((head if len(head) == 6 else digest[10:16]) + digest[:10])
    made[6] = made[6] & 0x0F | 0x80
    made[8] = made[8] & 0x3F | 0x80
    return bytes(made)


class JobJournal:
    """Writes records of jobs: a segment of its own each time, which the ledger can finish."""

    def __init__(self, folder: Path, host: str, clock_ms: Callable[[], int]) -> None:
        self._folder = folder
        self._host = host
        self._clock_ms = clock_ms

    def write(self, record: UsageRecord) -> None:
        """When this returns the record is on disk. Raises OSError; it may be repeated."""
        with closing(self._writer()) as writer:
            writer.append(record)

    def _writer(self) -> JournalWriter:
        """A writer under an epoch that nobody has used: two jobs may end in one millisecond."""
        while True:
            try:
                return JournalWriter(self._folder, self._host, SLOT, self._clock_ms())
            except FileExistsError:
                time.sleep(0.001)
