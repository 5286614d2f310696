"""Open Inference v2 over gRPC, with our stubs and with tritonclient."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from meuse.gateway.rpc import METHODS
from meuse.gateway.wire import health_pb2, reflection_pb2
from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire.inference_pb2_grpc import GRPCInferenceServiceStub
from serve import models

if TYPE_CHECKING:
    from gateway.conftest import Platform

X = np.random.default_rng(5).normal(size=(2, 64)).astype(np.float32)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stub(platform: Platform) -> Iterator[Any]:
    with grpc.insecure_channel(platform.worker.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


def auth(key: str) -> Any:
    return (("authorization", f"Bearer {key}"),)


def request(
    model: str = "double", datatype: str = "FP32", shape: Any = (1, 2), **contents: Any
) -> Any:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=shape)
    if contents:
        tensor.contents.CopyFrom(pb.InferTensorContents(**contents))
    return pb.ModelInferRequest(model_name=model, inputs=[tensor])


def raw(data: bytes, **more: Any) -> Any:
    made = request(**more)
    made.raw_input_contents.append(data)
    return made


def refused(stub: Any, given: Any, key: str) -> tuple[str, str, str]:
    """Status, code and field of a refusal."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(given, metadata=auth(key), timeout=10)
    trailer = dict(caught.value.trailing_metadata())
    return (
        caught.value.code().name,
        trailer.get("meuse-code", ""),
        trailer.get("meuse-field", ""),
    )


def test_server_and_model_metadata(platform: Platform, stub: Any) -> None:
    """What metadata and readiness say."""
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ServerMetadata(pb.ServerMetadataRequest()).name == "meuse"
    key = auth(platform.key)
    assert stub.ModelReady(pb.ModelReadyRequest(name="double", version="3"), metadata=key).ready
    got = stub.ModelMetadata(pb.ModelMetadataRequest(name="blue/shared"), metadata=key)
    assert (got.name, list(got.versions), got.platform) == ("blue/shared", ["1"], "onnx")
    assert (got.inputs[0].name, got.inputs[0].datatype, list(got.inputs[0].shape)) == (
        "x", "FP32", [-1, 2],
    )  # fmt: skip
    assert got.outputs[0].name == "y"


@pytest.mark.parametrize("path", METHODS)
def test_every_method_is_guarded(platform: Platform, path: str) -> None:
    """No key, a wrong key, a key without the scope, another tenant's key."""
    method = METHODS[path]
    given = method.request()
    for field in ("name", "model_name"):
        if field in given.DESCRIPTOR.fields_by_name:
            setattr(given, field, "acme/digits")
    expected = {
        None: "UNAUTHENTICATED",
        "wrong": "UNAUTHENTICATED",
        platform.no_infer: "PERMISSION_DENIED",
        platform.blue: "NOT_FOUND",
    }
    with grpc.insecure_channel(platform.worker.grpc) as channel:
        call = channel.stream_stream(path)  # the same on the wire as a unary call
        for key, status in expected.items():
            metadata = auth(key) if key else ()
            answers = call(iter([given.SerializeToString()]), metadata=metadata, timeout=10)
            if method.scope == "public":
                assert next(answers) is not None
                answers.cancel()
                continue
            if key == platform.blue and (said := blue_sees(path)) is not None:
                first = method.response.FromString(next(answers))
                assert said in str(first)
                assert "acme" not in str(first).replace("acme/digits", "")
                answers.cancel()
                continue
            with pytest.raises(grpc.RpcError) as caught:
                next(answers)
            assert caught.value.code().name == status


def blue_sees(path: str) -> str | None:
    """What a method shows of another tenant's model where it is not a status: nothing."""
    name = path.split("/")[2]
    return {
        "ModelStreamInfer": "there is no model",
        "RepositoryIndex": "shared",
        "ServerReflectionInfo": "asks for nothing",
    }.get(name)


