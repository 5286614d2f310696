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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.nouns import Column
from meuse.data.faults import bad_data, check_names, check_size

_HINT = "Write it with numpy.savez(path, x=features, y=labels)."
# What zipfile, the decompressors and numpy's header parser raise on damaged files.
_BROKEN = (
    OSError, EOFError, ValueError, SyntaxError, OverflowError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError,
)  # fmt: skip


def load(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The table's columns by name, each [rows]: integers, floats or text (`U`).

    A 1-D array is one column under its key, an N-D array becomes `key_0`, `key_1`, ….
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


def inspect(path: Path, max_bytes: int) -> tuple[int, tuple[Column, ...]]:
    """Rows and columns of an NPZ file. Raises `invalid_data`, `too_large`."""
    table = load(path, max_bytes)
    rows = len(next(iter(table.values())))
    return rows, tuple(_describe(name, values) for name, values in table.items())


def _describe(name: str, values: NDArray[Any]) -> Column:
    if values.dtype.kind == "U":
        return Column(name, "string", int((values == "").sum()))
    if values.dtype.kind == "f":
        return Column(name, "float", int(np.isnan(values).sum()))
    return Column(name, "integer", 0)


def _columns(key: str, array: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.ndim == 1:
        return [(key, array)]
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
