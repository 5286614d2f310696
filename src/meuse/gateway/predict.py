"""The simple protocol: `{model?, input_data: [[…], …]}` → `{output_data: […], model}`.

Pure: bytes to calls, results to bytes.
"""

from __future__ import annotations

import msgspec

from meuse.core.errors import Code, MeuseError
from meuse.gateway import jsontensor
from meuse.gateway.body import decode
from meuse.gateway.dataplane import Call, Result
from meuse.gateway.routes import Caller, Headers, Target
from meuse.gateway.signature import Inputs


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    input_data: msgspec.Raw
    model: str | None = None


class _Rows(msgspec.Struct, forbid_unknown_fields=True):
    input_data: msgspec.Raw


_body = msgspec.json.Decoder(_Body)
_rows = msgspec.json.Decoder(_Rows)
_raw = msgspec.json.Decoder(msgspec.Raw)
_encode = msgspec.json.Encoder().encode


def read_predict(body: bytes, caller: Caller, headers: Headers = ()) -> Call:
    """`POST /predict`: the body may name the deployment."""
    request = decode(_body, body)
    return _call(request.input_data, caller, request.model, headers)


def read_predictions(body: bytes, caller: Caller, deployment: str, headers: Headers = ()) -> Call:
    """`POST /predictions/{deployment}`: `{input_data}` or the bare list of rows."""
    if body.lstrip()[:1] == b"[":
        return _call(decode(_raw, body), caller, deployment, headers)
    return _call(decode(_rows, body).input_data, caller, deployment, headers)


def _call(data: msgspec.Raw, caller: Caller, model: str | None, headers: Headers) -> Call:
    raw = bytes(data)

    def read(target: Target) -> Inputs:
        specs = target.entry.inputs
        if len(specs) != 1:
            raise MeuseError(
                Code.INVALID_INPUT,
                f"the model has {len(specs)} inputs: {', '.join(s.name for s in specs)}",
                field="input_data",
                hint="Name each input: POST /v2/models/{model}/infer.",
            )
        spec = specs[0]
        return [(spec.name, jsontensor.rows(raw, spec.datatype, spec.shape, "input_data"))]

    return Call(caller, model, None, "predict", read, headers=headers)


def write(result: Result) -> bytes:
    """The first output; indices become labels where the version has labels. NaN is null."""
    array, classes = result.outputs[0][1], result.target.classes
    output = jsontensor.written(array, result.outputs[0][0]).tolist()
    if classes is not None and array.dtype.kind in "iu":
        count = len(classes)
        output = [classes[i] if 0 <= i < count else i for i in array.ravel().tolist()]
    return _encode({"output_data": output, "model": result.target.entry.version})
