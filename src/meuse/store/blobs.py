"""Blobs in a folder: `<root>/<tenant>/<sha256>` beside `<sha256>.manifest`.

The manifest holds the SHA-256 of every 4 MiB chunk, so that damage is found where it is
and a large file is verified while it streams. A blob is written to a temporary name,
synced and renamed: it is there whole or not at all. Knows no database.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.ids import check_name

CHUNK = 4 * 1024 * 1024


class FolderBlobs:
    """Adapter of `core.ports.Blobs` on one file system."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, tenant: str, source: BinaryIO) -> tuple[str, int]:
        folder = self._folder(tenant)
        folder.mkdir(parents=True, exist_ok=True)
        whole, chunks, size = hashlib.sha256(), [], 0
        handle, name = tempfile.mkstemp(prefix=".new-", dir=folder)
        fresh = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                while chunk := source.read(CHUNK):
                    whole.update(chunk)
                    chunks.append(hashlib.sha256(chunk).hexdigest())
                    size += len(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            digest = whole.hexdigest()
            self._write_manifest(folder / f"{digest}.manifest", size, chunks)
            fresh.replace(folder / digest)  # last: a blob that is there has its manifest
        finally:
            fresh.unlink(missing_ok=True)
        _sync_folder(folder)
        return digest, size

    def read(self, tenant: str, digest: str) -> bytes:
        return b"".join(self._chunks(tenant, digest))

    def copy_to(self, tenant: str, digest: str, target: Path) -> None:
        with target.open("wb") as file:
            for chunk in self._chunks(tenant, digest):
                file.write(chunk)

    def exists(self, tenant: str, digest: str) -> bool:
        """Whether a blob was put, whole. Its bytes are verified when it is read."""
        path = self._folder(tenant) / digest
        return path.is_file() and path.with_name(f"{digest}.manifest").is_file()

    def delete(self, tenant: str, digest: str, before_ms: int) -> bool:
        if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
            return True
        path = self._folder(tenant) / digest
        try:
            if path.stat().st_mtime_ns // 1_000_000 >= before_ms:
                return False  # put again meanwhile: somebody may be about to refer to it
        except FileNotFoundError:
            return True
        path.unlink(missing_ok=True)
        path.with_name(f"{digest}.manifest").unlink(missing_ok=True)
        return True

    def _folder(self, tenant: str) -> Path:
        return self._root / check_name(tenant, "tenant")

    def _chunks(self, tenant: str, digest: str) -> Iterator[bytes]:
        if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
            raise not_found("blob", digest)
        path = self._folder(tenant) / digest
        try:
            expected = json.loads(path.with_name(f"{digest}.manifest").read_text())["chunks"]
            file = path.open("rb")
        except FileNotFoundError:
            raise not_found("blob", digest) from None
        with file:
            for number, wanted in enumerate(expected):
                chunk = file.read(CHUNK)
                if hashlib.sha256(chunk).hexdigest() != wanted:
                    raise MeuseError(
                        Code.INTERNAL,
                        f"blob {digest} is damaged in chunk {number}",
                        hint="Restore it from a backup; it will not be used.",
                    )
                yield chunk
            if file.read(1):
                raise MeuseError(Code.INTERNAL, f"blob {digest} is longer than its manifest")

    def _write_manifest(self, path: Path, size: int, chunks: list[str]) -> None:
        handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        fresh = Path(name)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump({"bytes": size, "chunk_bytes": CHUNK, "chunks": chunks}, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
