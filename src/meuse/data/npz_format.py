"""Tables as NPZ: a zip of plain numpy arrays that share their first dimension.

Knows zipfile and numpy. A file is judged by its directory and by every array's header
before any array is loaded: no pickle, no bomb, no header that promises more than it holds.
"""

from __future__ import annotations

import lzma
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from meuse.data import judge
from meuse.data.canonical import Batch, Field, Reading
from meuse.data.faults import MAX_LOADED_BYTES, bad_data, check_names, check_size
from meuse.data.options import ReadOptions

_HINT = "Write it with numpy.savez(path, x=features, y=labels)."
_ROWS = 16_384
_BATCH_BYTES = 8 << 20
_INT64_MAX = 2**63 - 1
# What zipfile, the decompressors and numpy's header parser raise on damaged files.
_BROKEN = (
    OSError, EOFError, ValueError, SyntaxError, OverflowError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError,
)  # fmt: skip


def load(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The table's columns by name, each [rows]: integers, floats or text (`U`).

    A 1-D array is one column under its key. One of uint8 with 3 or 4 dimensions is a column of
    images, [rows, height, width, channels] (1 or 3; channels may come first, a fourth is
    dropped). Any other N-D array becomes `key_0`, `key_1`, ….
    Raises `invalid_data`, `too_large`.
    """
    _check_archive(path, max_bytes)
    try:
        with warnings.catch_warnings(), np.load(path, allow_pickle=False) as archive:
            warnings.simplefilter("ignore")  # headers as Python 2 wrote them
            arrays = {key: archive[key] for key in archive.files}
    except _BROKEN as error:
        raise bad_data(f"the archive cannot be read: {error}", hint=_HINT) from None
    lengths = {key: array.shape[0] for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} {length}" for key, length in lengths.items())
        first = next(iter(lengths.values()))
        odd = next(key for key, length in lengths.items() if length != first)
        raise bad_data(
            f"the arrays differ in their first dimension: {told}",
            field=f"columns.{odd}",
            hint="Give every array one entry per row.",
        )
    columns = [pair for key, array in arrays.items() for pair in _columns(key, array)]
    check_names([name for name, _ in columns], "arrays")
    return dict(columns)


def readings(path: Path, options: ReadOptions) -> Iterator[Reading]:
    """The one way to read the file. Raises `invalid_data`, `too_large`."""
    table = load(path, min(options.max_bytes, MAX_LOADED_BYTES))
    options.check_columns(list(table))
    for name, kind in options.kinds.items():
        if (kind == "image") != (table[name].ndim > 1):
            raise bad_data(
                f"{name!r} is not an array of images"
                if kind == "image"
                else f"{name!r} is an array of images",
                field=f"kinds.{name}",
                hint="Images are uint8 [rows, height, width] or [rows, height, width, channels].",
            )
    fields = tuple(_field(name, values, options.kinds.get(name)) for name, values in table.items())
    rows = len(next(iter(table.values())))
    size = max(1, min(_ROWS, _BATCH_BYTES // max(1, _row_bytes(table))))

    def batches() -> Iterator[Batch]:
        for start in range(0, rows, size):
            yield [_array(f, table[f.name][start : start + size], start, options) for f in fields]

    yield Reading(fields, batches())


def _row_bytes(table: dict[str, NDArray[Any]]) -> int:
    return sum(values[:1].nbytes for values in table.values())


def _field(name: str, values: NDArray[Any], kind: str | None) -> Field:
    if values.ndim == 4:
        height, width, channels = values.shape[1:]
        return Field(name, "image", (height, width, channels))
    kinds = {"U": "string", "f": "float"}
    if values.dtype == np.uint64 and values.max() > _INT64_MAX:
        return Field(name, kind or "float")
    return Field(name, kind or kinds.get(values.dtype.kind, "integer"))


def _array(field: Field, values: NDArray[Any], start: int, options: ReadOptions) -> pa.Array[Any]:
    if field.pixels is not None:
        pixels = np.ascontiguousarray(values)
        return pa.FixedSizeBinaryArray.from_buffers(
            field.type, len(values), [None, pa.py_buffer(pixels)]
        )
    if values.dtype.kind == "f" and field.kind == "float":
        wide = values.astype(np.float64)
        return pa.array(wide, mask=np.isnan(wide))
    if values.dtype.kind in "iu" and field.kind != "string":
        return pa.array(values.astype(np.int64 if field.kind == "integer" else np.float64))

    def place(rows: list[int]) -> list[str]:
        return [f"row {row + 1}" for row in rows]

    texts = pa.array([str(value) for value in values.tolist()], pa.string())
    return judge.convert(
        texts, field.kind, options.missing, judge.stray(field.name, field.kind, place, start)
    )


def _columns(key: str, array: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.ndim == 1:
        return [(key, array)]
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        pixels = array[..., None] if array.ndim == 3 else array
        for channels in ((1, 3), (4,)):
            if pixels.shape[3] in channels:
                return [(key, pixels[..., :3])]
            if pixels.shape[1] in channels:  # they came first
                return [(key, pixels.transpose(0, 2, 3, 1)[..., :3])]
    flat = array.reshape(len(array), -1)
    return [(f"{key}_{index}", flat[:, index]) for index in range(flat.shape[1])]


def _check_archive(path: Path, max_bytes: int) -> None:
    """Judge directory and headers; nothing is unpacked beyond a few hundred bytes each."""
    if path.stat().st_size == 0:
        raise bad_data("the file is empty", hint=_HINT)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            check_size(sum(entry.file_size for entry in entries), max_bytes)
            if not entries:
                raise bad_data("the archive holds no array", hint=_HINT)
            keys = [entry.filename.removesuffix(".npy") for entry in entries]
            check_names(keys, "arrays")
            for key, entry in zip(keys, entries, strict=True):
                _check_entry(archive, key, entry)
    except zipfile.BadZipFile as error:
        raise bad_data(f"this is not a zip archive: {error}", hint=_HINT) from None
    except _BROKEN as error:
        raise bad_data(f"the archive cannot be read: {error}", hint=_HINT) from None


def _check_entry(archive: zipfile.ZipFile, key: str, entry: zipfile.ZipInfo) -> None:
    field = f"columns.{key}"
    with archive.open(entry) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers as Python 2 wrote them
        try:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        except (ValueError, SyntaxError, tokenize.TokenError) as error:
            raise bad_data(
                f"{entry.filename!r} is not a numpy array: {error}", field=field, hint=_HINT
            ) from None
        header = stream.tell()
    _check_dtype(field, dtype)
    count = 1
    for length in shape:
        count *= length
    if header + count * dtype.itemsize != entry.file_size:
        raise bad_data(
            f"the array's header promises {count:,} values, which is not what follows",
            field=field,
            hint=_HINT,
        )
    if not shape or count == 0:
        raise bad_data(
            f"the array has shape {tuple(shape)}: it holds no row",
            field=field,
            hint="The first dimension counts the rows.",
        )


def _check_dtype(field: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise bad_data(
            "the array holds Python objects (pickle), which are never loaded",
            field=field,
            hint="Convert it: numbers with astype('float32'), text with astype(str).",
        )
    plain = dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8)
    if not (plain or (dtype.kind == "U" and dtype.itemsize > 0)):
        raise bad_data(
            f"arrays of type {dtype} are not supported",
            field=field,
            hint="Use integers, float16 to float64, booleans or text (astype(str)).",
        )
