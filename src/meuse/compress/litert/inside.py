"""The converter's main program: `python -m meuse.compress.litert.inside`, in a sandbox, by the
interpreter of TensorFlow's toolchain.

Takes `order.json` (numbers, names of the rows' inputs), `model.onnx` and, for integers,
`rows.npz` to calibrate on; leaves
`model.tflite` and what converted it in `outcome.json`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from meuse.compress.litert.operators import InexpressibleError, Operators, Value
from meuse.core.errors import Code, MeuseError
from meuse.runtime.sandbox import inside

MODEL, ROWS, RESULT, SAVED = "model.onnx", "rows.npz", "model.tflite", "saved"
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1",
}  # fmt: skip
_BATCH = 8


def main() -> int:
    return inside.main(work)


def work(order: dict[str, Any]) -> dict[str, Any]:
    os.environ.update(_QUIET)
    import tensorflow as tf

    graph = onnx.load(MODEL).graph
    asked = Graph(tf, graph)
    asked.check()
    signature = [
        tf.TensorSpec(asked.shape(value), asked.kind(value), name=value.name)
        for value in graph.input
    ]
    module = tf.Module()
    module.function = tf.function(asked, input_signature=signature, autograph=False)
    # By way of a SavedModel: nothing else keeps the names of inputs and outputs.
    tf.saved_model.save(module, SAVED, module.function.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_saved_model(SAVED)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if order["numbers"] != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if order["numbers"] == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if order["numbers"] == "int8":
        converter.representative_dataset = lambda: _rows(order["rows"])
    try:
        made = converter.convert()
    except Exception as error:
        raise _refuse(_reason(error)) from None
    names = ([value.name for value in graph.input], [value.name for value in graph.output])
    Path(RESULT).write_bytes(in_order(made, *names))
    return {"tensorflow": tf.__version__}


def in_order(model: bytes, inputs: list[str], outputs: list[str]) -> bytearray:
    """The same file with the inputs and outputs of its graph in this order: the converter keeps
    their names in the signature and leaves their order to chance."""
    from tensorflow.lite.python import schema_py_generated as schema

    changed = bytearray(model)
    file = schema.Model.GetRootAs(changed, 0)
    graph, signature = file.Subgraphs(0), file.SignatureDefs(0)
    for names, places, count, entry in (
        (inputs, graph.InputsAsNumpy(), signature.InputsLength(), signature.Inputs),
        (outputs, graph.OutputsAsNumpy(), signature.OutputsLength(), signature.Outputs),
    ):
        named = {entry(i).Name().decode(): entry(i).TensorIndex() for i in range(count)}
        places[:] = [named[name] for name in names]  # a view of the file itself
    return changed


class Graph:
    """An ONNX graph as a function of TensorFlow: inputs in their order → {output: tensor}."""

    def __init__(self, tf: Any, graph: onnx.GraphProto) -> None:
        self._tf, self._graph = tf, graph
        self._operators = Operators(tf)
        self._constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}

    def check(self) -> None:
        """Raises `invalid_data` that names every operator without a counterpart."""
        known = self._operators.table
        lacking = sorted(
            {
                f"{node.domain}.{node.op_type}" if node.domain else node.op_type
                for node in self._graph.node
                if node.op_type not in known and node.op_type != "Constant"
            }
        )
        texts = [v.name for v in self._graph.input if self.kind(v) is None]
        if lacking or texts:
            told = [*lacking, *(f"{name} (an input of texts)" for name in texts)]
            raise _refuse(f"LiteRT cannot express {', '.join(told)}")

    def kind(self, value: onnx.ValueInfoProto) -> Any:
        """The type of its elements, None for texts."""
        number = value.type.tensor_type.elem_type
        if number == onnx.TensorProto.STRING:
            return None
        return self._tf.as_dtype(helper.tensor_dtype_to_np_dtype(number))

    def shape(self, value: onnx.ValueInfoProto) -> list[int | None]:
        sizes = value.type.tensor_type.shape.dim
        return [size.dim_value if size.HasField("dim_value") else None for size in sizes]

    def __call__(self, *inputs: Any) -> dict[str, Any]:
        known: dict[str, Value] = {n: Value(v) for n, v in self._constants.items()}
        for value, given in zip(self._graph.input, inputs, strict=True):
            known[value.name] = Value(given)
        for node in self._graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                known[node.output[0]] = Value(_constant(attributes))
                continue
            given = [known[name] if name else None for name in node.input]
            try:
                made = self._operators.table[node.op_type](attributes, given)
            except InexpressibleError as error:
                raise _refuse(f"LiteRT cannot express {node.op_type} {error}") from None
            except (TypeError, ValueError) as error:
                raise _refuse(f"LiteRT cannot express {node.op_type}: {_line(error)}") from None
            known[node.output[0]] = made
        return {
            value.name: self._tf.identity(self._operators.first(known[value.name]))
            for value in self._graph.output
        }


def _constant(attributes: dict[str, Any]) -> np.ndarray[Any, Any]:
    if "value" in attributes:
        return numpy_helper.to_array(attributes["value"])
    ((kind, value),) = attributes.items()
    if kind.startswith("value_string"):
        raise _refuse("LiteRT cannot express Constant of texts")
    return np.array(value, np.int64 if "int" in kind else np.float32)


def _rows(names: list[str]) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    with np.load(ROWS, allow_pickle=False) as file:
        arrays = [file[f"a{index}"] for index in range(len(names))]
    for start in range(0, len(arrays[0]), _BATCH):
        yield {n: array[start : start + _BATCH] for n, array in zip(names, arrays, strict=True)}


def _reason(error: Exception) -> str:
    """What the converter lacks, by the names of its operators."""
    text = str(error)
    found = sorted(set(re.findall(r"tf\.(\w+)\(", text)))
    if found:
        return f"LiteRT has no operator for TensorFlow's {', '.join(found)}"
    return f"TensorFlow cannot convert the graph to LiteRT: {_line(error)}"


def _refuse(message: str) -> MeuseError:
    return MeuseError(
        Code.INVALID_DATA, message, field="model", hint="Use openvino, or serve the ONNX file."
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


if __name__ == "__main__":
    raise SystemExit(main())
