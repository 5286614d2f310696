"""Open Inference messages ↔ tensors, raw and typed. Knows no server."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.gateway import rawtensor
from meuse.gateway.rawtensor import check_shape, dtype_of, invalid, shaped
from meuse.serve import strings
from meuse.serve.frames import DATATYPES, DTYPES, payload

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
    "BYTES": "bytes_contents",
}


def read(request: Any) -> list[tuple[str, NDArray[Any]]]:
    """The inputs of a ModelInferRequest. Raises `invalid_input`."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise invalid(
            "raw_input_contents", f"{len(raw)} raw contents for {len(request.inputs)} inputs"
        )
    inputs = []
    for i, tensor in enumerate(request.inputs):
        shape, at = tuple(tensor.shape), f"inputs[{i}].shape"
        dtype = dtype_of(tensor.datatype, f"inputs[{i}].datatype")
        check_shape(shape, at)
        if raw:
            data: bytes = raw[i]
            array = rawtensor.tensor(
                data, 0, len(data), dtype, shape, f"raw_input_contents[{i}]", at
            )
            if tensor.HasField("contents"):
                raise invalid(f"inputs[{i}].contents", "the data is given twice, raw and typed")
        else:
            array = shaped(_typed(tensor.contents, tensor.datatype, shape, i), shape, at)
        inputs.append((tensor.name, array))
    return inputs


def write(response: Any, outputs: Sequence[tuple[str, NDArray[Any]]], *, raw: bool) -> None:
    """Add outputs to a ModelInferResponse."""
    for name, array in outputs:
        datatype = DATATYPES[array.dtype]
        tensor = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            response.raw_output_contents.append(bytes(payload(array)))
        else:
            getattr(tensor.contents, _CONTENTS[datatype]).extend(array.ravel().tolist())


def _typed(contents: Any, datatype: str, shape: tuple[int, ...], i: int) -> NDArray[Any]:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise invalid(f"inputs[{i}].datatype", f"{datatype} is sent in raw_input_contents only")
    values = getattr(contents, field)
    where = f"inputs[{i}].contents.{field}"
    if len(values) != prod(shape):
        raise invalid(where, f"shape {list(shape)} needs {prod(shape)} elements, got {len(values)}")
    dtype = DTYPES[datatype]
    if dtype is strings.OBJECT:
        return strings.array_of(values, (len(values),))
    try:
        return np.array(values, dtype)
    except OverflowError:
        limits = np.iinfo(dtype)
        at = next(j for j, v in enumerate(values) if not limits.min <= v <= limits.max)
        raise invalid(f"{where}[{at}]", f"{values[at]} is out of range for {datatype}") from None
