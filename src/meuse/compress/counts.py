"""What an exported ONNX file holds: its constants, counted as they stand there.

Knows ONNX graphs; knows no engine, no method and no network. A quantized weight is counted by
its codes: zero is the code of its zero point, distinct values are distinct codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

_T = onnx.TensorProto
_FLOATS = frozenset({_T.FLOAT, _T.FLOAT16, _T.BFLOAT16, _T.DOUBLE})
_CODES = frozenset({_T.INT8, _T.UINT8, _T.INT4, _T.UINT4, _T.INT16, _T.UINT16, _T.INT32})

LAYERS = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "Gather": (0,),
    "ConvInteger": (1,), "MatMulInteger": (0, 1), "QLinearConv": (3,), "QLinearMatMul": (0, 3),
    "MatMulNBits": (1,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2), "Einsum": (0, 1),
    "DynamicQuantizeMatMul": (1,), "MatMulIntegerToFloat": (1,),
}  # fmt: skip
"""Which inputs of an operation may be a layer's weight."""
_SCALES = {
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3), "QLinearConv": (1, 2, 4, 5, 6, 7), "MatMulNBits": (2, 3, 4),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7), "DynamicQuantizeMatMul": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5), "Clip": (1, 2), "Pad": (1, 2, 3), "Resize": (1, 2, 3),
}  # fmt: skip
"""Which inputs are how numbers are read, or bounds: no parameters."""
_PASS = ("DequantizeLinear", "Cast", "Transpose", "Reshape", "Identity", "Unsqueeze", "Squeeze")


@dataclass(frozen=True, slots=True)
class Layer:
    """The weight of one layer: `values` of them, by name and shape as the file has them.

    `bits`: of each stored value. `distinct` counts stored values, zero included.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    values: int
    nonzeros: int
    distinct: int
    bits: int


@dataclass(frozen=True, slots=True)
class Counts:
    """`parameters`: weights, biases and all other constants that are computed with (not shapes,
    indices, scales and zero points); `nonzeros` of them differ from 0."""

    parameters: int
    nonzeros: int
    layers: tuple[Layer, ...]


def count(model: bytes | onnx.ModelProto) -> Counts:
    """Count what the constants of an ONNX model hold."""
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else model
    constants, nodes = _constants(proto), list(_nodes(proto.graph))
    aside = {
        node.input[i]
        for node in nodes
        for i in _SCALES.get(node.op_type, ())
        if i < len(node.input)
    }
    zero_points = _zero_points(nodes, constants)
    scaled = _scaled(nodes, constants)
    aside |= {node.input[1] for node in scaled}
    layers = _layers(nodes, scaled, constants)
    parameters = nonzeros = 0
    found: dict[str, Layer] = {}
    for name, tensor in constants.items():
        weight = layers.get(name)
        read = tensor.data_type in _FLOATS or name in zero_points or weight is not None
        if name in aside or not read or tensor.data_type not in _FLOATS | _CODES:
            continue
        values = _values(tensor, weight)
        if values is None:
            continue
        filled = int(np.count_nonzero(values != zero_points.get(name, 0)))
        parameters, nonzeros = parameters + values.size, nonzeros + filled
        if weight is not None and values.ndim > 1:
            found[name] = Layer(
                name, weight.op_type, tuple(values.shape), int(values.size), filled,
                len(np.unique(values)), _bits(tensor, weight),
            )  # fmt: skip
    ordered = [found[name] for name in layers if name in found]
    return Counts(parameters, nonzeros, tuple(ordered))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All of them, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _constants(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers and the tensors of `Constant` nodes, by name."""
    found: dict[str, onnx.TensorProto] = {}
    for graph in _graphs(proto.graph):
        found.update({tensor.name: tensor for tensor in graph.initializer})
        for node in graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        found[node.output[0]] = attribute.t
    return found


