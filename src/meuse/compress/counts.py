"""What an exported ONNX file holds: its constants, counted as they stand there.

Knows ONNX graphs; knows no engine, no method and no network. A quantized weight is counted by
its codes (`codes`): zero is the code of its zero point, distinct values are distinct codes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from meuse.compress import codes
from meuse.compress.codes import Constants

_T = onnx.TensorProto
_FLOATS = frozenset({_T.FLOAT, _T.FLOAT16, _T.BFLOAT16, _T.DOUBLE})
_CODES = frozenset({_T.INT8, _T.UINT8, _T.INT4, _T.UINT4, _T.INT16, _T.UINT16, _T.INT32})

LAYERS = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "Gather": (0,),
    "ConvInteger": (1,), "MatMulInteger": (0, 1), "QLinearConv": (3,), "QLinearMatMul": (0, 3),
    "MatMulNBits": (1,), "GatherBlockQuantized": (0,), "LSTM": (1, 2), "GRU": (1, 2),
    "RNN": (1, 2), "Einsum": (0, 1), "DynamicQuantizeMatMul": (1,), "MatMulIntegerToFloat": (1,),
}  # fmt: skip
"""Which inputs of an operation may be a layer's weight."""
_SCALES = {
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3), "QLinearConv": (1, 2, 4, 5, 6, 7), "MatMulNBits": (2, 3, 4),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7), "DynamicQuantizeMatMul": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5), "GatherBlockQuantized": (2, 3), "Clip": (1, 2),
    "Pad": (1, 2, 3), "Resize": (1, 2, 3),
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
    tables = {
        node.output[0]: node.input[0]
        for node in nodes
        if node.op_type == "Gather" and node.input[0] in constants
    }
    scaled = _scaled(nodes, constants, tables)
    zero_points = codes.zero_points(nodes, constants, tables)
    zero_points |= {weight: 0 for weight, _ in scaled.values()}
    aside = _scales(nodes) | {scale for _, scale in scaled.values()}
    source = {node.output[0]: node.input[0] for node in nodes if node.op_type in _PASS}
    source |= {output: weight for output, (weight, _) in scaled.items()}
    layers = _layers(nodes, constants, source, zero_points)
    parameters = nonzeros = 0
    found: dict[str, Layer] = {}
    for name, tensor in constants.items():
        weight = layers.get(name)
        read = tensor.data_type in _FLOATS or name in zero_points or weight is not None
        if name in aside or not read or tensor.data_type not in _FLOATS | _CODES:
            continue
        values = codes.values(tensor, weight)
        if values is None:
            continue
        filled = int(np.count_nonzero(values != zero_points.get(name, 0)))
        parameters, nonzeros = parameters + values.size, nonzeros + filled
        if weight is not None and values.ndim > 1:
            found[name] = Layer(
                name, weight.op_type, tuple(values.shape), int(values.size), filled,
                len(np.unique(values)), codes.bits(tensor, weight),
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
    nodes: list[onnx.NodeProto], constants: Constants, tables: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Products of codes, cast before, and their scale: what DequantizeLinear does in one. Name of
    the product → (codes, scale), which are constants or looked up in them."""
    wide: dict[str, str] = {}
    found: dict[str, tuple[str, str]] = {}
    for node in nodes:
        if node.op_type == "Cast":
            name = tables.get(node.input[0], node.input[0])
            if name in constants and constants[name].data_type in _CODES:
                wide[node.output[0]] = name
        elif node.op_type == "Mul" and node.input[0] in wide:
            scale = tables.get(node.input[1], node.input[1])
            if scale in constants:
                found[node.output[0]] = (wide[node.input[0]], scale)
    return found


def _scales(nodes: list[onnx.NodeProto]) -> set[str]:
    """What says how numbers are read, or bounds them."""
    found = {
        node.input[i]
        for node in nodes
        for i in _SCALES.get(node.op_type, ())
        if i < len(node.input)
    }
    # The scale of a weight is multiplied with that of a batch, found anew.
    given = {node.output[1] for node in nodes if node.op_type == "DynamicQuantizeLinear"}
    products = (node.input for node in nodes if node.op_type == "Mul")
    return found.union(*(names for names in products if given & set(names)))


def _layers(
    nodes: list[onnx.NodeProto],
    constants: Constants,
    source: Mapping[str, str],
    coded: Collection[str],
) -> dict[str, onnx.NodeProto]:
    """The weights of layers: name of the constant → the operation that computes with it.
    `source` leads from what is computed of a constant back to it; `coded` are known as codes."""
    found: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        for index in LAYERS.get(node.op_type, ()):
            if index >= len(node.input):
                continue
            name = node.input[index]
            while name not in constants and name in source:
                name = source[name]
            if name not in constants:
                continue
            tensor = constants[name]
            numbers = tensor.data_type in _FLOATS | _CODES
            # Integers that are looked up and no codes are places or identifiers.
            table = node.op_type != "Gather" or (
                len(tensor.dims) > 1 and (tensor.data_type in _FLOATS or name in coded)
            )
            if numbers and table:
                found.setdefault(name, node)
    return found
