"""What an exported file holds and how much work it is, against files made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from helpers_graphs import graph as graph_of
from helpers_jobs import RecordedJob
from meuse.compress import counts, macs
from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Quantize
from meuse.compress.material import GraphMaterial
from meuse.compress.methods.quantize import quantize
from meuse.evaluate.metrics import classification


def graph(
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    given_shape: list[Any],
    domains: dict[str, int] | None = None,
) -> onnx.ModelProto:
    """A model of one input `x` and one output `y`."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, given_shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    opsets = [helper.make_opsetid(d, v) for d, v in {"": 21, **(domains or {})}.items()]
    inside = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(inside, opset_imports=opsets, ir_version=10)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 36), st.integers(1, 4), st.booleans())
def test_zeros_and_distinct_values_are_counted(
    rows: int, columns: int, zeros: int, kinds: int, as_node: bool
) -> None:
    """Any pattern of zeros and of shared values is counted as numpy counts it, whether the
    weight is an initializer or a Constant node."""
    flat = (np.arange(rows * columns) % kinds + 1).astype(np.float32)
    flat[:zeros] = 0
    weight = flat.reshape(rows, columns)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    constants = {"w": weight}
    if as_node:
        tensor = numpy_helper.from_array(weight)
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
        constants = {}
    found = counts.count(graph(nodes, constants, ["rows", rows]).SerializeToString())
    (layer,) = found.layers
    assert (found.parameters, found.nonzeros) == (weight.size, np.count_nonzero(weight))
    assert (layer.shape, layer.bits) == ((rows, columns), 32)
    assert layer.nonzeros == np.count_nonzero(weight)
    assert layer.distinct == len(np.unique(weight))


