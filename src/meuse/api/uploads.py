"""Uploaded files on their way to a child process that reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from meuse.core.errors import Code, MeuseError


async def save(pieces: AsyncIterator[bytes], path: Path, limit: int, setting: str) -> None:
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
                    hint=f"The operator can raise {setting}.",
                )
            file.write(piece)


def content_type(header: str | None) -> str:
    """The media type alone, in lower case; empty when there is none."""
    return (header or "").partition(";")[0].strip().lower()
