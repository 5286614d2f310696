"""ONNX Runtime on the CPU. The only module that imports onnxruntime for serving."""

from __future__ import annotations

from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature, TensorSpec
from meuse.serve import strings

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxEngine:
    """A session over a single-file model (`core.ports.Engine`)."""

    def __init__(self, model: bytes, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Spinning threads would take the cores from gateway workers and other replicas.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Given bytes, the runtime looks for external data in the working folder: a model
        # could read files of ours. A folder that cannot exist makes every such model fail.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", "/dev/null/external-data"
        )
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class
            raise _refusal(str(error)) from None
        self._has_text = any(
            node.type == "tensor(string)"
            for node in (*self._session.get_inputs(), *self._session.get_outputs())
        )
        # Kept by the session for a retry that never comes; as large as the model.
        self._session._model_bytes = None
        self._running: Any = None
        self._outputs = [node.name for node in self._session.get_outputs()]
        # The public `run` looks over its arguments first, a quarter of what a small model takes;
        # the runtime itself refuses what is wrong with them.
        self._run = self._session._sess.run
        self._signature = Signature(
            tuple(_spec(node) for node in self._session.get_inputs()),
            tuple(_spec(node) for node in self._session.get_outputs()),
        )

    @property
    def signature(self) -> Signature:
        return self._signature

    def run(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One batch. Raises whatever the runtime raises."""
        if self._has_text:
            inputs = {name: strings.text(name, value) for name, value in inputs.items()}
        options = self._running = ort.RunOptions()  # of this run alone: a late cancel hits no other
        try:
            results = self._run(self._outputs, inputs, options)
        finally:
            self._running = None
        outputs = dict(zip(self._outputs, results, strict=True))
        if self._has_text:
            for name, value in outputs.items():
                if value.dtype is strings.OBJECT:
                    outputs[name] = strings.encoded(value)
        return outputs

    def cancel(self) -> None:
        """End a running `run` with an error before its next node, from another thread."""
        running = self._running
        if running is not None:
            running.terminate = True


def _spec(node: Any) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise MeuseError(
            Code.INVALID_DATA,
            f"{node.name!r} is {node.type}, which cannot be served",
            field=node.name,
            hint="Inputs and outputs must be tensors of numbers, booleans or strings.",
        )
    return TensorSpec(
        node.name, datatype, tuple(n if isinstance(n, int) else -1 for n in node.shape)
    )


def _refusal(reason: str) -> MeuseError:
    if "external data" in reason.lower():
        return MeuseError(
            Code.INVALID_DATA,
            "the model keeps weights in external files",
            field="model",
            hint="Save it as a single ONNX file.",
        )
    return MeuseError(
        Code.INVALID_DATA, f"not a model that ONNX Runtime can load: {reason[:500]}", field="model"
    )
