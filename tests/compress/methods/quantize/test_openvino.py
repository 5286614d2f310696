"""Integers in OpenVINO IR, as the serving engine runs them."""

from __future__ import annotations

import io
import sys
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as opset

from meuse.compress.configs.quantize import Quantize
from meuse.compress.methods import ir
from meuse.compress.methods.quantize import quantize
from meuse.core.errors import Code, MeuseError
from meuse.serve.engines.openvino import OpenVinoEngine


@pytest.mark.parametrize(
    "given", [{"mode": "openvino_int8_weights"}, {"mode": "openvino_int4_weights", "uneven": "pad"}]
)
def test_the_engine_runs_what_nncf_made(images: Any, given: dict[str, Any]) -> None:
    """The IR is loaded by the engine under the same names, and labels agree."""
    few = replace(images.material, rows={"image": images.material.rows["image"][:64]})
    made = quantize(images.artifact, few, Quantize(**given))
    assert made.format == "openvino"
    engine = OpenVinoEngine(made.data, "openvino")
    assert [spec.name for spec in engine.signature.outputs] == ["label", "probabilities"]
    found = engine.run(dict(images.material.validation_rows))
    old, _ = images.answers(images.artifact)
    assert (found["label"] == old).mean() >= 0.85
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, atol=1e-4)


def test_activations_are_integers_too(images: Any) -> None:
    """Convolutions run in 8 bits; answers are those of the float model and of the same rounding
    done step by step, which no kernel of integers takes part in."""
    made = quantize(images.artifact, images.material, Quantize(mode="openvino_int8"))
    rows = dict(images.material.validation_rows)
    found = OpenVinoEngine(made.data, "openvino").run(rows)
    label, probabilities = images.answers(images.artifact)
    assert (found["label"] == label).mean() >= 0.95
    assert np.median(np.abs(found["probabilities"] - probabilities).max(axis=1)) < 0.03
    assert len(made.data) < 0.6 * len(images.artifact.data)
    simulated = _simulated(made.data).run(rows)
    assert (found["label"] == simulated["label"]).mean() >= 0.97
    assert np.median(np.abs(found["probabilities"] - simulated["probabilities"])) < 0.01
    kinds = _running(made.data)
    assert len(kinds) == 6
    assert all(kind.lower().endswith("_i8") for kind in kinds)


def _read(model: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(model)) as file:
        return ov.Core().read_model(file.read("model.xml"), file.read("model.bin"))


def _running(model: bytes) -> list[str]:
    """The kernels of the convolutions."""
    compiled = ov.Core().compile_model(_read(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    return [i["primitiveType"].value for i in told if i["layerType"].value == "Convolution"]


def _simulated(model: bytes) -> OpenVinoEngine:
    """The same with every rounding to levels spelled out in float32."""
    graph = _read(model)
    for op in graph.get_ops():
        if op.get_type_name() != "FakeQuantize":
            continue
        low, high = (op.input_value(index).get_node().data for index in (1, 2))
        step = ((high - low) / (op.get_attributes()["levels"] - 1)).astype(np.float32)
        bounded = opset.minimum(opset.maximum(op.input_value(0), low), high)
        level = opset.round(opset.divide(opset.subtract(bounded, low), step), "half_to_even")
        spelled = opset.add(opset.multiply(level, step), low)
        op.output(0).replace(spelled.output(0))
    return OpenVinoEngine(ir.pack(graph).data, "openvino")


def test_without_nncf_it_is_unavailable(images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MeuseError) as caught:
        quantize(images.artifact, images.material, Quantize(mode="openvino_int8_weights"))
    assert (caught.value.code, caught.value.field) == (Code.UNAVAILABLE, "mode")
    assert "meuse[nncf]" in str(caught.value.hint)


def test_texts_are_refused(texts: Any, images: Any) -> None:
    """OpenVINO has no operator for what cuts texts into tokens."""
    parent, rows = texts
    material = replace(images.material, rows=rows)
    with pytest.raises(MeuseError) as caught:
        quantize(parent, material, Quantize(mode="openvino_int8_weights"))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")


def test_groups_that_do_not_divide_are_refused(images: Any) -> None:
    """As for ONNX."""
    with pytest.raises(MeuseError) as caught:
        quantize(images.artifact, images.material, Quantize(mode="openvino_int4_weights"))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "group_size")