def test_the_table_is_the_services() -> None:
    """Every method of every service has its line, and its messages are those of the service."""
    described = {}
    for file in (pb.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            for method in service.methods:
                described[f"/{service.full_name}/{method.name}"] = (
                    method.input_type.full_name, method.output_type.full_name
                )  # fmt: skip
    served = {
        path: (m.request.DESCRIPTOR.full_name, m.response.DESCRIPTOR.full_name)
        for path, m in METHODS.items()
        if "v1alpha" not in path
    }
    assert described == served


def test_the_numbers_are_tritons() -> None:
    """Every field of ours that NVIDIA's proto has, has its number, type and label there."""
    theirs = triton.service_pb2.DESCRIPTOR.message_types_by_name
    compared = 0
    for name, message in pb.DESCRIPTOR.message_types_by_name.items():
        for ours, other in [(message, theirs[name])] + [
            (nested, theirs[name].nested_types_by_name[nested.name])
            for nested in message.nested_types
            if nested.name != "PropertiesEntry"
        ]:
            for field in ours.fields:
                if field.name == "properties":
                    continue  # the standard's own
                same = other.fields_by_name[field.name]
                assert (field.number, field.type) == (same.number, same.type), field.full_name
                assert field.is_repeated == same.is_repeated
                compared += 1
    assert compared > 80


def test_a_method_outside_the_table_is_not_served(platform: Platform) -> None:
    """Deny by default."""
    with grpc.insecure_channel(platform.worker.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelConfig")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", metadata=auth(platform.key))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_typed_and_raw_contents(platform: Platform, stub: Any) -> None:
    """Answers come as the request did; the id comes back; it is metered as gRPC."""
    key = auth(platform.key)
    given = request(fp32_contents=[1, 2])
    given.id = "q"
    got = stub.ModelInfer(given, metadata=key)
    assert (got.model_name, got.model_version, got.id) == ("double", "2", "q")
    assert list(got.outputs[0].contents.fp32_contents) == [2, 4]
    assert not got.raw_output_contents
    given = raw(np.array([[1, 2]], np.float32).tobytes())
    given.model_version = "3"
    got = stub.ModelInfer(given, metadata=key)
    assert np.frombuffer(got.raw_output_contents[0], np.float32).tolist() == [1, 2]
    record = platform.rig.records()[-1]
    assert (record.protocol, record.version, record.status) == ("oip-grpc", "double:3", "ok")


@pytest.mark.parametrize(
    ("model", "datatype", "contents", "expected"),
    [
        ("ints", "INT8", {"int_contents": [-128, 127]}, "int_contents"),
        ("bools", "BOOL", {"bool_contents": [True, False]}, "bool_contents"),
    ],
)
def test_other_datatypes(
    platform: Platform, stub: Any, model: str, datatype: str, contents: Any, expected: str
) -> None:
    """Integers and booleans in their own fields."""
    got = stub.ModelInfer(request(model, datatype, **contents), metadata=auth(platform.key))
    assert list(getattr(got.outputs[0].contents, expected)) == contents[expected]


def test_half_floats_are_raw(platform: Platform, stub: Any) -> None:
    """FP16 has no typed field: in and out it is raw."""
    data = np.array([1.5, -2], np.float16).tobytes()
    given = raw(data, model="halves", datatype="FP16", shape=(2,))
    got = stub.ModelInfer(given, metadata=auth(platform.key))
    assert got.raw_output_contents[0] == data
    given = request("halves", "FP16", (1,), fp32_contents=[1])
    assert refused(stub, given, platform.key)[2] == "inputs[0].datatype"


def test_strings_are_bytes(platform: Platform, stub: Any) -> None:
    """BYTES, typed and raw: answers come as the request did."""
    words = [b"", b"a", "né".encode()]
    given = request("texts", "BYTES", (3,), bytes_contents=words)
    got = stub.ModelInfer(given, metadata=auth(platform.key))
    assert list(got.outputs[0].contents.bytes_contents) == words
    data = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    got = stub.ModelInfer(
        raw(data, model="texts", datatype="BYTES", shape=(3,)), metadata=auth(platform.key)
    )
    assert (got.outputs[0].datatype, got.raw_output_contents[0]) == ("BYTES", data)
    given = request("texts", "BYTES", (1,), bytes_contents=[b"\xff"])
    assert refused(stub, given, platform.key) == ("INVALID_ARGUMENT", "invalid_input", "inputs")


@pytest.mark.parametrize(
    ("data", "shape"),
    [(b"", (1,)), (b"\1\0\0", (1,)), (b"\2\0\0\0a", (1,)), (b"\xff\xff\xff\xffabcd", (2,)),
     (b"\0\0\0\0", (2**40,)), (b"\1\0\0\0ab", (1,)), (b"x", (0,))],
)  # fmt: skip
def test_strings_that_do_not_fit(
    platform: Platform, stub: Any, data: bytes, shape: tuple[int, ...]
) -> None:
    """Raw BYTES cut short, with bytes left over, or of a shape that they cannot have."""
    given = raw(data, model="texts", datatype="BYTES", shape=shape)
    assert refused(stub, given, platform.key)[1:] == ("invalid_input", "raw_input_contents[0]")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (request(fp32_contents=[1]), "inputs[0].contents.fp32_contents"),
        (request(fp64_contents=[1, 2]), "inputs[0].contents.fp32_contents"),
        (request(datatype="FP64", fp64_contents=[1, 2]), "inputs[0].datatype"),
        (request(datatype="BYTES", bytes_contents=[b"a", b"b"]), "inputs[0].datatype"),
        (request(shape=(2,), fp32_contents=[1, 2]), "inputs[0].shape"),
        (request(shape=(-1, -2), fp32_contents=[1, 2]), "inputs[0].shape"),
        (request("ints", "INT8", int_contents=[1, 200]), "inputs[0].contents.int_contents[1]"),
        (raw(b"1234567"), "raw_input_contents[0]"),
        (raw(b"\0\2", model="bools", datatype="BOOL"), "raw_input_contents[0]"),
        (raw(b"", shape=(0, 2**62, 8)), "inputs[0].shape"),
        (request(shape=(0, 2**62, 8)), "inputs[0].shape"),
        (pb.ModelInferRequest(model_name="double", raw_input_contents=[b"a"]),
         "raw_input_contents"),
        (pb.ModelInferRequest(model_name="double"), "inputs"),
    ],
)  # fmt: skip
def test_bad_inputs(platform: Platform, stub: Any, given: Any, field: str) -> None:
    """Each is INVALID_ARGUMENT and names its field in the trailing metadata."""
    assert refused(stub, given, platform.key) == ("INVALID_ARGUMENT", "invalid_input", field)


