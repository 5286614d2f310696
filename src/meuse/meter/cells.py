"""The file of limit cells that the gateway workers of one host share: header, table, entries.

Knows offsets, locks and processes; what a cell means is `limits`' business. Standard library
only. All numbers are native 64-bit integers at multiples of 8 bytes, so that one load or store
moves one whole; a place is an index of such words.

    header   magic, version, capacity, slots, then: entries ever made, slots in use, snapshot,
             when the file was made (Unix milliseconds)
    table    a digest of the limit's id per entry, 16 bytes; zero: the entry is free
    entry    generation, shared cell, then per slot: stamp, reserved, settled

A slot is a place for one process. A worker takes the lowest that no living process holds (a
byte-range lock, which the kernel frees on death), so two never share one, whatever starts and
ends when. Slot cells are written by the slot's process alone; everything else is written under
the lock of the file.

What survives what: the cells live in the page cache, so kill -9 of any or all processes and a
restart of the platform lose nothing. Power loss may lose what the kernel had not written yet
(commonly 30 s). Space is allocated before it is mapped, so a full disk never kills a worker.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import struct
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from meuse.core.errors import Code, MeuseError

logger = logging.getLogger(__name__)

CAPACITY = 4096
"""Limits of one host at the same time."""
SLOTS = 256
LOCK_S = 0.001
"""Longest wait for the lock: the loop of a worker stands still meanwhile."""

_MAGIC = int.from_bytes(b"meusecel", "little")
_VERSION = 1
_FIXED = (_MAGIC, _VERSION, CAPACITY, SLOTS)
_MADE, _USED_SLOTS, _SNAPSHOT = 4, 5, 6  # words of the header that change
_BORN = 7
_TABLE = 4096  # bytes
_DIGEST = 16
_ENTRIES = _TABLE + CAPACITY * _DIGEST  # bytes
_STRIDE = 2 + 3 * SLOTS  # words
_SIZE = _ENTRIES + CAPACITY * _STRIDE * 8
_FREE = bytes(_DIGEST)
_PAUSE_S = 0.00005


def digest(limit_id: str) -> bytes:
    return blake2b(limit_id.encode(), digest_size=_DIGEST).digest()


def entry_word(entry: int) -> int:
    """The place of an entry's generation; its shared cell is the next word."""
    return _ENTRIES // 8 + entry * _STRIDE


class BusyError(MeuseError):
    """The lock was not free within `LOCK_S`."""

    def __init__(self) -> None:
        super().__init__(
            Code.UNAVAILABLE, "the limits are busy", hint="Try again.", retry_after_s=1
        )


class Cells:
    """The mapped file, with a slot of this process. One per process at a time: POSIX locks are
    the process's, and go when it closes any descriptor of the file.

    Opening makes the file when there is none and replaces one that is damaged or of another
    version (logged as an error, kept beside as `.damaged`: what was counted is lost, see
    `limits.Limits.seed`). It
    releases what dead processes had reserved. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(path):
            self._fd = _open(path)
            self.map = mmap.mmap(self._fd, _SIZE)
            self.words = memoryview(self.map).cast("q")
            self.slot = self._take_slot()
        self.born_ms: int = self.words[_BORN]
        """What was counted before is not in it. 0: made by a version that did not note it."""
        self.reshape()

    def close(self) -> None:
        self.words.release()
        self.map.close()
        os.close(self._fd)

    # the lock of the file

    def lock(self) -> None:
        """Raises `BusyError` after `LOCK_S`. Freed by the kernel when the holder dies."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            self._wait()
        if self.words[_USED_SLOTS] != self.slots:
            self.reshape()

    def _wait(self) -> None:
        end = time.monotonic() + LOCK_S
        while time.monotonic() < end:
            time.sleep(_PAUSE_S)  # not a spin: the holder may need this core to go on
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            except OSError:
                continue
            return
        raise BusyError

    def unlock(self) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1)

    # entries, under the lock

    def find_or_make(self, key: bytes, known: Collection[bytes] | None) -> tuple[int, int]:
        """The word and the generation of the entry of a limit. Under the lock.

        A full table loses what is not `known` first (None: nothing). Raises `unavailable` when
        it is full all the same, or the disk is: a limit that cannot be counted must not be
        passed.
        """
        table = self.map[_TABLE:_ENTRIES]
        entry = _index(table, key)
        if entry is None:
            entry = _index(table, _FREE)
            if entry is None and known is not None:
                self._free({e for e, k in _entries(table) if k not in known})
                entry = _index(self.map[_TABLE:_ENTRIES], _FREE)
            if entry is None:
                raise MeuseError(
                    Code.UNAVAILABLE, "the limits of this host are too many", retry_after_s=1
                )
            self._make(entry, key)
        word = entry_word(entry)
        return word, self.words[word]

    def _make(self, entry: int, key: bytes) -> None:
        word = entry_word(entry)
        try:
            os.posix_fallocate(self._fd, word * 8, _STRIDE * 8)
        except OSError as error:
            logger.error("no room on the disk for the cells of a limit: %s", error)
            raise MeuseError(
                Code.UNAVAILABLE, "a limit cannot be counted", retry_after_s=1
            ) from error
        generation = self.words[_MADE] + 1
        self.words[_MADE] = generation
        # Slot cells need no clearing: their stamps are of older generations.
        self.words[word + 1] = 0
        self.words[word] = generation
        self.map[_TABLE + entry * _DIGEST : _TABLE + (entry + 1) * _DIGEST] = key

    def _free(self, entries: Collection[int]) -> None:
        for entry in entries:
            self.map[_TABLE + entry * _DIGEST : _TABLE + (entry + 1) * _DIGEST] = _FREE
            self.words[entry_word(entry)] = 0

    def keep_only(self, known: Collection[bytes], snapshot: int) -> None:
        """Free the entries of limits that are in no snapshot up to this one. Takes the lock.

        Left to a later call when the lock is busy or the table changes meanwhile, and not done
        when another worker has seen a newer snapshot.
        """
        table = self.map[_TABLE:_ENTRIES]
        gone = [entry for entry, key in _entries(table) if key not in known]
        try:
            self.lock()
        except BusyError:
            return
        try:
            if snapshot >= self.words[_SNAPSHOT] and self.map[_TABLE:_ENTRIES] == table:
                self.words[_SNAPSHOT] = snapshot
                self._free(gone)
        finally:
            self.unlock()

    # slots

    def reshape(self) -> None:
        """Follow the number of slots in use."""
        self.slots = self.words[_USED_SLOTS]
        self.row = struct.Struct(f"{2 + 3 * self.slots}q").unpack_from
        """(map, byte offset of an entry) → generation, shared cell, stamp, reserved, …

        In the order of addresses: a slot's `reserved` is loaded before its `settled`, so that
        a settlement that runs meanwhile is seen twice rather than not at all.
        """
        self.stamps = range(2, 2 + 3 * self.slots, 3)
        self.own = 2 + 3 * self.slot

    def _take_slot(self) -> int:
        mine = next((slot for slot in range(SLOTS) if self._hold(slot)), None)
        if mine is None:
            raise OSError(f"all {SLOTS} slots of the limits file are held")
        used = self.words[_USED_SLOTS]
        made = [entry for entry, _ in _entries(self.map[_TABLE:_ENTRIES])]
        for slot in range(used):
            if slot == mine or self._hold(slot):
                # Its process is dead: what it had in flight will never be settled.
                for entry in made:
                    self.words[entry_word(entry) + 2 + 3 * slot + 1] = 0
                if slot != mine:
                    fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, 1 + slot)
        if mine >= used:
            self.words[_USED_SLOTS] = mine + 1
        return mine

    def _hold(self, slot: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + slot)
        except OSError:
            return False
        return True


