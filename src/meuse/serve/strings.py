"""BYTES tensors: arrays of `bytes` objects ↔ Triton's serialisation. Knows no protocol.

    per element, row-major:   u32 length, little-endian | that many bytes

An array of objects says nothing about its bytes by `nbytes`, `tobytes` or its buffer: whoever
counts, hashes, compares or writes a tensor that may be one of these asks `frames.size_of` and
`frames.payload`. Elements that are equal may be one object; nobody changes them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError

OBJECT = np.dtype("O")
_LENGTH = struct.Struct("<I")


def size(array: NDArray[Any]) -> int:
    """Serialised size in bytes. Raises TypeError when an element has no length."""
    return 4 * array.size + sum(map(len, array.flat))


def pack(array: NDArray[Any]) -> bytes:
    """Serialise. Raises TypeError when an element is not `bytes`."""
    out, length = bytearray(), _LENGTH.pack
    for item in array.flat:
        if type(item) is not bytes:
            raise TypeError(f"an element is {type(item).__name__}, not bytes")
        out += length(len(item))
        out += item
    return bytes(out)


def unpack(data: bytes, start: int, end: int, count: int) -> tuple[NDArray[Any], int]:
    """The first `count` elements of `data[start:end]`, flat, and where they end.

    Raises ValueError for what is cut short, before anything is allocated for elements that
    cannot be there.
    """
    if 4 * count > end - start:
        raise ValueError(f"{count} elements need at least {4 * count} bytes, got {end - start}")
    array = np.empty(count, OBJECT)
    length, at = _LENGTH.unpack_from, start
    for i in range(count):
        if at + 4 > end:
            raise ValueError(f"element {i} is cut short")
        begin = at + 4
        at = begin + length(data, at)[0]
        if at > end:
            raise ValueError(f"element {i} is cut short")
        array[i] = data[begin:at]
    return array, at


def array_of(items: Iterable[bytes | str], shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of objects; numpy itself would look into nested ones."""
    flat = list(items)
    array = np.empty(len(flat), OBJECT)
    array[:] = flat
    return array.reshape(shape)


def encoded(array: NDArray[Any]) -> NDArray[Any]:
    """Text to UTF-8. Raises UnicodeEncodeError for lone surrogates."""
    return array_of([item.encode() for item in array.flat], array.shape)


def decoded(array: NDArray[Any]) -> NDArray[Any]:
    """UTF-8 to text. Raises UnicodeDecodeError."""
    return array_of([item.decode() for item in array.flat], array.shape)


def text(name: str, value: NDArray[Any]) -> NDArray[Any]:
    """An engine's input as text: given bytes, ONNX Runtime would take their `repr`.

    Raises `invalid_input` for bytes that are not UTF-8; other tensors pass unchanged.
    """
    if value.dtype is not OBJECT:
        return value
    try:
        return decoded(value)
    except UnicodeDecodeError as error:
        raise MeuseError(
            Code.INVALID_INPUT,
            f"an element of {name!r} is not UTF-8 text: {error.reason}",
            field="inputs",
            hint="The model takes text; encode it as UTF-8.",
        ) from None