def _scaled(
    nodes: list[onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """Products that give codes, cast before, their scale: what DequantizeLinear does in one."""
    wide = {
        node.output[0]
        for node in nodes
        if node.op_type == "Cast"
        and node.input[0] in constants
        and constants[node.input[0]].data_type in _CODES
    }
    return [
        node
        for node in nodes
        if node.op_type == "Mul" and node.input[0] in wide and node.input[1] in constants
    ]


def _layers(
    nodes: list[onnx.NodeProto],
    scaled: list[onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
) -> dict[str, onnx.NodeProto]:
    """The weights of layers: name of the constant → the operation that computes with it."""
    passing = [*scaled, *(node for node in nodes if node.op_type in _PASS)]
    source = {node.output[0]: node.input[0] for node in passing}
    found: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        for index in LAYERS.get(node.op_type, ()):
            if index >= len(node.input):
                continue
            name = node.input[index]
            while name not in constants and name in source:
                name = source[name]
            numbers = name in constants and constants[name].data_type in _FLOATS | _CODES
            table = node.op_type != "Gather" or (
                numbers and len(constants[name].dims) > 1 and constants[name].data_type in _FLOATS
            )
            if numbers and table:
                found.setdefault(name, node)
    return found


def _zero_points(
    nodes: list[onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> dict[str, Any]:
    """Of each constant that is codes: the code of zero, shaped to compare with it."""
    found: dict[str, Any] = {}
    for node in nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            name = node.input[0]
            found[name] = 0
            if len(node.input) > 2 and node.input[2] in constants:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                found[name] = _along(numpy_helper.to_array(constants[node.input[2]]),
                                     constants[name], axis)  # fmt: skip
        places = {"ConvInteger": (1, 3), "MatMulInteger": (1, 3), "QLinearConv": (3, 5),
                  "QLinearMatMul": (3, 5), "DynamicQuantizeMatMul": (1, 3),
                  "MatMulIntegerToFloat": (1, 5)}.get(node.op_type)  # fmt: skip
        if places is not None and node.input[places[0]] in constants:
            name = node.input[places[0]]
            found[name] = 0
            if len(node.input) > places[1] and node.input[places[1]] in constants:
                axis = 0 if "Conv" in node.op_type else len(constants[name].dims) - 1
                found[name] = _along(numpy_helper.to_array(constants[node.input[places[1]]]),
                                     constants[name], axis)  # fmt: skip
        if node.op_type == "QLinearConv" and len(node.input) > 8 and node.input[8] in constants:
            found[node.input[8]] = 0
    return found


def _along(points: NDArray[Any], tensor: onnx.TensorProto, axis: int) -> NDArray[Any]:
    """Zero points of a scalar, of channels along `axis`, or of blocks along it."""
    shape = tuple(tensor.dims)
    if points.ndim == 0 or points.size == 1:
        return points.reshape(())
    if points.ndim == 1:
        wide = [1] * len(shape)
        wide[axis] = -1
        return points.reshape(wide)
    repeats = -(-shape[axis] // points.shape[axis])
    every = np.repeat(points, repeats, axis=axis)
    return every[tuple(slice(0, n) for n in shape)]


def _values(tensor: onnx.TensorProto, node: onnx.NodeProto | None) -> NDArray[Any] | None:
    """The stored values; those of packed integers one by one, shifted to a zero of 0."""
    if node is None or node.op_type != "MatMulNBits":
        return np.asarray(numpy_helper.to_array(tensor))
    options = {a.name: a.i for a in node.attribute}
    bits = options.get("bits", 4)
    if bits not in (4, 8):
        return None
    packed = np.asarray(numpy_helper.to_array(tensor)).reshape(options["N"], -1)
    codes = packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1)
    # Symmetric codes have their zero in the middle; others are rare enough to be counted so too.
    whole = codes.reshape(options["N"], -1)[:, : options["K"]]
    return whole.astype(np.int16) - (1 << (bits - 1))


def _bits(tensor: onnx.TensorProto, node: onnx.NodeProto) -> int:
    if node.op_type == "MatMulNBits":
        return next((a.i for a in node.attribute if a.name == "bits"), 4)
    if tensor.data_type in (_T.INT4, _T.UINT4):
        return 4
    return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
