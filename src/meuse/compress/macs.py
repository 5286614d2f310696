"""Multiply-accumulates of an ONNX graph for one row, from its shapes.

Knows ONNX and, where shapes cannot be inferred, ONNX Runtime, which is asked with one row.
What it cannot count is named, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import inliner, shape_inference

from meuse.serve import strings

Shape = tuple[int, ...]

_PRODUCTS = {
    "MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "Gemm": (0, 1),
    "DynamicQuantizeMatMul": (0, 1), "MatMulIntegerToFloat": (0, 1), "FusedMatMul": (0, 1),
    "FusedGemm": (0, 1),
}  # fmt: skip
"""Products of matrices, and where their two factors stand."""
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "FusedConv": 1, "ConvTranspose": 1}
_HEAVY = frozenset({
    "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention", "GroupQueryAttention", "Einsum",
    "Loop", "Scan", "If", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor",
    "SVMClassifier", "SVMRegressor", "LinearClassifier", "LinearRegressor", "DFT", "STFT",
    "DeformConv", "QAttention", "QGemm", "DynamicQuantizeLSTM",
})  # fmt: skip
"""Operations with work of their own that is not counted."""
_LIGHT_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_LIGHT = frozenset({"GatherBlockQuantized"})
"""Operations of other domains without such work: this one looks rows up."""


@dataclass(frozen=True, slots=True)
class Work:
    """`macs` of one row; `unknown`: operations whose work is not in it, by name, with how
    often each occurs."""

    macs: int
    unknown: dict[str, int]


def count(model: bytes | onnx.ModelProto, row: Mapping[str, NDArray[Any]] | None = None) -> Work:
    """Count convolutions and products of matrices, float or integer, by the shapes of one row.

    A product of [m, k] and [k, n] takes m·k·n; a convolution takes, per output value, what its
    kernel covers in its group. `row`: inputs of one row [1, …], for shapes that cannot be
    inferred.
    """
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else model
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    shapes = _inferred(proto)
    wanted = {name for node in proto.graph.node for name in _needed(node)}
    if row is not None and any(name not in shapes for name in wanted):
        shapes |= _asked(proto, row, sorted(wanted - set(shapes)))
    total, unknown = 0, dict[str, int]()
    for node in proto.graph.node:
        found = _macs(node, shapes)
        if found is None:
            unknown[node.op_type] = unknown.get(node.op_type, 0) + 1
        else:
            total += found
    return Work(total, unknown)


def _needed(node: onnx.NodeProto) -> list[str]:
    """The tensors whose shapes say how much work a node is."""
    if node.op_type in _PRODUCTS:
        return [node.input[i] for i in _PRODUCTS[node.op_type]]
    if node.op_type in _CONVOLUTIONS:
        data = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
        return [node.input[_CONVOLUTIONS[node.op_type]], data]
    return [node.input[0]] if node.op_type == "MatMulNBits" else []


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """None: not known."""
    needed = _needed(node)
    if not needed:
        is_light = node.domain in _LIGHT_DOMAINS or node.op_type in _LIGHT
        heavy = node.op_type in _HEAVY or not is_light
        return None if heavy else 0
    if any(name not in shapes for name in needed):
        return None
    options = {a.name: a.i for a in node.attribute}
    first = shapes[needed[0]]
    if node.op_type == "MatMulNBits":
        return prod(first) * options["N"]
    second = shapes[needed[1]]
    if node.op_type in _CONVOLUTIONS:
        return prod(second) * prod(first[1:])  # values of data × one filter
    if node.op_type in ("Gemm", "FusedGemm"):
        return prod(first) * second[0 if options.get("transB") else 1]
    return _product(first, second)


def _product(a: Shape, b: Shape) -> int:
    """Of stacks of matrices as numpy's matmul takes them, stacks broadcast."""
    if len(a) == 1 or len(b) == 1:
        return prod(a) * prod(b) // (a[-1] or 1)
    stack_a, stack_b = a[:-2], b[:-2]
    width = max(len(stack_a), len(stack_b))
    wide = zip(
        (1,) * (width - len(stack_a)) + stack_a, (1,) * (width - len(stack_b)) + stack_b,
        strict=True,
    )  # fmt: skip
    return prod(max(x, y) for x, y in wide) * a[-2] * a[-1] * b[-1]


def _inferred(proto: onnx.ModelProto) -> dict[str, Shape]:
    """The shapes that are known when the batch is one row."""
    single = onnx.ModelProto()
    single.CopyFrom(proto)
    del single.graph.value_info[:]
    constant = {tensor.name for tensor in single.graph.initializer}
    for given in single.graph.input:
        dims = given.type.tensor_type.shape.dim
        if given.name not in constant and dims and not dims[0].dim_value:
            dims[0].dim_value = 1
    for answer in single.graph.output:
        answer.type.tensor_type.ClearField("shape")
    try:
        known = shape_inference.infer_shapes(single, data_prop=True).graph
    except Exception:  # its errors share no base class; nothing is known then
        known = single.graph
    found = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for value in (*known.input, *known.value_info, *known.output):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims)
    for node in proto.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = tuple(attribute.t.dims)
    return found


def _asked(
    proto: onnx.ModelProto, row: Mapping[str, NDArray[Any]], names: list[str]
) -> dict[str, Shape]:
    """The shapes of these tensors when ONNX Runtime computes `row`."""
    open_ = onnx.ModelProto()
    open_.CopyFrom(proto)
    answers = {value.name for value in open_.graph.output}
    open_.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in answers)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            open_.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(names, {name: strings.text(name, v) for name, v in row.items()})
    except Exception:  # onnxruntime's errors share no base class; the shapes stay unknown
        return {}
    return {name: tuple(value.shape) for name, value in zip(names, found, strict=True)}
