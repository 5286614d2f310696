"""Every parser, fuzzed: a valid result or a refusal, and memory in proportion to the input.

What is generated starts from valid requests and breaks them: noise alone would not get far.
"""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gateway import fuzz
from meuse.gateway import jsontensor, rpctensor
from meuse.gateway.wire import inference_pb2 as pb
from meuse.serve import frames, strings
from meuse.serve.frames import DTYPES, Request, Spec

datatypes = st.sampled_from([*DTYPES, "BF16", "fp32", ""])
sizes = st.sampled_from([-1, 0, 1, 2, 3, 4, 8, 2**31, 2**62, 2**63 - 1, -(2**63)])
shapes = st.lists(st.sampled_from([0, 1, 1, 2, 2, 4]) | sizes, max_size=4)
values = (
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.text(max_size=5)
    | st.floats() | st.sampled_from([1, 0, 1.5, 1e39, 1e308])
)  # fmt: skip
data = st.recursive(st.lists(values, max_size=4), lambda inner: st.lists(inner, max_size=3))
parameters = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "binary_data_size": st.integers(-2, 20) | sizes | values,
        "binary_data": st.booleans() | values,
        "classification": values,
        "anything": values,
    },
)
inputs = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "x", "x", "z"]), "shape": shapes, "datatype": datatypes},
    optional={"data": data | values, "parameters": parameters},
)
outputs = st.fixed_dictionaries(
    {"name": st.sampled_from(["y", "y", "z"])}, optional={"parameters": parameters}
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(inputs, max_size=3)},
    optional={
        "id": st.text(max_size=3) | values,
        "outputs": st.none() | st.lists(outputs, max_size=3),
        "parameters": st.none() | st.fixed_dictionaries({"binary_data_output": values}),
    },
)


@st.composite
def damaged(draw: Any, whole: st.SearchStrategy[bytes]) -> bytes:
    """As it is, cut, or with a few bytes changed."""
    content = bytearray(draw(whole))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        if content:
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    keep = draw(st.none() | st.integers(0, len(content)))
    return bytes(content[:keep])


raw_data = st.binary(max_size=24) | st.lists(st.binary(max_size=5), max_size=3).map(
    lambda words: b"".join(len(w).to_bytes(4, "little") + w for w in words)
)
json_bodies = requests.map(lambda body: json.dumps(body).encode())


@settings(max_examples=400)
@given(damaged(json_bodies) | st.binary(max_size=40))
def test_rest_json(body: bytes) -> None:
    """`…/infer` without the header."""
    fuzz.rest(body)


@settings(max_examples=400)
@given(json_bodies, raw_data, st.integers(-3, 3), st.binary(max_size=6), st.booleans())
def test_rest_binary(head: bytes, tail: bytes, off: int, said: bytes, honest: bool) -> None:
    """`…/infer` with raw bytes behind the JSON, and a header that may lie."""
    fuzz.rest(head + tail, str(len(head) + off).encode() if honest else said)


@st.composite
def tensors(draw: Any) -> tuple[str, list[int], NDArray[Any]]:
    """Datatype, shape and values that fit one of the targets."""
    datatype = draw(st.sampled_from(sorted(fuzz.SIGNATURES)))
    shape = [draw(st.integers(1, 3)) if n == -1 else n for n in fuzz.SIGNATURES[datatype]]
    count = math.prod(shape)
    if datatype == "BYTES":
        words = draw(st.lists(st.text(max_size=4), min_size=count, max_size=count))
        return datatype, shape, strings.array_of([w.encode() for w in words], tuple(shape))
    seed = draw(st.integers(0, 9))
    array = np.random.default_rng(seed).integers(0, 2, shape).astype(DTYPES[datatype])
    return datatype, shape, array


def input_of(datatype: str, shape: list[int], **more: Any) -> Any:
    return {"name": "x", "datatype": datatype, "shape": shape, **more}


def typed_json(tensor: Any) -> bytes:
    datatype, shape, array = tensor
    values = jsontensor.written(array, "x").ravel().tolist()
    return json.dumps({"inputs": [input_of(datatype, shape, data=values)]}).encode()


def raw_body(tensor: Any) -> tuple[bytes, bytes]:
    datatype, shape, array = tensor
    content = bytes(frames.payload(array))
    given = input_of(datatype, shape, parameters={"binary_data_size": len(content)})
    head = {"inputs": [given], "parameters": {"binary_data_output": True}}
    return json.dumps(head).encode(), content


def raw_message(tensor: Any) -> bytes:
    datatype, shape, array = tensor
    given = pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=shape)
    return pb.ModelInferRequest(
        inputs=[given], raw_input_contents=[bytes(frames.payload(array))]
    ).SerializeToString()


def typed_message(tensor: Any) -> bytes:
    datatype, shape, array = tensor
    request = pb.ModelInferRequest()
    given = request.inputs.add(name="x", datatype=datatype, shape=shape)
    if datatype != "FP16":
        getattr(given.contents, rpctensor._CONTENTS[datatype]).extend(array.ravel().tolist())
    return request.SerializeToString()


