"""What the tests of data share: files to upload, and what ingesting them gives."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from meuse.core.errors import Code, MeuseError
from meuse.data.canonical import open_table
from meuse.data.ingest import Ingested, ingest
from meuse.data.options import ReadOptions


def taken(folder: Path, content: bytes | str, format: str, **options: Any) -> Ingested:
    """Ingest these bytes into `folder / "table"`."""
    path = folder / f"upload.{format}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    bound = {"max_bytes": options.pop("max_bytes")} if "max_bytes" in options else {}
    return ingest(path, format, folder / "table", ReadOptions.from_dict(options, **bound))


def rows(folder: Path) -> pa.Table:
    """The canonical table in `folder`, whole."""
    return open_table(folder / "table").file.read()


def refused(folder: Path, content: bytes | str, format: str, **options: Any) -> MeuseError:
    """The refusal; nothing is left of the table."""
    (folder / "table").unlink(missing_ok=True)
    with pytest.raises(MeuseError) as caught:
        taken(folder, content, format, **options)
    assert caught.value.hint
    assert not (folder / "table").exists()
    assert [p.name for p in folder.iterdir() if p.name.startswith("ingest-")] == []
    return caught.value


def bad(error: MeuseError, field: str, *words: str) -> None:
    """`invalid_data` at this field, with these words."""
    assert (error.code, error.field) == (Code.INVALID_DATA, field), error
    for word in words:
        assert word in error.message, error.message


ACCEPTABLE = (None, Code.INVALID_DATA, Code.TOO_LARGE)


def outcome(folder: Path, content: bytes, format: str) -> Code | None:
    """The code of a refusal, None for a table; anything else fails the test."""
    try:
        taken(folder, content, format)
    except MeuseError as error:
        return error.code
    return None


def picture(
    size: tuple[int, int] = (8, 6), mode: str = "RGB", format: str = "PNG", seed: int = 0
) -> bytes:
    """An encoded image of noise; `size` is (width, height)."""
    shape = (size[1], size[0]) + (() if mode == "L" else (len(mode),))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
