"""Archives of folders: unpacked with a bound, nothing outside the target, no links.

Runs inside a sandbox, where a bomb costs what the limits allow. Standard library only.
"""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO

from meuse.core.errors import Code, MeuseError

MAX_BYTES = 8 << 30
MAX_FILES = 20_000
MAX_RATIO = 200
_PIECE = 1 << 20


def folder_of(source: Path, target: Path) -> Path:
    """The folder itself, or what a zip or tar of one holds, unpacked into `target`.

    An archive with one folder and nothing else stands for that folder.
    """
    if source.is_dir():
        return source
    target.mkdir()
    limit = min(MAX_BYTES, (64 << 20) + MAX_RATIO * source.stat().st_size)
    if zipfile.is_zipfile(source):
        _unzip(source, target, limit)
    elif tarfile.is_tarfile(source):
        _untar(source, target, limit)
    else:
        raise refuse(
            "the file is neither a zip nor a tar", "Pack the folder: zip -r model.zip model/"
        )
    inner = list(target.iterdir())
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else target


def _unzip(source: Path, target: Path, limit: int) -> None:
    with zipfile.ZipFile(source) as archive:
        _check_count(len(archive.infolist()))
        left = limit
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            if (entry.external_attr >> 28) == 0xA:
                raise refuse(f"the archive holds a link: {entry.filename!r}")
            with archive.open(entry) as file:
                left = _write(file, _inside(target, entry.filename), left)


def _untar(source: Path, target: Path, limit: int) -> None:
    with tarfile.open(source) as archive:
        left, count = limit, 0
        for entry in archive:
            count += 1
            _check_count(count)
            if entry.isdir():
                continue
            if not entry.isfile():
                raise refuse(f"the archive holds a link or a device: {entry.name!r}")
            file = archive.extractfile(entry)
            assert file is not None
            left = _write(file, _inside(target, entry.name), left)


def _write(file: IO[bytes], path: Path, left: int) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as copy:
        while piece := file.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise refuse("the archive unpacks to far more than its size: a zip bomb")
            copy.write(piece)
    return left


def _inside(target: Path, name: str) -> Path:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise refuse(f"the archive names a file outside of itself: {name!r}")
    return target.joinpath(*parts.parts)


def _check_count(count: int) -> None:
    if count > MAX_FILES:
        raise refuse(f"the archive holds more than {MAX_FILES} files")


def refuse(message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, message, field="model", hint=hint)
