"""Static int8 on real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from meuse.compress.quantize import static_int8, sums_are_exact
from meuse.core.errors import Code, MeuseError


def outputs(model: bytes, rows: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model).run(None, {"input": rows})


def test_weights_become_int8_and_bytes_fall(classifier: Any, tmp_path: Path) -> None:
    """Every weight matrix is int8, the file is one and less than 40% of its parent."""
    target = tmp_path / "model.onnx"
    static_int8(classifier.result.model_path, classifier.splits.validation.x, target)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert target.stat().st_size < 0.4 * len(classifier.model)
    proto = onnx.load(target)
    onnx.checker.check_model(proto)
    matrices = [i for i in proto.graph.initializer if len(i.dims) == 2]
    assert len(matrices) == 3
    assert {i.data_type for i in matrices} == {TensorProto.INT8}
    scales = [i for i in proto.graph.initializer if i.name.endswith("weight_scale")]
    assert sorted(i.dims[0] for i in scales) == [10, 128, 256]
    assert str(classifier.result.model_path.parent).encode() not in target.read_bytes()


def test_the_runtime_computes_in_integers(classifier: Any, tmp_path: Path) -> None:
    """ONNX Runtime fuses the graph to integer products: no float Gemm or MatMul is left."""
    target = tmp_path / "model.onnx"
    static_int8(classifier.result.model_path, classifier.splits.validation.x, target)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(target.read_bytes(), options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert not {"Gemm", "MatMul", "FusedGemm"} & set(kinds)
    assert sum(kind in ("QGemm", "MatMulIntegerToFloat") for kind in kinds) == 3


def test_standardisation_and_outputs_stay_sane(classifier: Any, tmp_path: Path) -> None:
    """Labels agree nearly always; probabilities add up to 1 and hold the label's maximum."""
    target = tmp_path / "model.onnx"
    static_int8(classifier.result.model_path, classifier.splits.validation.x, target)
    rows = classifier.splits.test.x
    old, _ = outputs(classifier.model, rows)
    label, probabilities = outputs(target.read_bytes(), rows)
    assert (old == label).mean() >= 0.98
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), label)


def test_a_regressor_keeps_its_scale(regressor: Any, tmp_path: Path) -> None:
    """Values stay within a few hundredths of the target's deviation."""
    target = tmp_path / "model.onnx"
    static_int8(regressor.result.model_path, regressor.splits.validation.x, target)
    rows = regressor.splits.test.x
    (old,), (new,) = outputs(regressor.model, rows), outputs(target.read_bytes(), rows)
    assert np.abs(new - old).mean() < 0.1 * regressor.splits.train.y.std()


def test_the_same_model_gives_the_same_bytes(classifier: Any, tmp_path: Path) -> None:
    """Quantization is a function of model and calibration rows."""
    for name in ("a.onnx", "b.onnx"):
        static_int8(classifier.result.model_path, classifier.splits.validation.x, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_graph_without_weights_is_refused(tmp_path: Path) -> None:
    """A model with nothing to quantize is told so; no file is left."""
    one = numpy_helper.from_array(np.ones(3, np.float32), "one")
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "one"], ["value"])],
        "plus",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["n", 3])],
        [one],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.save(model, tmp_path / "plus.onnx")
    target = tmp_path / "out" / "model.onnx"
    target.parent.mkdir()
    with pytest.raises(MeuseError) as caught:
        static_int8(tmp_path / "plus.onnx", np.ones((4, 3), np.float32), target)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize(
    ("flags", "exact"),
    [("fpu avx2 avx512_vnni", True), ("fpu avx_vnni", True), ("fpu avx2 avx512f", False)],
)
def test_vnni_is_read_from_the_processors_flags(tmp_path: Path, flags: str, exact: bool) -> None:
    """Only a processor with VNNI sums 8-bit products without saturation."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: avx_vnni?\nflags\t\t: {flags}\n")
    assert sums_are_exact(cpuinfo) == exact
    assert not sums_are_exact(tmp_path / "absent")
