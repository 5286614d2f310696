"""Weights as integer codes: how an ONNX file packs them, and which code is zero.

Knows the operators of ONNX and of ONNX Runtime that read codes; knows no layer and counts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Constants = Mapping[str, onnx.TensorProto]

_T = onnx.TensorProto
_NIBBLES = frozenset({_T.INT4, _T.UINT4})
_ZEROS = {
    "DequantizeLinear": (0, 2), "ConvInteger": (1, 3), "MatMulInteger": (1, 3),
    "QLinearConv": (3, 5), "QLinearMatMul": (3, 5), "DynamicQuantizeMatMul": (1, 3),
    "MatMulIntegerToFloat": (1, 5), "MatMulNBits": (1, 3), "GatherBlockQuantized": (0, 3),
}  # fmt: skip
"""Which input of an operation is codes, and which one their zero points."""
_GROUPED = ("MatMulNBits", "GatherBlockQuantized")


def values(tensor: onnx.TensorProto, node: onnx.NodeProto | None) -> NDArray[Any] | None:
    """What a constant holds, value by value, for the operation that reads it: of MatMulNBits
    [N, K], without the padding. None for codes of a number of bits that fills no byte."""
    stored = np.asarray(numpy_helper.to_array(tensor))
    if tensor.data_type in _NIBBLES:
        return stored.astype(np.int16)
    if node is None or not _is_packed(tensor, node):
        return stored
    each = bits(tensor, node)
    if 8 % each:
        return None
    if node.op_type != "MatMulNBits":
        return _unpacked(stored, each)
    told = _options(node)
    return _unpacked(stored.reshape(told["N"], -1), each)[:, : told["K"]]


def bits(tensor: onnx.TensorProto, node: onnx.NodeProto) -> int:
    """Of each stored value."""
    if _is_packed(tensor, node):
        return _options(node).get("bits", 4)
    if tensor.data_type in _NIBBLES:
        return 4
    return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def zero_points(
    nodes: Sequence[onnx.NodeProto], constants: Constants, tables: Mapping[str, str]
) -> dict[str, Any]:
    """Of each constant that is codes: the code of zero, shaped to compare with its `values`; it
    is no whole number where a group's zero point is none. `tables`: name of what is looked up →
    the constant that it is a row of."""
    found: dict[str, Any] = {}
    for node in nodes:
        if node.op_type not in _ZEROS:
            continue
        codes, zero = _ZEROS[node.op_type]
        name = tables.get(node.input[codes], node.input[codes])
        if name in constants:
            told = node.input[zero] if zero < len(node.input) else ""
            if told not in constants:
                found[name] = _default(constants[name], node)
            elif node.op_type in _GROUPED:
                found[name] = _of_groups(constants[name], constants[told], node)
            else:
                axis = -1 if name != node.input[codes] else _axis(node)
                found[name] = _along(constants[name], constants[told], node, axis)
        if node.op_type == "QLinearConv" and len(node.input) > 8 and node.input[8] in constants:
            found[node.input[8]] = 0
    return found


def _default(tensor: onnx.TensorProto, node: onnx.NodeProto) -> int:
    """Codes without a sign that share bytes have their zero in the middle, where none is told."""
    return 1 << (bits(tensor, node) - 1) if _is_packed(tensor, node) else 0


def _of_groups(
    tensor: onnx.TensorProto, zero: onnx.TensorProto, node: onnx.NodeProto
) -> NDArray[Any]:
    """One zero point per group of values of MatMulNBits and GatherBlockQuantized."""
    told, points = _options(node), np.asarray(numpy_helper.to_array(zero))
    shape, axis = tuple(tensor.dims), told.get("quantize_axis", 1)
    each = bits(tensor, node)
    if node.op_type == "MatMulNBits":
        shape, axis = (told["N"], told["K"]), 1
        points = points.reshape(told["N"], -1)
    elif _is_packed(tensor, node):
        shape = (*shape[:-1], shape[-1] * 8 // each)
    if zero.data_type == _T.UINT8:
        points = _unpacked(points, each)
    elif zero.data_type in _NIBBLES:
        points = points.astype(np.int16)
    return _spread(points, shape, axis, told.get("block_size", 128))


def _axis(node: onnx.NodeProto) -> int:
    if node.op_type == "DequantizeLinear":
        return _options(node).get("axis", 1)
    return 0 if "Conv" in node.op_type else -1


def _along(
    tensor: onnx.TensorProto, zero: onnx.TensorProto, node: onnx.NodeProto, axis: int
) -> NDArray[Any]:
    """One zero point for all, or per channel along `axis`, or per block along it."""
    points = np.asarray(numpy_helper.to_array(zero)).astype(np.int32)
    shape = tuple(tensor.dims)
    if points.size == 1:
        return points.reshape(())
    if points.ndim == 1:
        wide = [1] * len(shape)
        wide[axis] = -1
        return points.reshape(wide)
    return _spread(points, shape, axis, _options(node).get("block_size", 1))


def _is_packed(tensor: onnx.TensorProto, node: onnx.NodeProto) -> bool:
    """Whether a byte may hold several codes."""
    return node.op_type == "MatMulNBits" or (
        node.op_type == "GatherBlockQuantized" and tensor.data_type == _T.UINT8
    )


def _unpacked(stored: NDArray[Any], each: int) -> NDArray[np.int16]:
    """Bytes [.., n] as codes [.., n · 8 / each], the lowest bits first."""
    places = np.arange(0, 8, each)
    codes = (stored[..., None].astype(np.int16) >> places) & ((1 << each) - 1)
    return codes.astype(np.int16).reshape(*stored.shape[:-1], -1)


def _spread(points: NDArray[Any], shape: Sequence[int], axis: int, size: int) -> NDArray[Any]:
    """Zero points of blocks of `size` along `axis` as those of every value."""
    every = np.repeat(points, size, axis=axis)
    return every[tuple(slice(0, n) for n in shape)]


def _options(node: onnx.NodeProto) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute}
