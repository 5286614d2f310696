"""Other formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from helpers_graphs import material_of
from helpers_jobs import RecordedJob
from meuse.compress.artifact import Artifact
from meuse.compress.configs.convert import Convert
from meuse.compress.configs.quantize import Quantize
from meuse.compress.material import GraphMaterial
from meuse.compress.methods import ir
from meuse.compress.methods.convert import convert
from meuse.compress.methods.quantize import quantize
from meuse.core.errors import Code, MeuseError
from meuse.serve import engines
from meuse.serve.engines.openvino import OpenVinoEngine


def test_ir_answers_as_onnx(images: Any) -> None:
    """The float IR gives the same answers under the same names."""
    made = convert(images.artifact, images.material, Convert())
    found = OpenVinoEngine(made.data, "openvino").run(dict(images.material.validation_rows))
    label, probabilities = images.answers(images.artifact)
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-4)
    assert (found["label"] == label).mean() > 0.99


MODES: list[dict[str, Any]] = [
    {"mode": "int8_static"}, {"mode": "int8_dynamic"}, {"mode": "int4", "algorithm": "rtn"},
    {"mode": "int4", "algorithm": "hqq"}, {"mode": "float16"}, {"mode": "bfloat16"},
]  # fmt: skip


def converted(rounded: Artifact, material: GraphMaterial) -> Artifact | MeuseError:
    """The IR, or why there is none."""
    try:
        return convert(rounded, material, Convert())
    except MeuseError as refused:
        return refused


def check_refused(told: MeuseError) -> None:
    assert (told.code, told.field) == (Code.INVALID_DATA, "model")
    assert "answers otherwise" in told.message or "other outputs" in told.message
    assert "openvino_int8" in str(told.hint)


@pytest.mark.parametrize("how", MODES, ids=lambda how: "_".join(how.values()))
def test_ir_of_a_rounded_graph_answers_as_it(
    classifier: Any, tmp_path: Path, how: dict[str, Any]
) -> None:
    """Whatever numbers the graph has, on all validation rows. Of 4 bits OpenVINO gives no rows
    where its kernels lack AVX-512: then the file is refused."""
    material = material_of(classifier, RecordedJob(tmp_path))
    rounded = quantize(classifier.parent.artifact, material, Quantize(**how))
    made = converted(rounded, material)
    if isinstance(made, MeuseError) and how["mode"] == "int4":
        check_refused(made)
        return
    assert isinstance(made, Artifact), made
    rows = dict(material.validation_rows)
    wanted, found = (engines.load(file.format, file.data).run(rows) for file in (rounded, made))
    apart = np.abs(wanted["probabilities"] - found["probabilities"]).max(axis=1)
    assert np.median(apart) < 0.01
    assert (wanted["label"] == found["label"]).mean() > 0.98


def test_integers_that_openvino_adds_in_another_scale_are_never_kept(images: Any) -> None:
    """The sums of a residual network in 8 bits: where the IR is another model (OpenVINO 2026.4 with
    VNNI makes one) it is refused with a way out, and elsewhere it answers as the graph."""
    rounded = quantize(images.artifact, images.material, Quantize(mode="int8_static"))
    made = converted(rounded, images.material)
    if isinstance(made, MeuseError):
        check_refused(made)
        return
    rows = dict(images.material.validation_rows)
    wanted, found = (engines.load(file.format, file.data).run(rows) for file in (rounded, made))
    apart = np.abs(wanted["probabilities"] - found["probabilities"]).max(axis=1)
    assert np.median(apart) < 0.03


def test_ir_with_other_answers_is_refused(
    classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundredth of a layer's weights is far beyond what sums in another order differ by."""
    material = material_of(classifier, RecordedJob(tmp_path))
    graph = onnx.load_from_string(classifier.model)
    weight = next(tensor for tensor in graph.graph.initializer if len(tensor.dims) == 2)
    moved = 1.01 * numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(moved, weight.name))
    model_of = ir.model_of
    monkeypatch.setattr(ir, "model_of", lambda _: model_of(graph.SerializeToString()))
    with pytest.raises(MeuseError, match="answers otherwise") as caught:
        convert(classifier.parent.artifact, material, Convert())
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")


def test_an_operator_that_the_target_lacks_is_named(texts: Any, images: Any) -> None:
    """OpenVINO cannot cut texts."""
    with pytest.raises(MeuseError) as caught:
        convert(texts[0], images.material, Convert())
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")


def test_numbers_are_for_litert() -> None:
    """OpenVINO's integers come from another method, and the error says which."""
    with pytest.raises(ValueError, match="quantize"):
        Convert(to="openvino", numbers="int8")


def test_ranges_need_rows(images: Any) -> None:
    """LiteRT's int8 of one row would be ranges of that row: refused before the toolchain starts."""
    one = replace(images.material, rows={"image": images.material.rows["image"][:1]})
    with pytest.raises(MeuseError) as caught:
        convert(images.artifact, one, Convert(to="litert", numbers="int8"))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
    assert "1 rows" in caught.value.message
