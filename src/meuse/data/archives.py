"""Archives of files (zip, tar, tar.gz): what is in them, safely.

Knows zipfile and tarfile. Nothing is ever unpacked to a path; names are only labels. Refused by
name: paths that leave the archive, links and devices, encrypted members, and more bytes
than are allowed, in all, for one member, or for what the archive itself weighs (a bomb).
"""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from meuse.data.faults import bad_data, check_size

MAX_MEMBERS = 2_000_000
MAX_MEMBER = 64 << 20
MAX_RATIO = 200
"""Most that an archive may grow; text shrinks ten times, images hardly at all."""
_RATIO_FROM = 16 << 20
_HINT = "Write it with `zip -r data.zip folder` or `tar czf data.tar.gz folder`."
_IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_NESTED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
# What the modules and their decompressors raise on damaged files.
_BROKEN = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError,
           MemoryError, IndexError, KeyError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
           tarfile.TarError, struct.error, UnicodeError)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """A file: its path in the archive and its uncompressed size in bytes."""

    name: str
    size: int

    @property
    def parts(self) -> tuple[str, ...]:
        return PurePosixPath(self.name).parts

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix.lower()


@dataclass(frozen=True, slots=True)
class Archive:
    """A judged archive: the files worth looking at, in its own order, and those passed over."""

    path: Path
    members: tuple[Member, ...]
    ignored: int

    def read(self, names: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        """(name, content) of these files, in the archive's order, one at a time."""
        reader = _zip_contents if zipfile.is_zipfile(self.path) else _tar_contents
        try:
            yield from reader(self.path, names)
        except _BROKEN as error:
            raise _damaged(error) from None


def open_archive(path: Path, max_bytes: int) -> Archive:
    """Judge the archive. Raises `invalid_data` with the member at fault, `too_large`."""
    if path.stat().st_size == 0:
        raise bad_data("the file is empty", hint=_HINT)
    listed = _zip_members if zipfile.is_zipfile(path) else _tar_members
    bound = min(max_bytes, max(_RATIO_FROM, MAX_RATIO * path.stat().st_size))
    kept: list[Member] = []
    ignored = total = count = 0
    seen: set[str] = set()
    try:
        for member in listed(path):
            count += 1
            total += member.size
            _check_bounds(path, count, total, bound, max_bytes)
            name = _checked(member.name)
            if _is_ignored(name):
                ignored += 1
                continue
            if member.size > MAX_MEMBER:
                raise _refuse(name, f"has {member.size:,} bytes; the limit is {MAX_MEMBER:,}")
            if name in seen:
                raise _refuse(name, "stands in the archive twice")
            seen.add(name)
            kept.append(Member(name, member.size))
    except _BROKEN as error:
        raise _damaged(error) from None
    return Archive(path, tuple(kept), ignored)


def _check_bounds(path: Path, count: int, total: int, bound: int, max_bytes: int) -> None:
    if count > MAX_MEMBERS:
        raise bad_data(
            f"the archive holds more than {MAX_MEMBERS:,} files", hint="Split it into several."
        )
    check_size(total, max_bytes)
    if total > bound:
        raise bad_data(
            f"the archive of {path.stat().st_size:,} bytes unpacks to more than {bound:,}: "
            f"over {MAX_RATIO} times its size",
            hint="That is no data but a bomb; if it is data, send it less compressed.",
        )


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 0x1:
                raise _refuse(info.filename, "is encrypted", "Send the archive without a password.")
            mode = info.external_attr >> 16
            if mode and (mode & 0o170000) not in (0, 0o100000, 0o040000):
                raise _refuse(info.filename, "is a link or a device", "Archive plain files only.")
            if info.is_dir():
                _checked(info.filename)
            else:
                yield Member(info.filename, info.file_size)


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r:*") as archive:
        for info in archive:
            if info.isdir():
                _checked(info.name)
            elif not info.isreg():
                raise _refuse(info.name, "is a link or a device", "Archive plain files only.")
            else:
                yield Member(info.name, info.size)
            archive.members = []  # type: ignore[attr-defined]  # it would keep every header


def _zip_contents(path: Path, names: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _normal(info.filename)
            if name in names and not info.is_dir():
                with archive.open(info) as stream:
                    yield name, _whole(name, stream.read(info.file_size + 1), info.file_size)


def _tar_contents(path: Path, names: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:*") as archive:
        for info in archive:
            name = _normal(info.name)
            if name in names and info.isreg():
                stream = archive.extractfile(info)
                assert stream is not None
                yield name, _whole(name, stream.read(), info.size)
            archive.members = []  # type: ignore[attr-defined]


def _whole(name: str, data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise _refuse(name, "is not of the size that the archive says")
    return data


def _checked(name: str) -> str:
    """The path, without `./`. Raises `invalid_data` when it leaves the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(name) > 1 and name[1] == ":"
    if path.is_absolute() or drive or ".." in path.parts or "\0" in name:
        raise _refuse(name, "leads out of the archive", "Use paths below one folder, without ..")
    return _normal(name)


def _normal(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/")))


def _is_ignored(name: str) -> bool:
    parts = [part.lower() for part in PurePosixPath(name).parts]
    hidden = any(part.startswith(".") or part in _IGNORED for part in parts)
    return hidden or name.lower().endswith(_NESTED)


def _refuse(name: str, what: str, hint: str | None = None) -> Exception:
    told = name if len(name) <= 200 else name[:197] + "…"
    return bad_data(f"{told!r} {what}", field="files." + told, hint=hint or _HINT)


def _damaged(error: Exception) -> Exception:
    told = str(error)[:200] or type(error).__name__
    return bad_data(f"the archive cannot be read: {told}", hint=_HINT)
