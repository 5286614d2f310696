"""JSON ↔ tensors, with errors that name the element at fault. Knows no protocol.

Measured (Python 3.11, numpy 2.4, msgspec 0.22; 1 row and 64 rows of 64 floats, µs):

    typed msgspec `list[list[float]]`, then np.array(dtype=float32)      2.7    162
    untyped msgspec, then np.array(dtype=float32)                        2.7    163
    the same in float64, then astype                                     3.2    180
    one np.array per row, np.array of those                              3.2    185
    an empty array, filled row by row                                    3.0    170
    array.array or struct.pack per row, np.frombuffer              3.1-3.2    171-212

So typed decoding is free, and it refuses strings, nulls, booleans, NaN and numbers beyond a
double with the position. The bare decoding is 1.2 and 92 of these.

Measured anew on a busier machine, CPU time, flat lists of full-length floats (1 and 64 rows, µs):

    np.array, in errstate                                                4.1    287
    typed msgspec, then np.fromiter                                      4.0    261
    orjson, then np.array                                                4.0    245
    text without brackets by np.fromstring(sep=",")                     25     1539
    pysimdjson, its buffer of doubles, then astype                       2.6    112
    raw bytes instead of JSON: np.frombuffer                             0.5      0.5

And once more on a quiet one, nested lists of full-length floats (1 and 64 rows, µs; the bare
decoding is 2.2 and 174 of these): np.array that refuses overflow 5.9 and 278, a struct.pack
of each row 4.2 and 225. So the common case, a matrix of FP32, is packed.

Of the others only simdjson is clearly faster, from some eight rows on. It is not used: it flattens
`[1,[2,3]]` without a word, so the shape would have to be checked in the text, and its parser
keeps ten times the largest body it has seen. Who sends many rows sends them raw.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.serve import strings
from meuse.serve.frames import DTYPES, MAX_RANK

_OPENING = re.compile(rb"[\[\s]*")
_WHERE = re.compile(r"(.*) - at `\$(.*)`", re.DOTALL)
_KINDS: dict[str, type] = {"b": bool, "i": int, "u": int, "f": float, "O": str}


def rows(
    raw: bytes, datatype: str, shape: Sequence[int], field: str, *, nullable: bool = False
) -> NDArray[Any]:
    """`[[…], …]` → an array of `shape`, whose first dimension is the rows.

    A row may be nested as the shape says, or flat. Where `nullable`, a null is NaN. Errors
    name the row: `input_data[3]`.
    """
    if is_matrix(datatype, shape):
        try:
            array = packed(_lists(raw), shape[1])
        except (msgspec.DecodeError, UnicodeDecodeError):
            array = None
        if array is not None:
            return array
    depth, rank = _depth(raw, field), len(shape)
    trailing = tuple(shape[1:])
    if raw.strip() == b"[]":
        raise _invalid(field, "there are no rows", "Give at least one row.")
    flat = depth == 2 and -1 not in trailing
    if depth != rank and not flat:
        wanted = _describe(trailing)
        raise _invalid(f"{field}[0]", f"expected rows that are {wanted}, got lists {depth} deep")
    dtype = _dtype(datatype, field)
    value = _decode(raw, dtype, depth, field, row_only=True, nullable=nullable)
    try:
        array = _convert(value, dtype)
    except (ValueError, OverflowError, FloatingPointError):
        raise _bad_row(value, dtype, datatype, trailing, field, flat=flat) from None
    if array.ndim == rank and _fits(array.shape[1:], trailing):
        return array
    if flat and array.shape[1] == prod(trailing):
        return array.reshape(array.shape[0], *trailing)
    got = _describe(array.shape[1:])
    raise _invalid(f"{field}[0]", f"expected {_describe(trailing)}, got {got}")


_lists = msgspec.json.Decoder(list[list[float]]).decode
_FP32 = DTYPES["FP32"]


@functools.lru_cache(256)
def _packer(width: int) -> Callable[..., bytes]:
    return struct.Struct(f"<{width}f").pack


def is_matrix(datatype: str, shape: Sequence[int]) -> bool:
    """Whether an input is what is asked by far the most, so that `packed` may make it."""
    return len(shape) == 2 and datatype == "FP32"


def packed(values: list[list[float]], width: int) -> NDArray[Any] | None:
    """Rows of `width` numbers (-1: as many as the first has) → a matrix of FP32, read-only.
    None where `rows` has to look closer, or has to say what is wrong."""
    try:
        width = len(values[0]) if width == -1 else width
        pack = _packer(width)
        # Refuses rows of another length, and what is beyond the type.
        data = b"".join([pack(*row) for row in values])
    except (IndexError, struct.error, OverflowError):
        return None
    return np.ndarray((len(values), width), _FP32, data) if data else None


def tensor(raw: bytes, datatype: str, shape: Sequence[int], field: str) -> NDArray[Any]:
    """Flat or nested row-major data → an array of exactly `shape`.

    Errors name the element where there is one: `inputs[0].data[5]`.
    """
    depth = _depth(raw, field)
    dtype = _dtype(datatype, field)
    if depth not in (1, max(len(shape), 1)):
        raise _invalid(
            field, f"lists {depth} deep for shape {list(shape)}", "Send flat or fully nested data."
        )
    value = _decode(raw, dtype, depth, field, row_only=False)
    try:
        array = _convert(value, dtype)
    except ValueError:
        raise _invalid(field, f"the lists do not form the shape {list(shape)}") from None
    except (OverflowError, FloatingPointError):
        at = _first_bad(value, dtype)
        raise _invalid(f"{field}[{at}]", f"a number is out of range for {datatype}") from None
    if array.shape == tuple(shape):
        return array
    count = prod(shape)
    if depth == 1 and array.size == count:
        try:
            return array.reshape(tuple(shape))
        except ValueError:  # without elements, but with dimensions beyond what can be counted
            raise _invalid(field, f"{list(shape)} is not a shape that a tensor can have") from None
    raise _invalid(
        field, f"shape {list(shape)} needs {count} elements, got {_describe(array.shape)}"
    )


def _dtype(datatype: str, field: str) -> np.dtype[Any]:
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise _invalid(field, f"datatype {datatype} is not served", f"One of {', '.join(DTYPES)}.")
    return dtype


def _depth(raw: bytes, field: str) -> int:
    opening = _OPENING.match(raw)
    depth = opening[0].count(b"[") if opening else 0
    if not 1 <= depth <= MAX_RANK:
        raise _invalid(field, "expected a list of values", f"At most {MAX_RANK} lists deep.")
    return depth


@functools.cache
def _decoder(kind: str, depth: int, nullable: bool) -> msgspec.json.Decoder[Any]:
    wanted: Any = _KINDS[kind] | None if nullable else _KINDS[kind]
    for _ in range(depth):
        wanted = list[wanted]
    return msgspec.json.Decoder(wanted)


def _decode(
    raw: bytes,
    dtype: np.dtype[Any],
    depth: int,
    field: str,
    *,
    row_only: bool,
    nullable: bool = False,
) -> Any:
    try:
        return _decoder(dtype.kind, depth, nullable and dtype.kind == "f").decode(raw)
    except UnicodeDecodeError:
        raise _invalid(field, "a string is not UTF-8") from None
    except msgspec.DecodeError as error:
        match = _WHERE.fullmatch(str(error))
        reason, path = (match[1], match[2]) if match else (str(error), "")
        reason = reason[:1].lower() + reason[1:]
        if row_only and path.count("[") > 1:
            cut = path.index("]") + 1
            path, reason = path[:cut], f"{reason} at position {path[cut:]}"
        raise _invalid(field + path, reason) from None


def _convert(value: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype is strings.OBJECT:
        return _strings(value)
    # The decoder lets no infinity through, so only the cast to a narrower float can make one.
    with np.errstate(over="raise"):
        return np.array(value, dtype)


def _strings(value: Any) -> NDArray[Any]:
    array = np.array(value, strings.OBJECT)
    # Of objects numpy makes an array in any case; it cannot look into lists of unequal length.
    if array.size and isinstance(array.item(0), list):
        raise ValueError("lists of unequal length")
    return strings.encoded(array)


def written(array: NDArray[Any], name: str) -> NDArray[Any]:
    """An array whose `tolist` JSON can write. Raises `engine_error` for strings of no text."""
    if array.dtype is not strings.OBJECT:
        return array
    try:
        return strings.decoded(array)
    except UnicodeDecodeError:
        raise MeuseError(
            Code.ENGINE_ERROR,
            f"output {name!r} holds bytes that are not UTF-8, which JSON cannot carry",
            field="outputs",
            hint="Ask for this output as binary data, or over gRPC.",
        ) from None


def _fits(got: Sequence[int], wanted: Sequence[int]) -> bool:
    return all(w in (-1, g) for g, w in zip(got, wanted, strict=True))


def _first_bad(items: list[Any], dtype: np.dtype[Any]) -> int:
    """Index of the first item that makes conversion fail, by halving."""
    low, high = 0, len(items)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _convert(items[low:middle], dtype)
        except (ValueError, OverflowError, FloatingPointError):
            high = middle
        else:
            low = middle
    return low


def _bad_row(
    value: list[Any],
    dtype: np.dtype[Any],
    datatype: str,
    trailing: tuple[int, ...],
    field: str,
    *,
    flat: bool,
) -> MeuseError:
    """Which row, and why. Only called after a failure, so it may take its time."""
    if flat:
        width = prod(trailing)
        for i, row in enumerate(value):
            if len(row) != width:
                return _invalid(f"{field}[{i}]", f"expected {width} numbers, got {len(row)}")
    wanted = _describe(trailing)
    shapes: set[tuple[int, ...]] = set()
    for i, row in enumerate(value):
        try:
            shape = _convert(row, dtype).shape
        except ValueError:
            return _invalid(f"{field}[{i}]", f"expected {wanted}, got lists of unequal length")
        except (OverflowError, FloatingPointError):
            return _invalid(f"{field}[{i}]", f"a number is out of range for {datatype}")
        shapes.add(shape)
        if len(shape) != len(trailing) or not _fits(shape, trailing) or len(shapes) > 1:
            return _invalid(f"{field}[{i}]", f"expected {wanted}, got {_describe(shape)}")
    return _invalid(field, "the rows do not form a tensor")


def _describe(shape: Sequence[int]) -> str:
    if not shape:
        return "a number"
    if len(shape) == 1:
        return f"{shape[0]} numbers" if shape[0] >= 0 else "a list of numbers"
    return f"shape {list(shape)}"


def _invalid(field: str, message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_INPUT, message, field=field, hint=hint)
