"""Writing the journal: append-only segments, one writer each.

Knows files and no database. A record is written when `append` returns, so it survives kill -9
of the process; `sync` brings it to the disk, so that it survives a power loss. What a worker
promises is when it calls `sync`: before the last byte of the answer (the mode "strict"), or every
50 ms from another thread ("group", the default: a power loss may cost the last 50 ms).

The writer holds a flock on its segment; only the holder truncates. A restarted worker opens
a new epoch, never an old file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from meuse.meter.record import UsageRecord, encode
from meuse.meter.segments import frame, segment_name

SEGMENT_BYTES = 8 * 1024 * 1024
_PROBE = bytes(64 * 1024)


@dataclass(frozen=True, slots=True)
class JournalState:
    """How a writer stands. `lag_s`: how long the oldest record that may not be on the disk yet
    has waited; `synced_s`: seconds since the last fsync (None: there was none yet);
    `is_refusing`: the disk refused the last record."""

    segment: str
    lag_s: float
    synced_s: float | None
    is_refusing: bool


class JournalWriter:
    """Appends usage records to `<host>-<slot>-<epoch>-<n>` in `folder`; safe for threads.

    `epoch` must never have been used by this host and slot before, even when its files are
    gone: the Unix milliseconds of the worker's start do. Raises FileExistsError otherwise,
    where the file is still there. A process that holds a writer must not fork without exec:
    the child would keep the lock.
    """

    def __init__(
        self,
        folder: Path,
        host: str,
        slot: int,
        epoch: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._folder, self._host, self._slot, self._epoch = folder, host, slot, epoch
        self._limit = segment_bytes
        self._lock = threading.Lock()  # the fields below; held for microseconds
        self._sync_lock = threading.Lock()  # one sync or close at a time; held while fsyncing
        self._n = 0
        self._size = 0
        self._dirty = False
        self._new_name = True  # the folder's entry of the segment is not on disk yet
        self._retired: list[int] = []  # full segments that still wait for their last fsync
        self._closed = False
        self.written = 0
        """Bytes that this writer has appended."""
        self.is_refusing = False
        """Whether the disk refused the last record; `probe` sees whether it still would."""
        self._dirty_since = 0.0
        self._synced_at: float | None = None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = self._create(0)

    @property
    def path(self) -> Path:
        """The segment that is written now."""
        return self._folder / segment_name(self._host, self._slot, self._epoch, self._n)

    def append(self, record: UsageRecord) -> None:
        """Write one record; when this returns, it survives the death of the process.

        Raises OSError when the disk refuses (nothing of the record stays behind, so that the
        segment ends on a whole record) and `RecordError` for a record that is not acceptable.
        """
        self.append_payload(encode(record))

    def append_payload(self, payload: bytes) -> None:
        """As `append`, for the bytes of a record that were checked (`record.Template`)."""
        data = frame(payload)
        with self._lock:
            if self._closed:
                raise ValueError("the journal is closed")
            try:
                if self._size >= self._limit:
                    self._rotate()
                self._write(data)
            except OSError:
                self.is_refusing = True
                raise
            self._size += len(data)
            self.written += len(data)
            if not self._dirty:
                self._dirty, self._dirty_since = True, time.monotonic()
            if self.is_refusing:
                self.is_refusing = False

    def probe(self) -> bool:
        """Whether the disk takes writes again, seen by a file beside the segments. Until it
        does, who must not work without a record need not begin."""
        path = self._folder / f".{self._host}-{self._slot}.probe"
        try:
            path.write_bytes(_PROBE)
        except OSError:
            return False
        finally:
            path.unlink(missing_ok=True)
        self.is_refusing = False
        return True

    def state(self) -> JournalState:
        """How it stands now."""
        with self._lock:
            now = time.monotonic()
            lag = now - self._dirty_since if self._dirty else 0.0
            synced = None if self._synced_at is None else now - self._synced_at
            return JournalState(self.path.name, lag, synced, self.is_refusing)

    def sync(self) -> None:
        """Bring everything appended before this call onto the disk. Appends go on meanwhile.

        Raises OSError: what was appended until then may be lost with the power, even if a later
        call succeeds, for a kernel tells of pages that it could not write only once. What is
        appended afterwards goes to a new segment.
        """
        with self._sync_lock:
            if not self._closed:
                self._sync()

    def close(self) -> None:
        """Sync, close and release the lock: the ledger may then finish the segment."""
        with self._sync_lock:
            with self._lock:
                if self._closed:
                    return
                self._closed = True
            try:
                self._sync()
            finally:
                for fd in (*self._retired, self._fd):
                    os.close(fd)
                self._retired = []

    def _sync(self) -> None:
        # Only sync and close close files, under _sync_lock: `fd` stays open during the fsync.
        with self._lock:
            fd, dirty, new_name = self._fd, self._dirty, self._new_name
            retired, self._retired = self._retired, []
            since = self._dirty_since
            self._dirty = self._new_name = False
        try:
            if new_name:
                _fsync_folder(self._folder)
            while retired:
                os.fdatasync(retired[0])
                os.close(retired.pop(0))
            if dirty:
                os.fdatasync(fd)
        except OSError:
            with self._lock:
                if dirty:
                    self._dirty, self._dirty_since = True, since
                self._new_name = self._new_name or new_name
                self._retired = retired + self._retired
                self._size = self._limit
            raise
        self._synced_at = time.monotonic()

    def _rotate(self) -> None:
        # The old file is fsynced and closed by the next sync: an fsync here would hold up the
        # event loop for milliseconds, and this mode promises the disk within 50 ms only.
        fresh = self._create(self._n + 1)
        self._retired.append(self._fd)
        self._fd, self._n, self._size = fresh, self._n + 1, 0
        if not self._dirty:
            self._dirty, self._dirty_since = True, time.monotonic()
        self._new_name = True

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._fd, data)
        except OSError:
            self._take_back()
            raise
        if written != len(data):
            self._take_back()
            raise OSError(errno.ENOSPC, "only a part of a usage record could be written")

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            # A record after a torn one would be corruption: leave this segment with its torn
            # tail, which readers pass over, and go on in the next.
            self._size = self._limit

    def _create(self, n: int) -> int:
        """Open segment `n`; it gets its name when it is locked already, and only if unused.

        With the name first, the ledger could take the moment before the lock for the death of
        the writer, and finish and delete the empty file.
        """
        name = segment_name(self._host, self._slot, self._epoch, n)
        # Two threads may want one name (two jobs' records of one millisecond): one of them gets it.
        hidden = self._folder / f".{name}.{threading.get_native_id()}.new"
        hidden.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(hidden, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (self._folder / name).hardlink_to(hidden)
        except BaseException:
            os.close(fd)
            raise
        finally:
            hidden.unlink(missing_ok=True)
        return fd


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
