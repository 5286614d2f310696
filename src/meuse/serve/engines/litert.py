"""LiteRT on the CPU. The only module that imports ai_edge_litert.

Runs .tflite files of the operators that LiteRT itself has: no delegate is loaded and no custom
operator known, so nothing in a file can name code. Names are those of the file's one signature,
or of its tensors where it has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature, TensorSpec

_DATATYPES = {
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.int8): "INT8",
    np.dtype(np.int16): "INT16",
    np.dtype(np.int32): "INT32",
    np.dtype(np.int64): "INT64",
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.uint16): "UINT16",
    np.dtype(np.uint32): "UINT32",
    np.dtype(np.uint64): "UINT64",
    np.dtype(np.float16): "FP16",
    np.dtype(np.float32): "FP32",
    np.dtype(np.float64): "FP64",
}


class LiteRtEngine:
    """An interpreter with tensors for the batch that came last (`core.ports.Engine`).

    A batch of another size lays its tensors out anew. A running `run` cannot be cancelled.
    """

    def __init__(self, model: bytes, threads: int = 1) -> None:
        if not model:
            raise _refusal("the file is empty")
        try:
            self._interpreter = Interpreter(model_content=model, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise _refusal(str(error)) from None
        taken, given = _named(self._interpreter)
        self._inputs = {name: int(detail["index"]) for name, detail in taken.items()}
        self._outputs = {name: int(detail["index"]) for name, detail in given.items()}
        self._shapes = {name: tuple(detail["shape"]) for name, detail in taken.items()}
        self._signature = Signature(
            tuple(_spec(name, detail) for name, detail in taken.items()),
            tuple(_spec(name, detail) for name, detail in given.items()),
        )

    @property
    def signature(self) -> Signature:
        return self._signature

    def run(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One batch. Raises what the interpreter raises. The outputs are copies."""
        shapes = {name: value.shape for name, value in inputs.items()}
        if shapes != self._shapes:
            self._lay_out(shapes)
        for name, value in inputs.items():
            self._interpreter.set_tensor(self._inputs[name], value)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(at) for name, at in self._outputs.items()}

    def _lay_out(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes.keys() != self._inputs.keys():
            raise ValueError(f"the inputs are {', '.join(self._inputs)}")
        self._shapes = {}  # whatever fails now, the next run begins from scratch
        for name, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._inputs[name], shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _named(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs by name, each in the graph's own order."""
    taken, given = interpreter.get_input_details(), interpreter.get_output_details()
    signatures = interpreter.get_signature_list()
    if len(signatures) > 1:
        raise _refusal(f"it has {len(signatures)} signatures: {', '.join(sorted(signatures))}")
    names: dict[int, str] = {}
    if signatures:
        runner = interpreter.get_signature_runner()
        for found in (runner.get_input_details(), runner.get_output_details()):
            names |= {int(detail["index"]): name for name, detail in found.items()}
    result = tuple(
        {names.get(int(d["index"]), d["name"]): d for d in details} for details in (taken, given)
    )
    if [len(each) for each in result] != [len(taken), len(given)] or not given:
        raise _refusal("its inputs or outputs have no names of their own")
    return result[0], result[1]


def _spec(name: str, detail: dict[str, Any]) -> TensorSpec:
    dtype = np.dtype(detail["dtype"])
    if dtype not in _DATATYPES:
        raise MeuseError(
            Code.INVALID_DATA,
            f"{name!r} is {dtype}, which cannot be served",
            field=name,
            hint="Inputs and outputs must be tensors of numbers or booleans.",
        )
    open_shape = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return TensorSpec(name, _DATATYPES[dtype], tuple(int(n) for n in open_shape))


def _refusal(reason: str) -> MeuseError:
    return MeuseError(
        Code.INVALID_DATA,
        f"not a model that LiteRT can load: {' '.join(reason.split())[:500]}",
        field="model",
    )