def test_shapes_scales_and_bounds_are_no_parameters() -> None:
    """A reshape's shape, a quantizer's scale and a clip's bounds do not count; a bias does."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("QuantizeLinear", ["b", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Gemm", ["d", "w", "bias"], ["y"], transB=1),
    ]
    constants = {
        "shape": np.array([-1, 3], np.int64), "low": np.float32(0).reshape(()),
        "high": np.float32(9).reshape(()), "scale": np.float32(0.1).reshape(()),
        "zero": np.uint8(3).reshape(()), "w": floats(2, 3), "bias": floats(2),
    }  # fmt: skip
    found = counts.count(graph(nodes, constants, ["rows", 3]))
    assert (found.parameters, found.nonzeros) == (8, 8)
    assert [layer.name for layer in found.layers] == ["w"]


def test_the_zero_of_integers_is_their_zero_point() -> None:
    """Codes are compared with the zero point of their channel."""
    codes = np.array([[5, 5, 7], [1, 2, 3]], np.uint8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["f"], axis=0),
        helper.make_node("Gemm", ["x", "f"], ["y"], transB=1),
    ]
    points = np.array([5, 2], np.uint8)
    constants = {"w": codes, "scale": np.ones(2, np.float32), "zero": points}
    (layer,) = counts.count(graph(nodes, constants, ["rows", 3])).layers
    assert (layer.values, layer.nonzeros, layer.distinct, layer.bits) == (6, 3, 5, 8)


def test_four_bits_are_told_apart() -> None:
    """Weights of MatMulNBits are counted one by one, padding left out."""
    # 2 columns of 20 values in blocks of 16: 2 blocks of 8 bytes each; 8 is zero.
    packed = np.full((2, 2, 8), 0x88, np.uint8)
    packed[0, 0, 0] = 0x18  # one value of 1, that is -7
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=20, N=2, bits=4,
        block_size=16,
    )  # fmt: skip
    model = graph(
        [node], {"w": packed, "s": np.ones(4, np.float32)}, ["rows", 20], {"com.microsoft": 1}
    )
    found = counts.count(model)
    (layer,) = found.layers
    assert (layer.values, layer.nonzeros, layer.distinct, layer.bits) == (40, 1, 2, 4)
    assert found.parameters == 40
    assert macs.count(model).macs == 40


def test_looked_up_codes_are_a_table() -> None:
    """Integers whose rows are made numbers again are a layer, whichever way that is written; rows
    of integers that nothing scales are identifiers."""
    codes = np.arange(12, dtype=np.uint8).reshape(4, 3)
    constants = {"w": codes, "scale": np.float32(0.5).reshape(()), "zero": np.uint8(7).reshape(())}
    lookup = helper.make_node("Gather", ["w", "x"], ["rows"])
    after = helper.make_node("DequantizeLinear", ["rows", "scale", "zero"], ["y"])
    before = [
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wide"]),
        helper.make_node("Gather", ["wide", "x"], ["y"]),
    ]
    for nodes in ([lookup, after], before):
        found = counts.count(graph(nodes, constants, ["rows"]))
        (layer,) = found.layers
        assert (layer.name, layer.op, layer.shape, layer.bits) == ("w", "Gather", (4, 3), 8)
        assert (layer.nonzeros, layer.distinct) == (11, 12)
        assert (found.parameters, found.nonzeros) == (12, 11)
    per_column = constants | {
        "scale": np.ones(3, np.float32), "zero": np.array([0, 1, 9], np.uint8)
    }  # fmt: skip
    after = helper.make_node("DequantizeLinear", ["rows", "scale", "zero"], ["y"], axis=2)
    assert counts.count(graph([lookup, after], per_column, [2, 2])).nonzeros == 12 - 2
    per_row = {"w": codes.astype(np.int8), "scale": floats(4, 1)}
    scaled = [
        lookup,
        helper.make_node("Gather", ["scale", "x"], ["scales"]),
        helper.make_node("Cast", ["rows"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "scales"], ["y"]),
    ]
    found = counts.count(graph(scaled, per_row, ["rows"]))
    assert (found.parameters, found.nonzeros, len(found.layers)) == (12, 11, 1)
    plain = counts.count(graph([lookup], {"w": codes}, ["rows"]))
    assert plain == counts.Counts(0, 0, ())


def int8_codes(table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """By row: the largest number is 127."""
    largest = np.abs(table).max(axis=1, keepdims=True)
    return np.rint(table / (largest / 127).astype(np.float32))


def int4_codes(table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """By 32 of a row: what is farthest from 0 is -8."""
    groups = table.reshape(-1, 32)
    far = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], axis=1)
    return np.rint(groups / (far / -8)).clip(-8, 7).reshape(table.shape)


@pytest.mark.parametrize(
    ("mode", "algorithm"),
    [("int8_static", None), ("int8_dynamic", None), ("int4", "rtn"), ("int4", "hqq")],
)
def test_a_text_classifier_in_integers(
    texts: Any, tmp_path: Path, mode: Any, algorithm: Any
) -> None:
    """It has the parameters that it had as floats, its scales are none, and its table is a layer
    of codes."""
    parent, rows = texts
    before = counts.count(parent.data)
    held = {i.name: numpy_helper.to_array(i) for i in graph_of(parent).initializer}
    bounds = {n for node in graph_of(parent).node if node.op_type == "Clip" for n in node.input}
    numbers = [v for name, v in held.items() if v.dtype == np.float32 and name not in bounds]
    sizes = sum(values.size for values in numbers)
    assert before.parameters == sizes
    material = GraphMaterial(
        RecordedJob(tmp_path), rows, rows, np.zeros(64), "classification", classification, 0, "t"
    )
    made = quantize(parent, material, Quantize(mode=mode, algorithm=algorithm))
    found = counts.count(made.data)
    assert found.parameters == sizes
    assert len(found.layers) == len(before.layers) == 6
    table = next(values for values in held.values() if values.shape == (512, 64))
    wanted = int4_codes(table) if mode == "int4" else int8_codes(table)
    layer = next(one for one in found.layers if one.shape == (512, 64))
    assert (layer.nonzeros, layer.distinct) == (np.count_nonzero(wanted), len(np.unique(wanted)))
    assert layer.bits == (4 if mode == "int4" else 8)
    if mode == "int4":
        assert sum(one.nonzeros for one in found.layers if one is not layer) == filled(made)


def filled(made: Artifact) -> int:
    """Weights of MatMulNBits that are not their group's zero."""
    held = {i.name: numpy_helper.to_array(i) for i in graph_of(made).initializer}
    total = 0
    for node in graph_of(made).node:
        if node.op_type == "MatMulNBits":
            packed = held[node.input[1]].reshape(-1, 16)  # bytes of a group of 32
            points = np.full(len(packed), 8.0)
            if len(node.input) > 3:
                points = held[node.input[3]].reshape(-1)
            for half in (packed & 15, packed >> 4):
                total += int((half != points[:, None]).sum())
    return total


