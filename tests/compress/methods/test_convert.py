"""Other formats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from meuse.compress.configs.convert import Convert
from meuse.compress.methods.convert import convert
from meuse.core.errors import Code, MeuseError
from meuse.serve.engines.openvino import OpenVinoEngine


def test_ir_answers_as_onnx(images: Any) -> None:
    """The float IR gives the same answers under the same names."""
    made = convert(images.artifact, images.material, Convert())
    found = OpenVinoEngine(made.data, "openvino").run(dict(images.material.validation_rows))
    label, probabilities = images.answers(images.artifact)
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-4)
    assert (found["label"] == label).mean() > 0.99


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
