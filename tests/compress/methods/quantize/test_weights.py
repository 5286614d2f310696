"""Weights as 4-bit integers and as 16-bit floats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers_encoders import encoder, real_texts
from helpers_graphs import graph, material_of, run
from helpers_jobs import RecordedJob
from meuse.compress import counts
from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Quantize
from meuse.compress.methods.quantize import gptq, quantize
from meuse.core.errors import Code, MeuseError
from meuse.train import export
from meuse.train.prepare.steps import Preparation
from meuse.train.typed import convert


@pytest.mark.parametrize("algorithm", ["rtn", "hqq", "gptq"])
def test_int4_packs_two_weights_in_a_byte(classifier: Any, tmp_path: Path, algorithm: str) -> None:
    """Every matrix is MatMulNBits with half a byte a weight, and labels agree."""
    parent = Artifact("onnx", classifier.model)
    material = material_of(classifier, RecordedJob(tmp_path))
    made = quantize(parent, material, Quantize(mode="int4", algorithm=algorithm))  # type: ignore[arg-type]
    products = [n for n in graph(made).node if n.op_type == "MatMulNBits"]
    assert len(products) == 3
    assert not [n for n in graph(made).node if n.op_type in ("MatMul", "Gemm")]
    weights = 64 * 256 + 256 * 128 + 128 * 10
    packed = [i for i in graph(made).initializer if i.data_type == TensorProto.UINT8]
    assert sum(int(np.prod(i.dims)) for i in packed) == weights // 2
    # Half a byte a weight, a scale (and for hqq a zero point) for 32 of them, biases, names.
    per_weight = 0.5 + (8 if algorithm == "hqq" else 4) / 32
    assert len(made.data) < weights * per_weight + 8000
    rows = {"input": classifier.splits.test.frame.numbers}
    assert (run(parent, rows)[0] == run(made, rows)[0]).mean() >= 0.95


def product_of(weight: np.ndarray) -> Artifact:
    """`x` [n, inputs] multiplied with `weight`."""
    value = helper.make_tensor_value_info
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    proto = helper.make_graph(
        [node], "product", [value("x", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [value("y", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(proto, opset_imports=opset, ir_version=10)
    return Artifact("onnx", model.SerializeToString())


def test_hqq_fits_a_layer_with_outliers_closer_than_rounding(images: Any) -> None:
    """Real zero points stand in the file, and the bulk of the weights moves less."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(64, 24)).astype(np.float32)
    weight[::16] *= 6
    parent, moved = product_of(weight), {}
    for algorithm in ("rtn", "hqq"):
        config = Quantize(mode="int4", algorithm=algorithm)
        made = quantize(parent, images.material, config)
        (node,) = graph(made).node
        known = {tensor.name: tensor for tensor in graph(made).initializer}
        points = [numpy_helper.to_array(known[name]) for name in node.input[3:] if name]
        assert (len(points) == 1 and bool((points[0] % 1 != 0).any())) == (algorithm == "hqq")
        (found,) = run(made, {"x": np.eye(64, dtype=np.float32)})
        moved[algorithm] = np.abs(found - weight).mean()
    assert moved["hqq"] < 0.95 * moved["rtn"]


def test_gptq_moves_a_layers_answers_less_than_rounding(images: Any) -> None:
    """On the rows that it is given, which hang together, through the file that is served."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(512, 8)) @ random.normal(size=(8, 64))
    inputs += 0.1 * random.normal(size=inputs.shape)
    rows = {"x": inputs.astype(np.float32)}
    parent = product_of(random.normal(size=(64, 24)).astype(np.float32))
    material = replace(images.material, rows=rows)
    moved = {}
    for algorithm in ("rtn", "gptq"):
        config = Quantize(mode="int4", algorithm=algorithm)
        made = quantize(parent, material, config)
        moved[algorithm] = np.linalg.norm(run(made, rows)[0] - run(parent, rows)[0])
    assert moved["gptq"] < 0.5 * moved["rtn"]


def test_gptq_moves_products_less_than_rounding() -> None:
    """On inputs that hang together the product's error falls by half and more; the packed bytes
    give back the codes; zeros stay."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(512, 8)) @ random.normal(size=(8, 64))
    inputs += 0.1 * random.normal(size=inputs.shape)
    weight = random.normal(size=(64, 24)).astype(np.float32)
    weight[random.random(weight.shape) < 0.3] = 0
    codes, scales = gptq.round_to_groups(weight, inputs.T @ inputs, 32)
    plain, plain_scales = gptq.round_to_groups(weight, np.eye(64), 32)
    wide = ((c - 8.0) * s.repeat(32, 1) for c, s in ((codes, scales), (plain, plain_scales)))
    errors = [np.linalg.norm(inputs @ (w.T - weight)) for w in wide]
    assert errors[0] < 0.5 * errors[1]
    assert ((codes == 8) >= (weight.T == 0)).all()
    packed = gptq.pack(codes, 32)
    back = np.stack([packed & 15, packed >> 4], -1).reshape(24, 64)
    np.testing.assert_array_equal(back, codes)


