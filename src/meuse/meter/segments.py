"""Reading the journal: frames, the order of segments, whole records, who still writes.

Knows the format of segments and no database. A frame is `u32 length word | u32 CRC-32 of the
payload | payload`, little-endian. The low half of the length word is the length, the high
half its complement: a damaged length cannot pass for a torn last record, which would drop
everything behind it.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import zlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from meuse.meter.record import RecordError, UsageRecord, decode

MAX_PAYLOAD = 0xFFFF
"""Largest payload in bytes; a record has about 200."""

_HEADER = struct.Struct("<II")
_NAME = re.compile(r"([A-Za-z0-9_][A-Za-z0-9._-]*)-(\d{1,19})-(\d{1,19})-(\d{1,19})")


class State(StrEnum):
    """Why a read stopped."""

    MORE = "more"  # max_bytes are read, the file goes on
    END = "end"  # the file ends after a whole record
    TAIL = "tail"  # the last record is incomplete: being written, or torn by a crash
    CORRUPT = "corrupt"  # what follows next_offset was never written like this


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole records with their bytes; the next read starts at `next_offset`."""

    records: list[tuple[UsageRecord, bytes]]
    next_offset: int
    state: State


def frame(payload: bytes) -> bytes:
    """The bytes of one record in a segment. Raises `RecordError` above `MAX_PAYLOAD`."""
    length = len(payload)
    if length > MAX_PAYLOAD:
        raise RecordError(f"a record of {length} bytes is longer than {MAX_PAYLOAD}")
    return _HEADER.pack(length | (length ^ 0xFFFF) << 16, zlib.crc32(payload)) + payload


def segment_name(host: str, slot: int, epoch: int, n: int) -> str:
    """`<host>-<slot>-<epoch>-<n>`. Raises ValueError for a host that no file may be called."""
    name = f"{host}-{slot}-{epoch}-{n}"
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a segment name")
    return name


def list_segments(folder: Path) -> list[Path]:
    """All segments by host, slot, epoch and number; other files are passed over."""
    found = []
    for path in folder.iterdir() if folder.exists() else ():
        if match := _NAME.fullmatch(path.name):
            host, *numbers = match.groups()
            found.append((host, [int(number) for number in numbers], path))
    return [path for _, _, path in sorted(found)]


def read(path: Path, offset: int, max_bytes: int = 1 << 20, *, closed: bool = False) -> Batch:
    """The whole records from `offset` on, in at most `max_bytes` (at least one frame).

    `closed` says that the writer is gone (`is_released`, asked before): a bad last record is
    then corrupt, where in a live segment it may still be under way. Raises OSError.
    """
    wanted = max(max_bytes, _HEADER.size + MAX_PAYLOAD)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(fd, wanted, offset)
    finally:
        os.close(fd)
    records: list[tuple[UsageRecord, bytes]] = []
    position, size = 0, len(data)
    while (start := position + _HEADER.size) <= size:
        word, checksum = _HEADER.unpack_from(data, position)
        length = word & 0xFFFF
        end = start + length
        if word >> 16 != length ^ 0xFFFF or end > size:
            break
        payload = data[start:end]
        if zlib.crc32(payload) != checksum:
            break
        try:
            record = decode(payload)
        except RecordError:
            break
        records.append((record, payload))
        position = end
    state = _why(data, position, at_end=size < wanted, closed=closed)
    return Batch(records, offset + position, state)


def _why(data: bytes, position: int, *, at_end: bool, closed: bool) -> State:
    """Why no record can be taken at `position`."""
    cut = State.TAIL if at_end else State.MORE
    start = position + _HEADER.size
    if position == len(data):
        return State.END if at_end else State.MORE
    if start > len(data):
        return cut
    word, _ = _HEADER.unpack_from(data, position)
    length = word & 0xFFFF
    sound = word >> 16 == length ^ 0xFFFF
    end = start + length if sound else start
    if end > len(data):
        return cut
    last = at_end and end == len(data) and not closed
    return State.TAIL if last else State.CORRUPT


def is_released(path: Path) -> bool:
    """Whether no writer holds the segment: it has gone on to the next one, or is dead."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


class JournalReader:
    """One journal folder by segment name: what the ledger is given to walk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def segments(self) -> list[str]:
        """Names of all segments, in the order of writing per writer."""
        return [path.name for path in list_segments(self._folder)]

    def size(self, segment: str) -> int:
        """Bytes at this moment. Raises OSError."""
        return (self._folder / segment).stat().st_size

    def is_released(self, segment: str) -> bool:
        return is_released(self._folder / segment)

    def read(self, segment: str, offset: int, max_bytes: int, *, closed: bool) -> Batch:
        return read(self._folder / segment, offset, max_bytes, closed=closed)

    def remove(self, segment: str) -> None:
        """Delete a segment whose records are all committed elsewhere."""
        (self._folder / segment).unlink(missing_ok=True)
