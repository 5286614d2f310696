"""The parts of an upload in a folder: whole or not there, each by number and digest.

A part is the file `<number>-<sha256>`, renamed into place when all of it is on the disk.
Standard library only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meuse.core.errors import Code, MeuseError, invalid

_PIECE = 4 << 20


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    bytes: int
    sha256: str


def part_count(total: int, part_bytes: int) -> int:
    """Parts are numbered from 1."""
    return -(-total // part_bytes)


def size_of(total: int, part_bytes: int, number: int) -> int:
    """The bytes of a part: all have `part_bytes` but the last. Raises `invalid_field`."""
    count = part_count(total, part_bytes)
    if not 1 <= number <= count:
        raise invalid(
            "part",
            f"there is no part {number}: {total:,} bytes are {count} parts of {part_bytes:,}",
            f"Number them from 1 to {count}.",
        )
    return min(part_bytes, total - (number - 1) * part_bytes)


def there(folder: Path) -> list[Part]:
    """The parts that have arrived, in order."""
    found = {}
    for path in sorted(folder.glob("[0-9]*-*")):
        number, _, digest = path.name.partition("-")
        found[int(number)] = Part(int(number), path.stat().st_size, digest)
    return list(found.values())


def add(folder: Path, number: int, file: Path, sha256: str) -> None:
    """Move a file, which is on the disk, into its place; it replaces another of this number."""
    name = f"{number:06}-{sha256}"
    file.replace(folder / name)
    for other in folder.glob(f"{number:06}-*"):
        if other.name != name:
            other.unlink(missing_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_all(folder: Path, total: int, part_bytes: int) -> None:
    """Raise `conflict` with the numbers of parts that have not arrived."""
    have = {part.number for part in there(folder)}
    missing = [n for n in range(1, part_count(total, part_bytes) + 1) if n not in have]
    if missing:
        told = ", ".join(map(str, missing[:20])) + (", …" if len(missing) > 20 else "")
        raise MeuseError(
            Code.CONFLICT,
            f"{len(missing)} parts have not arrived: {told}",
            field="parts",
            hint="PUT them, then complete the upload again.",
        )


def assemble(
    folder: Path,
    out: Path,
    sha256: str = "",
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write all parts to `out`; `progress` gets bytes. Raises `invalid_data` when a part, or
    the whole, is not what its digest says."""
    whole = hashlib.sha256()
    done = 0
    with out.open("wb") as file:
        for part in there(folder):
            digest = hashlib.sha256()
            with (folder / f"{part.number:06}-{part.sha256}").open("rb") as source:
                while piece := source.read(_PIECE):
                    digest.update(piece)
                    whole.update(piece)
                    file.write(piece)
                    done += len(piece)
                    progress(done)
            if digest.hexdigest() != part.sha256:
                raise _damaged(f"part {part.number} is not what arrived", "Upload it again.")
    if sha256 and whole.hexdigest() != sha256:
        raise _damaged(
            f"the file's SHA-256 is {whole.hexdigest()}, announced was {sha256}",
            "A part differs from the file, or the file changed meanwhile: upload it again.",
        )


def _damaged(message: str, hint: str) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, message, field="sha256", hint=hint)
