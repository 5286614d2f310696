"""OpenVINO on the CPU. The only module that imports openvino.

Runs single-file ONNX and OpenVINO IR; an IR artifact is a zip of one .xml and one .bin.
Models come as bytes, so nothing in them can name a file, and no extension is ever loaded:
an operation that OpenVINO does not know is refused.
"""

from __future__ import annotations

import io
import sys
import time
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature, TensorSpec

# The package loads its model converter when it finds it: 140 MB and 0.15 s for nothing here.
sys.modules["openvino.tools"] = None  # type: ignore[assignment]
try:
    import openvino as ov
    from openvino.frontend import FrontEndManager
finally:
    del sys.modules["openvino.tools"]

_DATATYPES = {
    "boolean": "BOOL",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
}

_LONG_S = 1e-3
"""Runs that took less are not worth cancelling: they are done in this thread, 30 µs faster."""


class OpenVinoEngine:
    """A compiled model with one infer request (`core.ports.Engine`).

    `cancel` takes effect between two operations of the graph, not inside a loop of it.
    """

    def __init__(self, model: bytes, format: str = "onnx", threads: int = 1) -> None:
        core = ov.Core()
        graph, outputs = read_onnx(model) if format == "onnx" else _read_ir(core, model)
        if not outputs:  # what an empty file comes to
            raise _refusal("it has no outputs")
        inputs = [port.get_any_name() for port in graph.inputs]
        self._signature = Signature(
            tuple(_spec(*pair) for pair in zip(inputs, graph.inputs, strict=True)),
            tuple(_spec(*pair) for pair in zip(outputs, graph.outputs, strict=True)),
        )
        try:
            compiled = core.compile_model(graph, "CPU", _options(threads))
        except Exception as error:  # the package raises RuntimeError for everything
            raise _refusal(str(error)) from None
        self._outputs = outputs
        self._request = compiled.create_infer_request()
        self._took = 0.0

    @property
    def signature(self) -> Signature:
        return self._signature

    def run(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One batch. Raises what the runtime raises. The outputs are copies."""
        started = time.perf_counter()
        if self._took < _LONG_S:
            self._request.infer(inputs)
        else:  # only what runs outside this call can be cancelled
            self._request.start_async(inputs)
            self._request.wait()
        self._took = time.perf_counter() - started
        # The next run writes into the same buffers.
        return {
            name: np.array(self._request.get_output_tensor(i).data)
            for i, name in enumerate(self._outputs)
        }

    def cancel(self) -> None:
        """End a running `run` with an error, from another thread."""
        self._request.cancel()


def _options(threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Processors with bfloat16 units would round to 8 bits of mantissa without being asked.
        "INFERENCE_PRECISION_HINT": "f32",
        # Every replica would pin its threads to the same first cores.
        "ENABLE_CPU_PINNING": False,
    }


def read_onnx(model: bytes) -> tuple[Any, list[str]]:
    """The graph and the names of its outputs, by the ONNX reader and no other."""
    if b"location" in model:
        _refuse_external_data(model)
    reader = FrontEndManager().load_by_framework("onnx")
    try:
        given = reader.load(io.BytesIO(model))
        outputs = [place.get_names()[0] for place in given.get_outputs()]
        return reader.convert(given), outputs
    except Exception as error:
        raise _refusal(str(error)) from None


def _refuse_external_data(model: bytes) -> None:
    """OpenVINO would read the files of the working folder that a model names."""
    import onnx
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    try:
        proto = onnx.load_from_string(model)
    except Exception as error:
        raise _refusal(str(error)) from None
    if any(uses_external_data(tensor) for tensor in _get_all_tensors(proto)):
        raise MeuseError(
            Code.INVALID_DATA,
            "the model keeps weights in external files",
            field="model",
            hint="Save it as a single ONNX file.",
        )


def _read_ir(core: Any, model: bytes) -> tuple[Any, list[str]]:
    graph_text, weights = _unzip(model)
    # Anything but an IR would go to whichever reader takes it.
    if not graph_text.lstrip().startswith((b"<?xml", b"<net")):
        raise _refusal("the .xml file is not XML")
    try:
        graph = core.read_model(graph_text, weights)
        return graph, [port.get_any_name() for port in graph.outputs]
    except Exception as error:
        raise _refusal(str(error)) from None


def _unzip(model: bytes) -> tuple[bytes, bytes]:
    """The .xml and the .bin; a stored or deflated zip of just these two."""
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as file:
            entries = {
                entry.filename.rpartition(".")[2].lower(): entry for entry in file.infolist()
            }
            if len(file.infolist()) != 2 or set(entries) != {"xml", "bin"}:
                raise _refusal("the zip does not hold just one .xml and one .bin")
            # Weights hardly shrink: what grows by more is made to fill the memory.
            if sum(entry.file_size for entry in entries.values()) > 20 * len(model) + (1 << 20):
                raise _refusal("the zip unpacks to more than 20 times its size")
            return file.read(entries["xml"]), file.read(entries["bin"])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise _refusal(f"the zip cannot be read: {error}") from None
    except zipfile.zlib.error as error:  # type: ignore[attr-defined]
        raise _refusal(f"the zip cannot be read: {error}") from None


def _spec(name: str, port: Any) -> TensorSpec:
    kind = port.get_element_type().get_type_name()
    datatype = _DATATYPES.get(kind)
    if datatype is None or port.get_partial_shape().rank.is_dynamic:
        raise MeuseError(
            Code.INVALID_DATA,
            f"{name!r} is {kind} {port.get_partial_shape()}, which cannot be served",
            field=name,
            hint="Inputs and outputs must be tensors of numbers or booleans, of known rank.",
        )
    shape = port.get_partial_shape()
    return TensorSpec(name, datatype, tuple(-1 if n.is_dynamic else n.get_length() for n in shape))


def _refusal(reason: str) -> MeuseError:
    lines = [line for line in reason.splitlines() if line and not line.startswith("Exception from")]
    text = " ".join(lines)[:500]
    return MeuseError(
        Code.INVALID_DATA, f"not a model that OpenVINO can load: {text}", field="model"
    )