def test_bad_names(platform: Platform, stub: Any) -> None:
    """Unknown models, versions and outputs."""
    ok = {"fp32_contents": [1, 2]}
    given = request("absent", **ok)
    assert refused(stub, given, platform.key) == ("NOT_FOUND", "not_found", "model")
    given = request(**ok)
    given.model_version = "9"
    assert refused(stub, given, platform.key) == ("NOT_FOUND", "not_found", "version")
    given = request(**ok)
    given.outputs.add(name="q")
    assert refused(stub, given, platform.key)[2] == "outputs[0].name"
    given = request(**ok)
    given.outputs.add(name="y"), given.outputs.add(name="y")
    assert refused(stub, given, platform.key)[2] == "outputs[1].name"
    given = request(**ok)
    given.inputs[0].parameters["shared_memory_region"].string_param = "r"
    assert refused(stub, given, platform.key)[2] == "inputs[0].parameters.shared_memory_region"
    given = raw(b"12345678")
    given.inputs[0].contents.fp32_contents.append(1)
    assert refused(stub, given, platform.key)[2] == "inputs[0].contents"
    assert refused(stub, request("", **ok), platform.key)[1:] == ("invalid_field", "model")


def test_the_message_limit_is_the_body_limit(platform: Platform, stub: Any) -> None:
    """A message over max_body_bytes is refused by size."""
    given = raw(b"\0" * (1024 * 1024 + 1))
    assert refused(stub, given, platform.key)[0] == "RESOURCE_EXHAUSTED"


def test_the_key_is_checked_before_the_message_is_received(platform: Platform, stub: Any) -> None:
    """Without a good key it is the key that is refused, however large the message is."""
    given = raw(b"\0" * (1024 * 1024 + 1))
    assert refused(stub, given, "wrong")[:2] == ("UNAUTHENTICATED", "unauthenticated")
    assert refused(stub, given, platform.no_infer)[:2] == ("PERMISSION_DENIED", "forbidden")


def test_a_denied_call_need_not_send_its_message(platform: Platform) -> None:
    """A call that announces a message and never sends it holds nothing."""
    sent = threading.Event()

    def messages() -> Iterator[bytes]:
        sent.wait(20)
        yield b""

    with grpc.insecure_channel(platform.worker.grpc) as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        future = call.future(messages(), metadata=auth("wrong"), timeout=10)
        assert future.code() is grpc.StatusCode.UNAUTHENTICATED
        sent.set()


def test_tritonclient(platform: Platform) -> None:
    """NVIDIA's client, in a process that has also imported our stubs."""
    client = triton.InferenceServerClient(platform.worker.grpc)
    headers = {"authorization": f"Bearer {platform.key}"}
    try:
        assert client.is_server_live()
        assert client.is_model_ready("scores", headers=headers)
        assert client.get_model_metadata("scores", headers=headers).platform == "onnx"
        given = triton.InferInput("x", [2, 64], "FP32")
        given.set_data_from_numpy(X)
        result = client.infer("scores", [given], request_id="9", headers=headers)
        np.testing.assert_allclose(result.as_numpy("y"), X @ models.WEIGHTS, rtol=1e-4)
        assert result.get_response().id == "9"
        with pytest.raises(triton.InferenceServerException, match="not valid"):
            client.infer("scores", [given], headers={"authorization": "Bearer x"})
    finally:
        client.close()


def test_generated_files_are_up_to_date() -> None:
    """`tools/generate_wire.py --check` finds no drift."""
    script = ROOT / "tools" / "generate_wire.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_both_protos_live_in_one_process() -> None:
    """Our descriptors are in a pool of their own, in either order of import."""
    for first, second in (
        ("meuse.gateway.wire.inference_pb2", "tritonclient.grpc"),
        ("tritonclient.grpc", "meuse.gateway.wire.inference_pb2"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", f"import {first}, {second}"],
            env={"PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