@pytest.mark.parametrize(
    ("node", "constants", "shape", "work"),
    [
        (("MatMul", ["x", "w"], {}), {"w": floats(5, 7)}, ["rows", 5], 35),
        (("MatMul", ["x", "w"], {}), {"w": floats(5, 7)}, ["rows", 4, 5], 4 * 35),
        (("Gemm", ["x", "w"], {"transB": 1}), {"w": floats(7, 5)}, ["rows", 5], 35),
        (("Conv", ["x", "w"], {}), {"w": floats(8, 3, 3, 3)}, ["rows", 3, 10, 10], 8 * 64 * 27),
        (
            ("Conv", ["x", "w"], {"group": 4, "pads": [1, 1, 1, 1]}),
            {"w": floats(8, 1, 3, 3)}, ["rows", 4, 6, 6], 8 * 36 * 9,
        ),
        (("ConvTranspose", ["x", "w"], {}), {"w": floats(2, 3, 2, 2)}, ["rows", 2, 4, 4], 384),
        (("Relu", ["x"], {}), {}, ["rows", 5], 0),
        (("GatherBlockQuantized", ["w", "x", "s"], {"domain": "com.microsoft"}),
         {"w": np.zeros((4, 8), np.uint8), "s": floats(4, 1)}, ["rows", 5], 0),
    ],
)  # fmt: skip
def test_work_of_one_operation(
    node: Any, constants: dict[str, np.ndarray], shape: list[Any], work: int
) -> None:
    """Products and convolutions take what their definition says, for one row."""
    kind, inputs, options = node
    model = graph([helper.make_node(kind, inputs, ["y"], **options)], constants, shape)
    assert macs.count(model.SerializeToString()) == macs.Work(work, {})


def test_what_cannot_be_counted_is_named() -> None:
    """A recurrent layer's work is not guessed, and neither is a product of unknown shape."""
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["y", "", ""], hidden_size=2),
    ]
    constants = {"w": floats(1, 8, 3), "r": floats(1, 8, 2)}
    assert macs.count(graph(nodes, constants, [1, "rows", 3])) == macs.Work(0, {"LSTM": 1})
    lost = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = graph(lost, {"w": floats(4, 2)}, ["rows", "words", 4])
    assert macs.count(model) == macs.Work(0, {"MatMul": 1})
    # With a row of 5 words ONNX Runtime knows the shape.
    assert macs.count(model, {"x": np.zeros((1, 5, 4), np.float32)}) == macs.Work(40, {})


class Rows(CalibrationDataReader):  # type: ignore[misc]
    """One batch of rows to calibrate on."""

    def __init__(self, rows: np.ndarray) -> None:
        self._feeds = iter([{"input": rows}])

    def get_next(self) -> Any:
        return next(self._feeds, None)


def test_a_trained_file_and_its_integers(classifier: Any, tmp_path: Path) -> None:
    """A trained network has the parameters and the work that its shapes say, as floats and
    as integers."""
    quant_pre_process(classifier.result.model_path, tmp_path / "a", skip_symbolic_shape=True)
    quantize_static(
        tmp_path / "a", tmp_path / "b", Rows(classifier.splits.test.frame.numbers),
        op_types_to_quantize=["Gemm"], per_channel=True,
    )  # fmt: skip
    shapes = [(256, 64), (128, 256), (10, 128)]
    size = sum(a * b for a, b in shapes)
    kept = 2 * 64  # means and deviations of the preparation
    for data, bits in ((classifier.model, 32), ((tmp_path / "b").read_bytes(), 8)):
        found, work = counts.count(data), macs.count(data)
        assert [layer.bits for layer in found.layers] == [bits] * 3
        assert [layer.shape for layer in found.layers] == shapes
        assert found.parameters == size + 256 + 128 + 10 + kept
        assert work == macs.Work(size, {})
        assert all(layer.distinct <= 256 for layer in found.layers) == (bits == 8)
