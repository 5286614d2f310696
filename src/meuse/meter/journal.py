"""Writing the journal: append-only segments, one writer each.

Knows files and no database. Durability is the mode "group": a record is written before the
answer's last byte and fsynced by `sync`, which the worker calls every 50 ms from another
thread. So it survives kill -9 of the worker; a power loss may cost the last 50 ms.

The writer holds a flock on its segment; only the holder truncates. A restarted worker opens
a new epoch, never an old file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

from meuse.meter.record import UsageRecord, encode
from meuse.meter.segments import frame, segment_name

SEGMENT_BYTES = 8 * 1024 * 1024


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
            if self._size >= self._limit:
                self._rotate()
            try:
                written = os.write(self._fd, data)
            except OSError:
                self._take_back()
                raise
            if written != len(data):
                self._take_back()
                raise OSError(errno.ENOSPC, "only a part of a usage record could be written")
            self._size += written
            self.written += written
            self._dirty = True

    def sync(self) -> None:
        """Bring everything appended before this call onto the disk. Appends go on meanwhile.

        Raises OSError; what failed is tried again by the next call.
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
                self._dirty, self._new_name = self._dirty or dirty, self._new_name or new_name
                self._retired = retired + self._retired
            raise

    def _rotate(self) -> None:
        # The old file is fsynced and closed by the next sync: an fsync here would hold up the
        # event loop for milliseconds, and this mode promises the disk within 50 ms only.
        fresh = self._create(self._n + 1)
        self._retired.append(self._fd)
        self._fd, self._n, self._size = fresh, self._n + 1, 0
        self._dirty = self._new_name = True

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
        hidden = self._folder / f".{name}.new"
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
