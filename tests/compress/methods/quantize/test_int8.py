"""8-bit graphs of real models, as ONNX Runtime runs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from helpers_encoders import encoder, real_texts
from helpers_graphs import graph, material_of, optimized, run
from helpers_jobs import RecordedJob
from meuse.compress import counts
from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Quantize
from meuse.compress.methods.quantize import graphs, quantize
from meuse.core.errors import Code, MeuseError
from meuse.train import export
from meuse.train.prepare.steps import Preparation


class Rows(CalibrationDataReader):  # type: ignore[misc]
    """One batch of images to calibrate on."""

    def __init__(self, rows: np.ndarray) -> None:
        self._feeds = iter([{"image": rows}])

    def get_next(self) -> Any:
        return next(self._feeds, None)


def test_a_table_model_keeps_what_it_says(classifier: Any, tmp_path: Path) -> None:
    """Every weight matrix is int8 with a scale per output, the runtime multiplies integers, the
    file is less than 40% of its parent and labels agree."""
    parent = Artifact("onnx", classifier.model)
    material = material_of(classifier, RecordedJob(tmp_path))
    made = quantize(parent, material, Quantize())
    assert len(made.data) < 0.4 * len(parent.data)
    matrices = [i for i in graph(made).initializer if len(i.dims) == 2]
    assert [i.data_type for i in matrices] == [TensorProto.INT8] * 3
    scales = [i for i in graph(made).initializer if i.name.endswith("weight_scale")]
    assert sorted(i.dims[0] for i in scales) == [10, 128, 256]
    kinds = optimized(made, tmp_path)
    assert not {"Gemm", "MatMul", "FusedGemm"} & set(kinds)
    assert sum(kind in ("QGemm", "MatMulIntegerToFloat") for kind in kinds) == 3
    rows = {"input": classifier.splits.test.frame.numbers}
    (old, _), (label, probabilities) = run(parent, rows), run(made, rows)
    assert (old == label).mean() >= 0.98
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert quantize(parent, material, Quantize()) == made
    assert str(tmp_path).encode() not in made.data


def test_a_regressor_keeps_its_scale(regressor: Any, tmp_path: Path) -> None:
    """Values stay within a few hundredths of the target's deviation."""
    parent = Artifact("onnx", regressor.model)
    made = quantize(parent, material_of(regressor, RecordedJob(tmp_path)), Quantize())
    rows = {"input": regressor.splits.test.frame.numbers}
    (old,), (new,) = run(parent, rows), run(made, rows)
    assert np.abs(new - old).mean() < 0.1 * regressor.splits.train.y.std()


def test_convolutions_run_in_integers_from_end_to_end(images: Any, tmp_path: Path) -> None:
    """All convolutions and sums of shortcuts are integer nodes with nothing float between
    them; normalisation before them stays float."""
    made = quantize(images.artifact, images.material, Quantize())
    kinds = optimized(made, tmp_path)
    assert kinds.count("QLinearConv") == 6
    assert kinds.count("QLinearAdd") == 2
    assert "Conv" not in kinds
    first, last = kinds.index("QLinearConv"), kinds.index("DequantizeLinear")
    assert set(kinds[first:last]) <= {"QLinearConv", "QLinearAdd", "Transpose"}
    assert {"Sub", "Div"} <= set(kinds[:first])
    layers = [p for p in images.network.parameters() if p.ndim > 1]
    small = [i for i in graph(made).initializer if i.data_type == TensorProto.INT8 and i.dims]
    assert sum(int(np.prod(i.dims)) for i in small) >= sum(p.numel() for p in layers)
    wide = [i for i in graph(made).initializer if i.data_type == TensorProto.FLOAT]
    assert not [i for i in wide if len(i.dims) == 4]
    assert len(made.data) < len(images.artifact.data)
    (old, _), (new, _) = images.answers(images.artifact), images.answers(made)
    assert (old == new).mean() >= 0.97


@pytest.mark.parametrize("calibration", ["percentile", "entropy"])
def test_other_calibrations_cut_ranges(images: Any, calibration: str) -> None:
    """Ranges from histograms are narrower than the extremes somewhere and answers agree."""
    few = replace(images.material, rows={"image": images.material.rows["image"][:128]})
    plain = quantize(images.artifact, few, Quantize())
    options = {"percentile": 99.0} if calibration == "percentile" else {}
    made = quantize(images.artifact, few, Quantize(calibration=calibration, **options))
    wide, narrow = scales(plain), scales(made)
    assert set(wide) == set(narrow)
    assert any(narrow[name] < 0.95 * wide[name] for name in wide)
    (old, _), (new, _) = images.answers(images.artifact), images.answers(made)
    assert (old == new).mean() >= 0.9