@given(tensors())
def test_what_fits_is_read(tensor: Any) -> None:
    """The generators below start from requests that are valid in every form."""
    head, content = raw_body(tensor)
    assert fuzz.rest(head + content, str(len(head)).encode()) == 1
    assert fuzz.rpc(raw_message(tensor)) == 2
    if tensor[0] != "FP16":
        assert fuzz.rest(typed_json(tensor)) == 1
        assert fuzz.rpc(typed_message(tensor)) == 2


@settings(max_examples=400)
@given(damaged(tensors().map(typed_json)))
def test_damaged_rest_json(body: bytes) -> None:
    """Valid JSON tensors with a few bytes changed."""
    fuzz.rest(body)


@settings(max_examples=400)
@given(tensors().map(raw_body).flatmap(
    lambda parts: st.tuples(damaged(st.just(parts[0] + parts[1])), st.just(len(parts[0])))
))  # fmt: skip
def test_damaged_rest_binary(request: tuple[bytes, int]) -> None:
    """Valid raw tensors with a few bytes of header or data changed, or cut."""
    body, length = request
    fuzz.rest(body, str(length).encode())


@settings(max_examples=400)
@given(damaged(tensors().map(raw_message) | tensors().map(typed_message)))
def test_damaged_grpc(message: bytes) -> None:
    """Valid messages with a few bytes changed."""
    fuzz.rpc(message)


@settings(max_examples=300)
@given(
    damaged(
        st.fixed_dictionaries({"input_data": data | values}, optional={"model": values}).map(
            lambda body: json.dumps(body).encode()
        )
        | data.map(lambda rows: json.dumps(rows).encode())
    )
)
def test_simple(body: bytes) -> None:
    """`/predict` and `/predictions/{m}`."""
    fuzz.simple(body)


int64s = st.integers(-(2**63), 2**63 - 1)
contents = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=4),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
        "int64_contents": st.lists(int64s, max_size=4),
        "uint_contents": st.lists(st.integers(0, 2**32 - 1), max_size=4),
        "uint64_contents": st.lists(st.integers(0, 2**64 - 1), max_size=4),
        "fp32_contents": st.lists(st.floats(width=32), max_size=4),
        "fp64_contents": st.lists(st.floats(), max_size=4),
        "bytes_contents": st.lists(st.binary(max_size=4), max_size=4),
    },
)
messages = st.builds(
    lambda tensors, raw, names: pb.ModelInferRequest(
        inputs=[
            pb.ModelInferRequest.InferInputTensor(
                name="x",
                datatype=datatype,
                shape=shape,
                contents=pb.InferTensorContents(**typed) if typed else None,
            )
            for datatype, shape, typed in tensors
        ],
        raw_input_contents=raw,
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=n) for n in names],
    ).SerializeToString(),
    st.lists(st.tuples(datatypes, shapes, contents), max_size=2),
    st.lists(raw_data, max_size=2),
    st.lists(st.sampled_from(["y", "z"]), max_size=2),
)


@settings(max_examples=400)
@given(damaged(messages) | st.binary(max_size=40))
def test_grpc(message: bytes) -> None:
    """`ModelInfer`, raw and typed."""
    fuzz.rpc(message)


@given(st.binary(max_size=40))
def test_reflection(message: bytes) -> None:
    """Symbols and file names are any text."""
    fuzz.reflection(message)


@st.composite
def framed(draw: Any) -> bytes:
    """A frame whose checksum is right and whose tensors may not be."""
    specs = draw(st.lists(st.builds(Spec, st.just("x"), datatypes, shapes.map(tuple)), max_size=3))
    fair = [spec for spec in specs if all(-(2**63) <= n < 2**63 for n in spec.shape)]
    header = Request(1, b"u" * 16, 0, False, tuple(fair))
    return b"".join(bytes(part) for part in frames.encode(header)) + draw(raw_data)


@st.composite
def framed_with_payload(draw: Any) -> bytes:
    """The same, with the total set to what is there."""
    stream = bytearray(draw(framed()))
    stream[:4] = (len(stream) - 4).to_bytes(4, "little")
    return bytes(stream)


@settings(max_examples=400)
@given(framed() | framed_with_payload() | damaged(framed_with_payload()), st.integers(0, 60))
def test_frames(stream: bytes, cut: int) -> None:
    """Frames, whole or cut, with payloads that may not fit their header."""
    fuzz.frame(stream, cut)


@settings(max_examples=300)
@given(
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from([b"/v2", b"/models", b"/m", b"/%2f", b"/%", b"/infer", b"/versions", b"/"]),
        max_size=8,
    ).map(b"".join)
)
def test_paths_and_headers(raw: bytes) -> None:
    """Paths and header values are any bytes."""
    fuzz.path(raw)
    fuzz.headers(raw)