def test_a_group_that_does_not_divide_is_refused_or_filled(images: Any) -> None:
    """The error names the layer and the sizes that fit; `pad` computes the same with zeros."""
    with pytest.raises(MeuseError) as caught:
        quantize(images.artifact, images.material, Quantize(mode="int4"))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "group_size")
    assert "16 inputs, no multiple of 32" in caught.value.message
    assert "all layers: 16" in str(caught.value.hint)
    made = quantize(images.artifact, images.material, Quantize(mode="int4", uneven="pad"))
    (old, _), (new, _) = images.answers(images.artifact), images.answers(made)
    assert (old == new).mean() >= 0.9


def test_int4_tables_of_embeddings(texts: Any, images: Any) -> None:
    """The table takes half a byte a value."""
    parent, rows = texts
    made = quantize(parent, replace(images.material, rows={}), Quantize(mode="int4"))
    kinds = [n.op_type for n in graph(made).node]
    assert "GatherBlockQuantized" in kinds
    assert len(made.data) < 0.3 * len(parent.data)
    np.testing.assert_allclose(run(parent, rows)[1], run(made, rows)[1], atol=0.15)


def test_an_encoder_in_int4_keeps_its_tokenizer(images: Any) -> None:
    """The words' table and all products take 4 bits; what the tokenizer's loop looks up does not,
    and texts are cut as before. Counts see the same parameters."""
    pytest.importorskip("tokenizers")
    given = encoder()
    assert given.pieces is not None
    words = Preparation((("text", "string"),), pieces=given.pieces)
    proto = export.embedding(words, given, "e", ("tokens", "text_tokens"))
    parent = Artifact("onnx", proto.SerializeToString())
    config = Quantize(mode="int4", group_size=16)
    made = quantize(parent, replace(images.material, rows={}), config)
    texts = {"text": np.array([text[:200].encode() for text in real_texts()[:32]], object)}
    (old, tokens, _), (new, same, _) = run(parent, texts), run(made, texts)
    assert (tokens == same).all()
    cosine = (old * new).sum(axis=1) / np.linalg.norm(old, axis=1) / np.linalg.norm(new, axis=1)
    assert cosine.min() > 0.9
    before, after = counts.count(parent.data), counts.count(made.data)
    assert after.parameters == before.parameters
    assert {layer.bits for layer in after.layers} == {4}
    assert {layer.op for layer in after.layers} == {"GatherBlockQuantized", "MatMulNBits"}


@pytest.mark.parametrize(("mode", "bound"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_halves_take_half_the_bytes(images: Any, mode: str, bound: float) -> None:
    """All weights are 16-bit floats, and no answer moves by more than their rounding."""
    made = quantize(images.artifact, images.material, Quantize(mode=mode))  # type: ignore[arg-type]
    kind = TensorProto.FLOAT16 if mode == "float16" else TensorProto.BFLOAT16
    large = [i for i in graph(made).initializer if np.prod(i.dims) >= 64 and i.data_type != 7]
    assert large
    assert {i.data_type for i in large} == {kind}
    saved = len(images.artifact.data) - len(made.data)
    assert saved > 2 * sum(int(np.prod(i.dims)) for i in large) - 3000
    difference = np.abs(images.answers(made)[1] - images.answers(images.artifact)[1])
    assert difference.max() < bound * 5


def test_float16_leaves_what_it_cannot_hold(images: Any) -> None:
    """A tensor with a value beyond 65,504 stays float32 instead of becoming infinite."""
    proto = onnx.load_from_string(images.artifact.data)
    tensor = next(i for i in proto.graph.initializer if len(i.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = 1e6
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    given = Artifact("onnx", proto.SerializeToString())
    made = quantize(given, images.material, Quantize(mode="float16"))
    kept = next(i for i in graph(made).initializer if i.name == tensor.name)
    assert kept.data_type == TensorProto.FLOAT


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"percentile": 30, "calibration": "percentile"}, "percentile"),
        ({"percentile": 101, "calibration": "percentile"}, "percentile"),
        ({"percentile": 99}, "percentile"),
        ({"mode": "int3"}, "mode"),
        ({"group_size": 24}, "group_size"),
        ({"rows": 1}, "rows"),
        ({"rate": 0.5}, "rate"),
    ],
)
def test_bad_options_are_named(given: dict[str, Any], field: str) -> None:
    """Every refusal names the option."""
    with pytest.raises(MeuseError) as caught:
        convert(given, Quantize, "steps.0")
    assert caught.value.field == f"steps.0.{field}".rstrip(".")
