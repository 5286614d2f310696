"""Raw bytes → tensors, as the binary extension of REST and raw contents of gRPC carry them.

Numbers stay where they are: the arrays are read-only views. Knows no protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.serve import strings
from meuse.serve.frames import DATATYPES, DTYPES, MAX_RANK

JSON_NEVER = frozenset({"FP16"})
"""Datatypes that Open Inference knows in raw form only."""


def dtype_of(datatype: str, field: str) -> np.dtype[Any]:
    """Raises `invalid_input` for a datatype that is not served."""
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise invalid(field, f"{datatype!r} is not served", f"One of {', '.join(DTYPES)}.")
    return dtype


def check_shape(shape: tuple[int, ...], field: str) -> None:
    """Raises `invalid_input` for what is no shape at all."""
    if len(shape) > MAX_RANK or any(n < 0 for n in shape):
        raise no_shape(shape, field)


def no_shape(shape: Sequence[int], field: str) -> MeuseError:
    hint = f"At most {MAX_RANK} dimensions, none negative."
    return invalid(field, f"{list(shape)} is not a shape", hint)


def tensor(
    data: bytes,
    start: int,
    size: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    field: str,
    shape_field: str,
) -> NDArray[Any]:
    """`data[start:start + size]` as an array of exactly `shape`. Raises `invalid_input`."""
    if dtype is strings.OBJECT:
        return _strings(data, start, size, shape, field, shape_field)
    count = prod(shape)
    if size != count * dtype.itemsize:
        raise invalid(
            field,
            f"shape {list(shape)} of {DATATYPES[dtype]} needs {count * dtype.itemsize} bytes, "
            f"got {size}",
        )
    if count == 0:
        return shaped(np.empty(0, dtype), shape, shape_field)
    # Other bytes would make booleans that are neither true nor false.
    if dtype.kind == "b" and np.frombuffer(data, np.uint8, size, start).max() > 1:
        raise invalid(field, "a boolean is a byte of 0 or 1")
    return shaped(np.frombuffer(data, dtype, count, start), shape, shape_field)


def _strings(
    data: bytes, start: int, size: int, shape: tuple[int, ...], field: str, shape_field: str
) -> NDArray[Any]:
    count = prod(shape)
    try:
        array, end = strings.unpack(data, start, start + size, count)
    except ValueError as error:
        raise invalid(field, f"BYTES of shape {list(shape)}: {error}") from None
    if end != start + size:
        left = start + size - end
        raise invalid(field, f"{left} bytes follow the last of {count} elements")
    return shaped(array, shape, shape_field)


def shaped(array: NDArray[Any], shape: tuple[int, ...], field: str) -> NDArray[Any]:
    """Reshape an array of as many elements. Raises `invalid_input`."""
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):  # no elements, but dimensions beyond what numpy counts
        raise invalid(field, f"{list(shape)} is not a shape that a tensor can have") from None


def invalid(field: str, message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_INPUT, message, field=field, hint=hint)
