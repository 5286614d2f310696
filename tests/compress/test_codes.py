"""Packed integers and their zero points, against what ONNX Runtime makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from meuse.compress import codes


def answered(
    node: onnx.NodeProto, tensors: list[onnx.TensorProto], given: np.ndarray[Any, Any]
) -> Any:
    """What the engine computes of one node, which reads `x`."""
    kind = helper.np_dtype_to_tensor_dtype(given.dtype)
    x = helper.make_tensor_value_info("x", kind, None)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], {"x": given})[0]


def read(node: onnx.NodeProto, tensors: list[onnx.TensorProto], codes_at: int) -> Any:
    """The codes less their zero points, as they are read here."""
    known = {tensor.name: tensor for tensor in tensors}
    name = node.input[codes_at]
    stored = codes.values(known[name], node)
    assert stored is not None
    return stored - codes.zero_points([node], known, {})[name]


def raw(name: str, kind: int, shape: list[int], size: int) -> onnx.TensorProto:
    """A tensor of any bytes."""
    stored = np.random.default_rng(len(name)).integers(0, 256, size, dtype=np.uint8)
    return helper.make_tensor(name, kind, shape, stored.tobytes(), raw=True)


@pytest.mark.parametrize(
    ("kind", "bits", "width"),
    [
        (TensorProto.INT4, 4, 48),
        (TensorProto.UINT4, 4, 48),
        (TensorProto.UINT8, 4, 24),
        (TensorProto.UINT8, 8, 48),
    ],
)
@pytest.mark.parametrize("told", [False, True])
def test_tables_in_groups(kind: int, bits: int, width: int, told: bool) -> None:
    """4 rows of 48 values in groups of 16, each group with its zero point, or with none told."""
    packed = kind == TensorProto.UINT8
    tensors = [
        raw("w", kind, [4, width], 4 * 48 * bits // 8),
        numpy_helper.from_array(np.ones((4, 3), np.float32), "s"),
    ]
    if told:
        # Three zero points a row: bytes are a row's own, nibbles of the standard's types are not.
        per_row = -(-3 * bits // 8)
        size = 4 * per_row if packed else 6
        tensors.append(raw("zero", kind, [4, per_row if packed else 3], size))
    node = helper.make_node(
        "GatherBlockQuantized", ["w", "x", "s", "zero"][: 4 if told else 3], ["y"],
        domain="com.microsoft", block_size=16, quantize_axis=1, bits=bits,
    )  # fmt: skip
    wanted = answered(node, tensors, np.arange(4))
    np.testing.assert_array_equal(read(node, tensors, 0), wanted)
    assert codes.bits(tensors[0], node) == bits


@pytest.mark.parametrize(
    ("bits", "zero"),
    [(2, "none"), (4, "none"), (8, "none"), (4, "packed"), (8, "packed"), (2, "real"), (4, "real")],
)
def test_products_in_groups(bits: int, zero: str) -> None:
    """5 outputs of 40 inputs in groups of 16, whose last one is padded: zero points in the middle,
    packed as codes are, or real numbers as HQQ fits them."""
    tensors = [
        raw("w", TensorProto.UINT8, [5, 3, 2 * bits], 5 * 3 * 2 * bits),
        numpy_helper.from_array(np.ones(15, np.float32), "s"),
    ]
    if zero == "packed":
        per_row = -(-3 * bits // 8)
        tensors.append(raw("zero", TensorProto.UINT8, [5, per_row], 5 * per_row))
    elif zero == "real":
        points = np.random.default_rng(0).uniform(5, 10, 15).astype(np.float32)
        tensors.append(numpy_helper.from_array(points, "zero"))
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s", "zero"][: 3 if zero == "none" else 4], ["y"],
        domain="com.microsoft", K=40, N=5, bits=bits, block_size=16,
    )  # fmt: skip
    wanted = answered(node, tensors, np.eye(40, dtype=np.float32))
    np.testing.assert_allclose(read(node, tensors, 1), wanted.T, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "options"),
    [([], {}), ([3], {"axis": 0}), ([20], {"axis": 1}), ([3, 2], {"axis": 1, "block_size": 16})],
)
@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT4])
def test_zero_points_of_the_standard(shape: list[int], options: dict[str, int], kind: int) -> None:
    """One for all, one per row or column, and one per block of which the last is short."""
    size = int(np.prod(shape))
    per_byte = 2 if kind == TensorProto.INT4 else 1
    tensors = [
        raw("w", kind, [3, 20], 60 // per_byte),
        numpy_helper.from_array(np.ones(shape, np.float32), "s"),
        raw("zero", kind, shape, -(-size // per_byte)),
    ]
    inner = helper.make_node("DequantizeLinear", ["w", "s", "zero"], ["f"], **options)
    outer = helper.make_node("Add", ["f", "x"], ["y"])
    graph = helper.make_graph(
        [inner, outer], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], tensors,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    wanted = session.run(["y"], {"x": np.zeros(1, np.float32)})[0]
    np.testing.assert_array_equal(read(inner, tensors, 0), wanted)


def test_bits_that_fill_no_byte_are_not_read() -> None:
    """Three bits a value lie across bytes: nothing is said of them rather than something wrong."""
    tensor = raw("w", TensorProto.UINT8, [1, 1, 6], 6)
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=16, N=1, bits=3,
        block_size=16,
    )  # fmt: skip
    assert codes.values(tensor, node) is None
