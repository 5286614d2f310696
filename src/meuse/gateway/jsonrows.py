"""JSON rows of a model whose inputs are columns: a list of values, or an object by name.

    [[37, "Utrecht"], …]    in the order of the inputs
    [{"age": 37, "city": "Utrecht"}, …]

Knows no protocol. A model of one matrix goes by `jsontensor`, which is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.gateway.body import decode
from meuse.serve import strings
from meuse.serve.frames import DTYPES
from meuse.serve.snapshot import TensorEntry

_decoder = msgspec.json.Decoder(list[list[Any] | dict[str, Any]])
_TYPES: dict[str, tuple[type, ...]] = {
    "b": (bool,),
    "i": (int,),
    "u": (int,),
    "f": (int, float),
    "O": (str,),
}
_CALLED = {"b": "true or false", "i": "a whole number", "u": "a whole number", "f": "a number"}


def columns(raw: bytes, specs: Sequence[TensorEntry], field: str) -> list[tuple[str, NDArray[Any]]]:
    """One tensor per input, [rows] or [rows, …]. A null is NaN where the input may be missing,
    and an empty text for texts. Errors name row and input: `input_data[3].age`."""
    try:
        rows = decode(_decoder, raw)
    except MeuseError as error:
        where = field + (error.field or "") if str(error.field)[:1] == "[" else field
        raise _invalid(where, "expected rows, each a list of values or an object") from None
    if not rows:
        raise _invalid(field, "there are no rows", "Give at least one row.")
    names = [spec.name for spec in specs]
    values: list[list[Any]] = [[] for _ in specs]
    for i, row in enumerate(rows):
        ordered = _ordered(row, names, f"{field}[{i}]")
        for column, value in zip(values, ordered, strict=True):
            column.append(value)
    return [
        (spec.name, _column(spec, column, field))
        for spec, column in zip(specs, values, strict=True)
    ]


def _ordered(row: list[Any] | dict[str, Any], names: list[str], place: str) -> list[Any]:
    if isinstance(row, list):
        if len(row) != len(names):
            raise _invalid(
                place,
                f"expected {len(names)} values, got {len(row)}",
                f"In this order: {', '.join(names)}.",
            )
        return row
    for name in row:
        if name not in names:
            raise _invalid(
                f"{place}.{name}", "the model has no such input", f"It has: {', '.join(names)}."
            )
    for name in names:
        if name not in row:
            raise _invalid(f"{place}.{name}", "this input is missing", "Give every input a value.")
    return [row[name] for name in names]


def _column(spec: TensorEntry, values: list[Any], field: str) -> NDArray[Any]:
    dtype = DTYPES[spec.datatype]
    if len(spec.shape) > 1:
        return _tensor(spec, values, dtype, field)
    types, kind = _TYPES[dtype.kind], dtype.kind
    for i, value in enumerate(values):
        if value is None and (spec.nullable or kind == "O"):
            values[i] = "" if kind == "O" else float("nan")
        elif type(value) not in types:
            raise _invalid(
                f"{field}[{i}].{spec.name}",
                f"expected {_CALLED.get(kind, 'text')}, got {_json_type(value)}",
                None if value is not None else "This input may not be missing.",
            )
    if kind == "O":
        return strings.encoded(strings.array_of(values, (len(values),)))
    try:
        with np.errstate(over="raise"):
            return np.array(values, dtype)
    except (OverflowError, FloatingPointError, ValueError):
        raise _out_of_range(spec, values, dtype, field) from None


def _tensor(spec: TensorEntry, values: list[Any], dtype: np.dtype[Any], field: str) -> NDArray[Any]:
    """Nested lists of one shape."""
    trailing = spec.shape[1:]
    shape: tuple[int, ...] | None = None
    made = []
    for i, value in enumerate(values):
        place = f"{field}[{i}].{spec.name}"
        try:
            array = np.array(value)
            with np.errstate(over="raise"):
                cast = array.astype(dtype)
            exact = dtype.kind == "f" or bool((cast == array).all())
        except (ValueError, TypeError, OverflowError, FloatingPointError):
            exact, cast = False, np.empty(0)
        wanted = f"expected {spec.datatype} of shape {list(trailing)}"
        if not exact or cast.ndim != len(trailing):
            raise _invalid(place, wanted)
        fits = all(w in (-1, g) for w, g in zip(trailing, cast.shape, strict=True))
        if not fits or (shape is not None and cast.shape != shape):
            raise _invalid(place, f"{wanted}, the same for all rows; got {list(cast.shape)}")
        shape = cast.shape
        made.append(cast)
    return np.stack(made)


def _out_of_range(
    spec: TensorEntry, values: list[Any], dtype: np.dtype[Any], field: str
) -> MeuseError:
    for i, value in enumerate(values):
        try:
            with np.errstate(over="raise"):
                np.array([value], dtype)
        except (OverflowError, FloatingPointError, ValueError):
            place = f"{field}[{i}].{spec.name}"
            return _invalid(place, f"a number is out of range for {spec.datatype}")
    return _invalid(field, f"the values of {spec.name!r} do not form a tensor")


def _json_type(value: Any) -> str:
    called = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else called.get(type(value), "a number")


def _invalid(field: str, message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_INPUT, message, field=field, hint=hint)
