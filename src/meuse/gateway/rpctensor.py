"""Open Inference messages ↔ tensors, raw and typed. Knows no server."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.serve.frames import DATATYPES, DTYPES, MAX_RANK

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def read(request: Any) -> list[tuple[str, NDArray[Any]]]:
    """The inputs of a ModelInferRequest. Raises `invalid_input`."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise _invalid(
            "raw_input_contents", f"{len(raw)} raw contents for {len(request.inputs)} inputs"
        )
    inputs = []
    for i, tensor in enumerate(request.inputs):
        datatype, shape = tensor.datatype, tuple(tensor.shape)
        dtype = DTYPES.get(datatype)
        if dtype is None:
            raise _invalid(
                f"inputs[{i}].datatype",
                f"{datatype!r} is not served",
                f"One of {', '.join(DTYPES)}.",
            )
        if len(shape) > MAX_RANK or any(n < 0 for n in shape):
            raise _invalid(f"inputs[{i}].shape", f"{list(shape)} is not a shape")
        if raw:
            array = _raw(raw[i], dtype, shape, i)
        else:
            array = _typed(tensor.contents, datatype, shape, i)
        inputs.append((tensor.name, array))
    return inputs


def write(response: Any, outputs: Sequence[tuple[str, NDArray[Any]]], *, raw: bool) -> None:
    """Add outputs to a ModelInferResponse."""
    for name, array in outputs:
        datatype = DATATYPES[array.dtype]
        tensor = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            response.raw_output_contents.append(array.tobytes())
        else:
            getattr(tensor.contents, _CONTENTS[datatype]).extend(array.ravel().tolist())


def _raw(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], i: int) -> NDArray[Any]:
    size = prod(shape) * dtype.itemsize
    if len(data) != size:
        raise _invalid(
            f"raw_input_contents[{i}]",
            f"shape {list(shape)} of {DATATYPES[dtype]} needs {size} bytes, got {len(data)}",
        )
    # Other bytes would make booleans that are neither true nor false.
    if dtype.kind == "b" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise _invalid(f"raw_input_contents[{i}]", "a boolean is a byte of 0 or 1")
    return _shaped(np.frombuffer(data, dtype), shape, i)


def _typed(contents: Any, datatype: str, shape: tuple[int, ...], i: int) -> NDArray[Any]:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise _invalid(f"inputs[{i}].datatype", f"{datatype} is sent in raw_input_contents only")
    values = getattr(contents, field)
    where = f"inputs[{i}].contents.{field}"
    if len(values) != prod(shape):
        raise _invalid(
            where, f"shape {list(shape)} needs {prod(shape)} elements, got {len(values)}"
        )
    dtype = DTYPES[datatype]
    try:
        array = np.array(values, dtype)
    except OverflowError:
        limits = np.iinfo(dtype)
        at = next(j for j, v in enumerate(values) if not limits.min <= v <= limits.max)
        raise _invalid(f"{where}[{at}]", f"{values[at]} is out of range for {datatype}") from None
    return _shaped(array, shape, i)


def _shaped(array: NDArray[Any], shape: tuple[int, ...], i: int) -> NDArray[Any]:
    try:
        return array.reshape(shape)
    except ValueError:  # without elements, but with dimensions beyond what can be counted
        message = f"{list(shape)} is not a shape that a tensor can have"
        raise _invalid(f"inputs[{i}].shape", message) from None


def _invalid(field: str, message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_INPUT, message, field=field, hint=hint)