SIZE = 256 * 1024
# Bytes at the peak per byte of input, from the body to the answer. "1," becomes a float in a list,
# '"",' a string in a list and again in an array: 35 at most when this was written.
MOST = 48


def peak(parse: Any, *arguments: Any) -> int:
    """Bytes that Python and numpy had allocated at most while parsing."""
    before, fuzz.TARGETS = fuzz.TARGETS, fuzz.TARGETS[:1]
    try:
        tracemalloc.start()
        parse(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        fuzz.TARGETS = before


def huge_json(shape: list[int], values: str, datatype: str = "FP32") -> bytes:
    head = json.dumps({"name": "x", "shape": shape, "datatype": datatype})
    return b'{"inputs":[' + head[:-1].encode() + b',"data":' + values.encode() + b"}]}"


@pytest.mark.parametrize(
    ("datatype", "body"),
    [
        ("FP32", huge_json([SIZE // 4, 2], "[" + "1," * (SIZE // 2 - 1) + "1]")),
        ("FP32", huge_json([2**40, 2**40], "[1]")),
        ("FP32", huge_json([SIZE, 2], "[" * 15 + "]" * 15)),
        ("FP32", huge_json([1, 2], "[" + "[]," * (SIZE // 3) + "[]]")),
        ("FP32", huge_json([1, 2], "[" * SIZE)),
        ("FP32", huge_json([1, 2], "[1," + '"a",' * (SIZE // 4) + "1]")),
        ("BYTES", huge_json([SIZE // 4], "[" + '"",' * (SIZE // 4 - 1) + '""]', "BYTES")),
        ("BYTES", huge_json([SIZE // 5], "[" + '"ab",' * (SIZE // 5 - 1) + '"ab"]', "BYTES")),
        ("BYTES", huge_json([2, 1], '["' + "a" * SIZE + '","b"]', "BYTES")),
        ("FP32", b'{"inputs":[' + b"{}," * (SIZE // 3) + b"{}]}"),
        ("FP32", b'{"inputs":[],"outputs":[' + b'{"name":"y"},' * (SIZE // 13) + b'{"name":"y"}]}'),
    ],
)  # fmt: skip
def test_memory_of_json(datatype: str, body: bytes) -> None:
    """Whatever it says, a body costs no more than a fixed multiple of its size."""
    fuzz.TARGETS.insert(0, fuzz.FuzzTarget(datatype))
    try:
        assert peak(fuzz.rest, body) < MOST * max(len(body), 4096)
    finally:
        fuzz.TARGETS.pop(0)


@pytest.mark.parametrize(
    ("shape", "datatype", "payload"),
    [
        ([SIZE // 8, 2], "FP32", bytes(SIZE)),
        ([SIZE // 4], "BYTES", bytes(SIZE)),
        ([SIZE // 6], "BYTES", b"\2\0\0\0ab" * (SIZE // 6)),
        ([2**61], "BYTES", bytes(SIZE)),
        ([SIZE], "BYTES", bytes(SIZE)),
        ([1], "BYTES", b"\xff\xff\xff\xff"),
        ([2**62, 2**62], "FP32", b""),
        ([0, 2**61], "FP32", b""),
    ],
)
def test_memory_of_raw_bytes(shape: list[int], datatype: str, payload: bytes) -> None:
    """The same for REST's raw bytes, gRPC's, and frames."""
    given: Any = {"name": "x", "datatype": datatype, "shape": shape}
    given["parameters"] = {"binary_data_size": len(payload)}
    head = json.dumps({"inputs": [given]}).encode()
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=shape)
    message = pb.ModelInferRequest(inputs=[tensor], raw_input_contents=[payload])
    header = msgspec.msgpack.encode(
        Request(1, b"u" * 16, 0, False, (Spec("x", datatype, tuple(shape)),))
    )
    stream = frames._PREFIX.pack(
        frames._AFTER_TOTAL + len(header) + len(payload), len(header), frames.zlib.crc32(header)
    )
    fuzz.TARGETS.insert(0, fuzz.FuzzTarget(datatype))
    try:
        for parse, *arguments in (
            (fuzz.rest, head + payload, str(len(head)).encode()),
            (fuzz.rpc, message.SerializeToString()),
            (fuzz.frame, stream + header + payload),
        ):
            assert peak(parse, *arguments) < MOST * max(len(payload), 4096)
    finally:
        fuzz.TARGETS.pop(0)


def test_a_deep_body_is_refused() -> None:
    """10,000 lists deep, anywhere in a request: a refusal, no crash of the process."""
    for depth in (1000, 10_000, 200_000):
        deep = b"[" * depth + b"]" * depth
        fuzz.rest(deep)
        fuzz.simple(deep)
        fuzz.rest(b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + deep + b"}]}")
        fuzz.rest(b'{"inputs":[],"parameters":{"a":' + deep + b"}}")
        fuzz.simple(b'{"input_data":' + deep + b"}")