def scales(artifact: Artifact) -> dict[str, float]:
    """Scales of activations, by name."""
    return {
        i.name: float(numpy_helper.to_array(i))
        for i in graph(artifact).initializer
        if i.name.endswith("_scale") and not i.dims
    }


def test_zeros_stay_zeros(images: Any) -> None:
    """A pruned weight is as sparse in integers as it was, in static and dynamic int8."""
    proto = onnx.load_from_string(images.artifact.data)
    zeros = 0
    for tensor in proto.graph.initializer:
        if len(tensor.dims) in (2, 4) and tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).copy()
            values[np.abs(values) < np.quantile(np.abs(values), 0.7)] = 0
            zeros += int((values == 0).sum())
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    made = quantize(Artifact("onnx", proto.SerializeToString()), images.material, Quantize())
    small = [i for i in graph(made).initializer if i.data_type == TensorProto.INT8]
    found = [numpy_helper.to_array(i) for i in small if len(i.dims) in (2, 4)]
    assert sum(int((weight == 0).sum()) for weight in found) >= zeros


def test_dynamic_needs_no_rows(classifier: Any, tmp_path: Path) -> None:
    """Ranges are found while it runs: no row is needed to calibrate on."""
    parent = Artifact("onnx", classifier.model)
    material = replace(material_of(classifier, RecordedJob(tmp_path)), rows={})
    made = quantize(parent, material, Quantize(mode="int8_dynamic"))
    assert len(made.data) < 0.4 * len(parent.data)
    kinds = optimized(made, tmp_path)
    assert sum(kind.startswith(("DynamicQuantizeMatMul", "MatMulInteger")) for kind in kinds) == 3
    rows = {"input": classifier.splits.test.frame.numbers}
    assert (run(parent, rows)[0] == run(made, rows)[0]).mean() >= 0.98


def test_dynamic_stores_convolutions_as_bytes(images: Any, tmp_path: Path) -> None:
    """Their weights are int8 in the file and counted so; the runtime widens them once, so no
    node of it dequantizes, and answers hardly move. Smaller than the library's own."""
    made = quantize(images.artifact, images.material, Quantize(mode="int8_dynamic"))
    layers = [m for m in images.network.modules() if isinstance(m, torch.nn.Conv2d)]
    large = sorted(m.weight.numel() for m in layers if m.weight.numel() >= 256)
    stored = [i for i in graph(made).initializer if len(i.dims) == 4 and i.data_type == 3]
    assert sorted(int(np.prod(i.dims)) for i in stored) == large
    counted = [layer for layer in counts.count(made.data).layers if layer.op == "Conv"]
    assert sorted(layer.values for layer in counted if layer.bits == 8) == large
    before, after = optimized(images.artifact, tmp_path), optimized(made, tmp_path)
    assert after.count("Mul") == before.count("Mul")
    assert not {"DequantizeLinear", "ConvInteger"} & set(after)
    (_, old), (_, new) = images.answers(images.artifact), images.answers(made)
    assert np.median(np.abs(old - new).max(axis=1)) < 0.02
    source, ready, target = (tmp_path / f"{name}.onnx" for name in "abc")
    source.write_bytes(images.artifact.data)
    with graphs.quiet():
        quant_pre_process(source, ready)
        quantize_dynamic(ready, target)
    assert len(made.data) < len(target.read_bytes())


def test_static_is_not_larger_than_the_librarys(images: Any, tmp_path: Path) -> None:
    """Scales per output and all: zero points that are zeros are left out."""
    made = quantize(images.artifact, images.material, Quantize())
    source, ready, target = (tmp_path / f"{name}.onnx" for name in "abc")
    source.write_bytes(images.artifact.data)
    with graphs.quiet():
        quant_pre_process(source, ready)
        quantize_static(ready, target, Rows(images.material.rows["image"][:64]))
    assert len(made.data) < 1.02 * len(target.read_bytes())
    names = {i.name: i for i in graph(made).initializer}
    zeros = [
        names[n.input[2]]
        for n in graph(made).node
        if n.op_type == "DequantizeLinear" and len(n.input) == 3 and n.input[2] in names
    ]
    assert not [i for i in zeros if i.data_type == TensorProto.INT32]


