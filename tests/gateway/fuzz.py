"""Every parser of what strangers send, one function each: bytes in; a result or a refusal out.

Used by `test_fuzz` (hypothesis) and by `tests/fuzz/run_atheris.py`. Each returns for what
is valid and for what is refused (`MeuseError`, `FrameError`); anything else that is raised is a
fault of ours.
"""

from __future__ import annotations

import contextlib
from typing import Any

from google.protobuf.message import DecodeError

from meuse.core.errors import MeuseError
from meuse.gateway import heads, oip, paths, predict, rpctensor
from meuse.gateway.dataplane import Result, check
from meuse.gateway.routes import Caller
from meuse.gateway.rpcreflection import _answer
from meuse.gateway.rpcservice import _check
from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire import reflection_pb2
from meuse.serve import frames
from meuse.serve.frames import Decoder, FrameError
from meuse.serve.snapshot import KeyEntry, TensorEntry

CALLER = Caller(b"", "k", KeyEntry(b"", "acme", "default", frozenset()), None)
SIGNATURES = {
    "FP32": (-1, 2),
    "FP64": (-1, 2, 2),
    "INT8": (-1,),
    "INT64": (-1, -1),
    "UINT64": (-1,),
    "BOOL": (-1, 2),
    "FP16": (-1,),
    "BYTES": (-1,),
}


class FuzzTarget:
    """What reading asks of a target: one input `x` of a datatype, the output `y` the same."""

    def __init__(self, datatype: str) -> None:
        spec = TensorEntry("x", datatype, SIGNATURES[datatype])
        self.entry = self
        self.inputs = (spec,)
        self.input_at = {"x": spec}
        self.outputs = {"y": TensorEntry("y", datatype, SIGNATURES[datatype])}
        self.raw_only = {"y"} if datatype == "FP16" else set()
        self.classes = None
        self.label = "1"
        self.version = "m:1"


TARGETS: list[Any] = [FuzzTarget(datatype) for datatype in SIGNATURES]
REFUSALS = (MeuseError, FrameError)


def _answered(read: Any, write: Any) -> int:
    """How many targets could answer."""
    answered = 0
    for target in TARGETS:
        with contextlib.suppress(*REFUSALS):
            inputs = read(target)
            rows = check(target.inputs, target.input_at, inputs)
            for _, array in inputs:
                assert frames.size_of(array) == len(frames.payload(array))
            write(Result(target, [("y", inputs[0][1])], rows))
            answered += 1
    return answered


def rest(body: bytes, header: bytes | None = None) -> int:
    """`POST …/infer`; `header` is Inference-Header-Content-Length."""
    try:
        asked = oip.InferRequest(body, CALLER, "m", None, header)
    except REFUSALS:
        return 0
    return _answered(asked.call.read, asked.write)


def simple(body: bytes) -> None:
    """`POST /predict` and `/predictions/{m}`."""
    for make in (predict.read_predict, lambda b, c: predict.read_predictions(b, c, "m")):
        with contextlib.suppress(*REFUSALS):
            _answered(make(body, CALLER).read, predict.write)


def rpc(message: bytes) -> int:
    """`ModelInfer`: what gRPC itself refuses never reaches us."""
    try:
        request = pb.ModelInferRequest.FromString(message)
        _check(request)
    except (DecodeError, *REFUSALS):
        return 0
    answered = 0
    for raw in (True, False):

        def write(result: Any, raw: bool = raw) -> None:
            raw = raw or result.target.inputs[0].datatype == "FP16"
            rpctensor.write(pb.ModelInferResponse(), result.outputs, raw=raw)

        answered += _answered(lambda target: rpctensor.read(request), write)
    return answered


def reflection(message: bytes) -> None:
    with contextlib.suppress(DecodeError):
        _answer(reflection_pb2.ServerReflectionRequest.FromString(message))


def frame(stream: bytes, cut: int = 0) -> None:
    """What a socket delivers, in one piece or in two."""
    with contextlib.suppress(*REFUSALS):
        decoder = Decoder()
        for part in (stream[:cut], stream[cut:]):
            for header, tensors in decoder.feed(part):
                frames.encode(header, tensors)


def path(raw: bytes) -> None:
    """Paths are any bytes but spaces and control characters."""
    with contextlib.suppress(*REFUSALS):
        paths.match(raw)
        paths.match.cache_clear()


def headers(value: bytes) -> None:
    """Header values are any bytes."""
    heads.request_id([(b"x-request-id", value)])
    with contextlib.suppress(*REFUSALS):
        heads.check_encoding(value)
    with contextlib.suppress(*REFUSALS):
        oip._header_length(value, 100)
