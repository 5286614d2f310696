"""The simple protocol: `{model?, input_data: [[…], …]}` → `{output_data: […], model}`.

Pure: bytes to calls, results to bytes.
"""

from __future__ import annotations

import re

import msgspec

from meuse.gateway import jsonrows, jsontensor
from meuse.gateway.body import decode
from meuse.gateway.dataplane import Call, Result
from meuse.gateway.routes import Caller, Headers, Target
from meuse.gateway.signature import Inputs
from meuse.serve.snapshot import TensorEntry


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    input_data: msgspec.Raw
    model: str | None = None


class _Rows(msgspec.Struct, forbid_unknown_fields=True):
    input_data: msgspec.Raw


_NESTED = re.compile(rb"\s*\[\s*[\[{]")


class _Matrix(msgspec.Struct, forbid_unknown_fields=True):
    input_data: list[list[float]]


_body = msgspec.json.Decoder(_Body)
_rows = msgspec.json.Decoder(_Rows)
_matrix = msgspec.json.Decoder(_Matrix).decode
_raw = msgspec.json.Decoder(msgspec.Raw)
_encode = msgspec.json.Encoder().encode


def read_predict(body: bytes, caller: Caller, headers: Headers = ()) -> Call:
    """`POST /predict`: the body may name the deployment."""
    request = decode(_body, body)
    raw = bytes(request.input_data)

    def read(target: Target) -> Inputs:
        return _read(target.entry.inputs, raw)

    return Call(caller, request.model, None, "predict", read, headers=headers)


def read_predictions(body: bytes, caller: Caller, deployment: str, headers: Headers = ()) -> Call:
    """`POST /predictions/{deployment}`: `{input_data}` or the bare list of rows."""

    def read(target: Target) -> Inputs:
        specs = target.entry.inputs
        if len(specs) == 1 and jsontensor.is_matrix(specs[0].datatype, specs[0].shape):
            # In one go, which is right nearly always; else once more, part by part.
            try:
                array = jsontensor.packed(_matrix(body).input_data, specs[0].shape[1])
            except (msgspec.DecodeError, UnicodeDecodeError):
                array = None
            if array is not None:
                return [(specs[0].name, array)]
        bare = body.lstrip()[:1] == b"["
        return _read(specs, bytes(decode(_raw, body) if bare else decode(_rows, body).input_data))

    return Call(caller, deployment, None, "predict", read, headers=headers)


def _read(specs: tuple[TensorEntry, ...], raw: bytes) -> Inputs:
    if len(specs) != 1 or (len(specs[0].shape) == 1 and _NESTED.match(raw)):
        return jsonrows.columns(raw, specs, "input_data")
    spec, nullable = specs[0], specs[0].nullable
    array = jsontensor.rows(raw, spec.datatype, spec.shape, "input_data", nullable=nullable)
    return [(spec.name, array)]


def write(result: Result) -> bytes:
    """The first output; indices become labels where the version has labels. NaN is null."""
    array, classes = result.outputs[0][1], result.target.classes
    output = jsontensor.written(array, result.outputs[0][0]).tolist()
    if classes is not None and array.dtype.kind in "iu":
        count = len(classes)
        output = [classes[i] if 0 <= i < count else i for i in array.ravel().tolist()]
    return _encode({"output_data": output, "model": result.target.entry.version})