@pytest.mark.parametrize("mode", ["int8_static", "int8_dynamic"])
def test_tables_of_embeddings_take_a_scale_per_row(texts: Any, images: Any, mode: str) -> None:
    """Texts calibrate as the bytes that they come in, and the largest tensor is int8."""
    parent, rows = texts
    material = replace(images.material, rows=rows)
    made = quantize(parent, material, Quantize(mode=mode))  # type: ignore[arg-type]
    table = next(i for i in graph(made).initializer if list(i.dims) == [512, 64])
    assert table.data_type == TensorProto.INT8
    assert len(made.data) < 0.45 * len(parent.data)
    np.testing.assert_allclose(run(parent, rows)[1], run(made, rows)[1], atol=0.02)
    kept = quantize(parent, material, Quantize(mode=mode, embeddings=False))  # type: ignore[arg-type]
    assert len(kept.data) > len(made.data) + 512 * 64 * 2


@pytest.mark.parametrize("mode", ["int8_dynamic", "int8_static"])
def test_an_encoder_brings_its_tokenizer_along(images: Any, mode: str) -> None:
    """Loops of the tokenizer read constants of the graph around them, which stay."""
    pytest.importorskip("tokenizers")
    given = encoder()
    assert given.pieces is not None
    words = Preparation((("text", "string"),), pieces=given.pieces)
    proto = export.embedding(words, given, "e", ("tokens", "text_tokens"))
    parent = Artifact("onnx", proto.SerializeToString())
    rows = np.empty(64, object)
    rows[:] = [text[:200].encode() for text in real_texts()[:64]]
    made = quantize(
        parent,
        replace(images.material, rows={"text": rows}),
        Quantize(mode=mode),  # type: ignore[arg-type]
    )
    texts = {"text": rows}
    (old, tokens, _), (new, same, _) = run(parent, texts), run(made, texts)
    assert (tokens == same).all()
    cosine = (old * new).sum(axis=1) / np.linalg.norm(old, axis=1) / np.linalg.norm(new, axis=1)
    assert cosine.min() > 0.98
    assert len(made.data) < len(parent.data)
    assert counts.count(made.data).parameters == counts.count(parent.data).parameters


@pytest.mark.parametrize(
    "mode",
    [{"mode": "mixed"},
     {"mode": "int4", "algorithm": "gptq", "group_size": 16, "uneven": "pad"},
     {"mode": "openvino_int8"}],
)  # fmt: skip
def test_one_row_is_nothing_to_measure_on(images: Any, mode: dict[str, Any]) -> None:
    """Whatever is measured on rows: no method goes on with one."""
    one = replace(images.material, rows={"image": images.material.rows["image"][:1]})
    with pytest.raises(MeuseError) as caught:
        quantize(images.artifact, one, Quantize(**mode))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
    assert "1 rows" in caught.value.message


@pytest.mark.parametrize("count", [0, 1, 15])
def test_too_few_rows_are_refused_with_the_number(images: Any, count: int) -> None:
    """One row says nothing of ranges."""
    few = replace(images.material, rows={"image": images.material.rows["image"][:count]})
    with pytest.raises(MeuseError) as caught:
        quantize(images.artifact, few, Quantize())
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
    assert f"{count} rows" in caught.value.message
    assert "at least 16" in caught.value.message


def test_a_model_is_quantized_once(images: Any) -> None:
    """Integers are not quantized again, and neither is another format."""
    made = quantize(images.artifact, images.material, Quantize())
    for again in (made, Artifact("openvino", b"")):
        with pytest.raises(MeuseError) as caught:
            quantize(again, images.material, Quantize())
        assert caught.value.field in ("method", "mode")


@pytest.mark.parametrize("mode", ["int8_static", "int8_dynamic", "int4", "float16"])
def test_a_graph_without_weights_is_refused(images: Any, mode: str) -> None:
    """A model with nothing to quantize is told so."""
    one = numpy_helper.from_array(np.ones(3, np.float32), "one")
    body = helper.make_graph(
        [helper.make_node("Add", ["input", "one"], ["value"])],
        "plus",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["n", 3])],
        [one],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(body, opset_imports=opset, ir_version=10)
    material = replace(images.material, rows={"input": np.ones((20, 3), np.float32)})
    given = Artifact("onnx", model.SerializeToString())
    with pytest.raises(MeuseError) as caught:
        quantize(given, material, Quantize(mode=mode))  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