def read(path: Path) -> dict[bytes, tuple[int, ...]]:
    """Every entry's row by the digest of its limit: a look without a slot or the lock, for
    another process than a worker. Empty when there is no file, or none that can be read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as cells:
            if _fault(cells) is not None:
                return {}
            used = struct.unpack_from("q", cells, _USED_SLOTS * 8)[0]
            row = struct.Struct(f"{2 + 3 * used}q").unpack_from
            return {
                key: row(cells, entry_word(entry) * 8)
                for entry, key in _entries(cells[_TABLE:_ENTRIES])
            }
    except (FileNotFoundError, ValueError):  # ValueError: an empty file cannot be mapped
        return {}


def born_ms(path: Path) -> int:
    """When the file was made; 0 when there is none, or none that says so."""
    try:
        with path.open("rb") as file:
            head = file.read((_BORN + 1) * 8)
    except OSError:
        return 0
    whole = len(head) == (_BORN + 1) * 8 and struct.unpack_from("q", head)[0] == _MAGIC
    return int(struct.unpack_from("q", head, _BORN * 8)[0]) if whole else 0


def _entries(table: bytes) -> Iterator[tuple[int, bytes]]:
    """(entry, key) of those in use: the lowest are given first, so the end is mostly empty."""
    for entry in range(-(-len(table.rstrip(b"\0")) // _DIGEST)):
        key = table[entry * _DIGEST : (entry + 1) * _DIGEST]
        if key != _FREE:
            yield entry, key


def _index(table: bytes, key: bytes) -> int | None:
    at = table.find(key)
    while at >= 0 and at % _DIGEST:
        at = table.find(key, at + 1)
    return at // _DIGEST if at >= 0 else None


def _open(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return _create(path)
    fault: str | None = "its size is wrong"
    if os.fstat(fd).st_size == _SIZE:
        with mmap.mmap(fd, _SIZE, access=mmap.ACCESS_READ) as cells:
            fault = _fault(cells)
    if fault is None:
        return fd
    os.close(fd)
    beside = path.with_name(path.name + ".damaged")
    logger.error(
        "the limits file %s is replaced, %s: budgets are counted anew from the ledger; it is kept "
        "as %s",
        path, fault, beside,
    )  # fmt: skip
    path.replace(beside)
    return _create(path)


def _create(path: Path) -> int:
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, _SIZE)
        os.posix_fallocate(fd, 0, _ENTRIES)
        os.pwrite(fd, struct.pack(f"{len(_FIXED)}q", *_FIXED), 0)
        os.pwrite(fd, struct.pack("q", time.time_ns() // 1_000_000), _BORN * 8)
        os.fsync(fd)
        fresh.replace(path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _fault(cells: mmap.mmap) -> str | None:
    """What is wrong with a file, None when it can be trusted."""
    if len(cells) != _SIZE:
        return "its size is wrong"
    header = struct.unpack_from("7q", cells, 0)
    if header[:4] != _FIXED:
        return "it is of another version" if header[0] == _MAGIC else "it is damaged"
    _, used, snapshot = header[4:]
    keys = list(_entries(cells[_TABLE:_ENTRIES]))
    if not 0 <= used <= SLOTS or snapshot < 0 or len({key for _, key in keys}) != len(keys):
        return "its header or its table is damaged"
    row = struct.Struct(f"{2 + 3 * used}q").unpack_from
    rows = [row(cells, entry_word(entry) * 8) for entry, _ in keys]
    # Other workers may make and free entries meanwhile: a number is given out before it is used.
    made = struct.unpack_from("q", cells, _MADE * 8)[0]
    if any(min(values) < 0 or values[0] > made for values in rows):
        return "its entries are damaged"
    return None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process opens at a time. By a file of its own: the cells' locks are in use."""
    fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
