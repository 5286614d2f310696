"""What is served and asked: a model with one example, and requests in each dialect."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from meuse.gateway.wire import inference_pb2 as wire

Array = NDArray[Any]
_OIP = {"float32": "FP32", "int64": "INT64"}


@dataclass(frozen=True, slots=True)
class Model:
    """An ONNX file with an example of its inputs and the engine's own answer to it."""

    name: str
    path: Path
    inputs: dict[str, Array]
    output: str
    expected: Array

    @property
    def datatypes(self) -> dict[str, str]:
        return {name: _OIP[value.dtype.name] for name, value in self.inputs.items()}


@dataclass(frozen=True, slots=True)
class Request:
    """One prepared HTTP request; `answer` says how its answer is read."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: str = "simple"  # simple | oip | raw

    def with_headers(self, more: Mapping[str, str]) -> Request:
        return replace(self, headers={**self.headers, **more})


def open_model(name: str, onnx: bytes, inputs: Mapping[str, Array], folder: Path) -> Model:
    """Write the file and ask the engine itself what the right answer is."""
    path = folder / f"{name}.onnx"
    path.write_bytes(onnx)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    output = session.get_outputs()[0].name
    return Model(name, path, dict(inputs), output, session.run([output], dict(inputs))[0])


def simple(path: str, model: Model) -> Request:
    """{"input_data": rows}, or rows by input name where the model has several inputs."""
    rows = {name: value.tolist() for name, value in model.inputs.items()}
    given = next(iter(rows.values())) if len(rows) == 1 else rows
    return Request(path, _json({"input_data": given}), {"content-type": "application/json"})


def raw(path: str, model: Model) -> Request:
    (value,) = model.inputs.values()
    return Request(path, value.tobytes(), {"content-type": "application/octet-stream"}, "raw")


def oip_json(path: str, model: Model) -> Request:
    inputs = [
        {
            "name": name,
            "shape": list(value.shape),
            "datatype": model.datatypes[name],
            "data": value.ravel().tolist(),
        }
        for name, value in model.inputs.items()
    ]
    body = _json({"inputs": inputs})
    return Request(path, body, {"content-type": "application/json"}, "oip")


def oip_binary(path: str, model: Model) -> Request:
    """The binary tensor extension, both ways."""
    inputs = [
        {
            "name": name,
            "shape": list(value.shape),
            "datatype": model.datatypes[name],
            "parameters": {"binary_data_size": value.nbytes},
        }
        for name, value in model.inputs.items()
    ]
    head = _json({"inputs": inputs, "parameters": {"binary_data_output": True}})
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(head)),
    }
    body = head + b"".join(value.tobytes() for value in model.inputs.values())
    return Request(path, body, headers, "oip-binary")


def grpc_message(model: Model, deployment: str) -> bytes:
    """A `ModelInferRequest` with raw contents."""
    request = wire.ModelInferRequest(model_name=deployment)
    for name, value in model.inputs.items():
        request.inputs.add(name=name, datatype=model.datatypes[name], shape=value.shape)
        request.raw_input_contents.append(value.tobytes())
    return bytes(request.SerializeToString())


def read(request: Request, body: bytes, headers: Mapping[str, str], model: Model) -> Array:
    """The first output of an answer."""
    shape = model.expected.shape
    if request.answer == "raw":
        return np.frombuffer(body, model.expected.dtype).reshape(shape)
    if request.answer == "oip-binary" and "inference-header-content-length" in headers:
        tail = body[int(headers["inference-header-content-length"]) :]
        return np.frombuffer(tail[: model.expected.nbytes], model.expected.dtype).reshape(shape)
    given = json.loads(body)
    if request.answer == "simple":
        rows = given if isinstance(given, list) else given["output_data"]
        return np.array(rows, np.float32)
    output = next(o for o in given["outputs"] if o["name"] == model.output)
    return np.array(output["data"], np.float32).reshape(shape)


def on_disk(request: Request, folder: Path) -> Path:
    """The body as a file, for clients that are other programs."""
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".body", delete=False) as file:
        file.write(request.body)
    return Path(file.name)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
