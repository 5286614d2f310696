"""Graphs of networks with simulated integers, made such that the runtime computes with them.

Knows ONNX: weights behind QuantizeLinear become 8-bit initializers, and biases of quantized
products 32-bit ones, without which ONNX Runtime would not fuse them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

Values = dict[str, NDArray[Any]]


def fold(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Change `proto` in place; one without QuantizeLinear stays as it is."""
    if not any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        return proto
    values = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    _weights(proto, values)
    _transposed(proto, values, makers)
    _biases(proto, values, makers)
    used = {name for node in proto.graph.node for name in node.input}
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in values.items() if name in used
    )
    return proto


def _weights(proto: onnx.ModelProto, values: Values) -> None:
    for node in list(proto.graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0] not in values:
            continue
        weight, scale, zero = (values[name] for name in node.input[:3])
        scale = scale.reshape(-1, *[1] * (weight.ndim - 1)) if scale.ndim else scale
        codes = np.rint(weight / scale)
        limits = np.iinfo(zero.dtype)
        values[node.output[0]] = np.clip(codes, limits.min, limits.max).astype(zero.dtype)
        proto.graph.node.remove(node)


def _transposed(proto: onnx.ModelProto, values: Values, makers: Mapping[str, NodeProto]) -> None:
    """Matrices that are turned around after they were widened: turned around beforehand."""
    for node in list(proto.graph.node):
        if node.op_type != "Transpose":
            continue
        wide = makers.get(node.input[0])
        if wide is None or wide.op_type != "DequantizeLinear" or wide.input[0] not in values:
            continue
        codes = values[wide.input[0]]
        if codes.ndim != 2:
            continue
        name = f"{wide.input[0]}_turned"
        values[name] = np.ascontiguousarray(codes.T)
        inputs = [name, *wide.input[1:]]
        turned = helper.make_node("DequantizeLinear", inputs, list(node.output), node.name, axis=1)
        node.CopyFrom(turned)
    read = {name for node in proto.graph.node for name in node.input}
    read |= {output.name for output in proto.graph.output}
    kept = [node for node in proto.graph.node if any(name in read for name in node.output)]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)


def _biases(proto: onnx.ModelProto, values: Values, makers: Mapping[str, NodeProto]) -> None:
    """round(b / (scale of the input · scale of the weight)) in 32 bits."""
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and node.input[2] in values:
            both = [makers.get(name) for name in node.input[:2]]
            if all(m is not None and m.op_type == "DequantizeLinear" for m in both):
                given, weight = (values[m.input[1]] for m in both if m is not None)
                nodes.append(_bias(node, values, np.asarray(given * weight, np.float32)))
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _bias(node: NodeProto, values: Values, scale: NDArray[np.float32]) -> NodeProto:
    name = node.input[2]
    bias = values[name]
    limits = np.iinfo(np.int32)
    codes = np.clip(np.rint(bias.astype(np.float64) / scale), limits.min, limits.max)
    base = f"{node.output[0]}_bias"
    values[f"{base}_codes"], values[f"{base}_scale"] = codes.astype(np.int32), scale
    node.input[2] = f"{base}_wide"
    inputs = [f"{base}_codes", f"{base}_scale"]
    return helper.make_node("DequantizeLinear", inputs, [node.input[2]], base, axis=0)
