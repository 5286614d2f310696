"""Which layers stay in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from helpers_graphs import graph, material_of, run
from helpers_jobs import RecordedJob
from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Quantize
from meuse.compress.methods.quantize import quantize
from meuse.core.errors import MeuseError


def matrices(artifact: Artifact) -> dict[tuple[int, ...], int]:
    return {tuple(i.dims): i.data_type for i in graph(artifact).initializer if len(i.dims) == 2}


def spoiled(model: bytes, factors: np.ndarray | None = None) -> Artifact:
    """The same function, but the second layer's inputs are on scales `factors` apart, by default
    a million times: one scale for all of them leaves nothing of the small ones."""
    proto = onnx.load_from_string(model)
    if factors is None:
        factors = np.where(np.arange(256) % 16, 1.0, 1e6).astype(np.float32)
    products = [n for n in proto.graph.node if n.op_type == "Gemm"]
    tensors = {i.name: i for i in proto.graph.initializer}
    for node, name, turn in (
        (products[0], products[0].input[1], lambda w: w * factors[:, None]),
        (products[0], products[0].input[2], lambda b: b * factors),
        (products[1], products[1].input[1], lambda w: w / factors),
    ):
        assert node.op_type == "Gemm"
        value = turn(numpy_helper.to_array(tensors[name])).astype(np.float32)
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))
    return Artifact("onnx", proto.SerializeToString())


def test_the_layer_that_costs_stays_float(classifier: Any, tmp_path: Path) -> None:
    """Of three layers the one that int8 would ruin is left alone, and the log says why."""
    job = RecordedJob(tmp_path)
    material = material_of(classifier, job)
    given = spoiled(classifier.model)
    made = quantize(given, material, Quantize(mode="mixed", max_drop=0.01))
    kinds = matrices(made)
    assert sorted(kinds.values()) == [TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT8]
    (left,) = [dims for dims, kind in kinds.items() if kind == TensorProto.FLOAT]
    assert sorted(left) == [128, 256]
    assert "2 of 3 layers in int8, 1 in float32" in job.text


def test_without_need_all_layers_are_int8(classifier: Any, tmp_path: Path) -> None:
    """A model that bears int8 gets it everywhere."""
    material = material_of(classifier, RecordedJob(tmp_path))
    made = quantize(Artifact("onnx", classifier.model), material, Quantize(mode="mixed"))
    assert set(matrices(made).values()) == {TensorProto.INT8}


def test_what_no_layer_bears_is_refused(classifier: Any, tmp_path: Path) -> None:
    """A bound that cannot be kept is refused, not exceeded."""

    def falls(scores: np.ndarray, y: np.ndarray) -> dict[str, float]:
        falls.calls += 1  # type: ignore[attr-defined]
        return {"accuracy": 1.0 / falls.calls}  # type: ignore[attr-defined]

    falls.calls = 0  # type: ignore[attr-defined]
    material = replace(material_of(classifier, RecordedJob(tmp_path)), metric=falls)
    with pytest.raises(MeuseError) as caught:
        quantize(Artifact("onnx", classifier.model), material, Quantize(mode="mixed"))
    assert caught.value.field == "max_drop"


def fall(trained: Any, parent: Artifact, made: Artifact) -> float:
    """By how much accuracy on the validation rows falls."""
    rows, y = {"input": trained.splits.validation.frame.numbers}, trained.splits.validation.y
    old, new = (float((run(a, rows)[0] == y).mean()) for a in (parent, made))
    return old - new


def packed(artifact: Artifact) -> dict[str, int]:
    """Bytes of the weights that MatMulNBits reads, by node."""
    known = {i.name: i for i in graph(artifact).initializer}
    found = [n for n in graph(artifact).node if n.op_type == "MatMulNBits"]
    return {n.name: len(numpy_helper.to_array(known[n.input[1]]).tobytes()) for n in found}


def test_layers_that_bear_it_take_four_bits(classifier: Any, tmp_path: Path) -> None:
    """With room for it every product is int4: half a byte a weight, counted in the file, which
    is smaller than all in int8; the bound is kept on the validation rows."""
    job = RecordedJob(tmp_path)
    material, parent = material_of(classifier, job), Artifact("onnx", classifier.model)
    made = quantize(parent, material, Quantize(mode="mixed", least_bits=4, max_drop=0.02))
    sizes = {64 * 256 // 2, 256 * 128 // 2, 128 * 10 // 2}
    assert set(packed(made).values()) == sizes
    assert TensorProto.INT8 not in matrices(made).values()
    assert len(made.data) < 0.8 * len(quantize(parent, material, Quantize()).data)
    assert "0 of 3 layers in int8, 0 in float32, 3 in int4" in job.text
    assert fall(classifier, parent, made) <= 0.02


def test_a_layer_that_four_bits_ruin_keeps_eight(classifier: Any, tmp_path: Path) -> None:
    """Half of its weights are a twentieth of the others in their groups: four bits make them
    zeros, eight do not. The other layers are packed beside it."""
    job = RecordedJob(tmp_path)
    material = material_of(classifier, job)
    parent = spoiled(classifier.model, np.where(np.arange(256) % 2, 1.0, 20.0))
    made = quantize(parent, material, Quantize(mode="mixed", least_bits=4, max_drop=0.02))
    assert set(packed(made).values()) == {64 * 256 // 2, 128 * 10 // 2}
    assert matrices(made)[128, 256] == TensorProto.INT8
    assert "1 of 3 layers in int8, 0 in float32, 2 in int4" in job.text
    assert fall(classifier, parent, made) <= 0.02


def test_groups_that_do_not_divide_are_no_candidates(classifier: Any, tmp_path: Path) -> None:
    """Of 64, 256 and 128 inputs, groups of 256 fit one layer; the others are int8."""
    material, parent = (
        material_of(classifier, RecordedJob(tmp_path)), Artifact("onnx", classifier.model)
    )  # fmt: skip
    config = Quantize(mode="mixed", least_bits=4, group_size=256, max_drop=0.05)
    made = quantize(parent, material, config)
    assert list(packed(made).values()) == [256 * 128 // 2]
    assert sorted(matrices(made).values()).count(TensorProto.INT8) == 2
