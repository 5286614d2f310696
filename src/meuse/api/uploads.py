"""Uploaded files on their way to a child process that reads them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from meuse.core.errors import Code, MeuseError


@contextmanager
def arriving(folder: Path) -> Iterator[Path]:
    """A new file; at the end it is gone, unless somebody has moved it away."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix="upload-")
    os.close(handle)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


async def save(
    pieces: AsyncIterator[bytes], path: Path, limit: int, setting: str, hint: str | None = None
) -> None:
    """Write a body to `path`. Raises `too_large` beyond `limit`, which `setting` raises."""
    size = 0
    with path.open("wb") as file:
        async for piece in pieces:
            size += len(piece)
            if size > limit:
                raise MeuseError(
                    Code.TOO_LARGE,
                    f"the upload is larger than {limit} bytes",
                    field="body",
                    hint=hint or f"The operator can raise {setting}.",
                )
            file.write(piece)


def content_type(header: str | None) -> str:
    """The media type alone, in lower case; empty when there is none."""
    return (header or "").partition(";")[0].strip().lower()


def size_of(path: Path) -> int:
    return path.stat().st_size
