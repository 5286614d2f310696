"""Which steps may follow which: what a method could not take is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from meuse.compress import order
from meuse.compress.spec import steps_from
from meuse.core.errors import Code, MeuseError

NNCF = {"method": "qat", "backend": "nncf"}
STUDENT = {"method": "distill", "student": {"recipe": "mlp"}}
LITERT = {"method": "convert", "to": "litert"}


PATTERN = {"method": "prune", "pattern": "2:4"}


def quantize(mode: str) -> dict[str, Any]:
    return {"method": "quantize", "mode": mode}


@pytest.mark.parametrize(
    ("steps", "at", "hint"),
    [
        # The network is left behind.
        (["quantize", "prune"], 1, "Put 'prune' before 'quantize'"),
        (["pack", "share"], 1, "Put 'share' before 'pack'"),
        (["prune", NNCF, "share"], 2, "backend own"),
        ([NNCF, "qat"], 1, "backend own"),
        ([NNCF, STUDENT], 1, "backend own"),
        # ONNX is left behind.
        ([NNCF, "pack"], 1, "leave 'pack' or 'qat' out"),
        ([NNCF, "convert"], 1, "leave 'convert' or 'qat' out"),
        ([NNCF, quantize("float16")], 1, "Leave 'quantize' out"),
        ([quantize("openvino_int8"), "pack"], 1, "leave 'pack' or 'quantize' out"),
        ([quantize("openvino_int8_weights"), "convert"], 1, "one format"),
        ([quantize("openvino_int4_weights"), "pack"], 1, "one format"),
        (["convert", "pack"], 1, "one format"),
        (["convert", "quantize"], 1, "Put 'quantize' before 'convert'"),
        (["prune", "pack", "quantize"], 2, "Put 'quantize' before 'pack'"),
        (["pack", "convert"], 1, "one format"),
        ([LITERT, "pack"], 1, "one format"),
        ([LITERT, "quantize"], 1, "numbers of 'convert'"),
        # Integers are there already.
        (["qat", "quantize"], 1, "Leave 'quantize' out"),
        (["qat", "share", quantize("int4")], 2, "Leave 'quantize' out"),
        (["qat", quantize("openvino_int8")], 1, "Leave 'quantize' out"),
        (["qat", quantize("bfloat16")], 1, "Leave 'quantize' out"),
        (["qat", NNCF], 1, "once"),
        (["qat", {"method": "prune_structured", "rate": 0.5}], 1, "before 'qat'"),
        (["qat", "prune", "low_rank"], 2, "before 'qat'"),
        (["qat", LITERT], 1, "Leave 'qat' out"),
        ([quantize("int8_dynamic"), LITERT], 1, "numbers: int8"),
        # Zeros and shared values would be lost.
        (["prune", "low_rank"], 1, "Put 'low_rank' before 'prune'"),
        (["share", "distill", "low_rank"], 2, "Put 'low_rank' before 'share'"),
        (["prune", "share", "clip"], 2, "Put 'clip' before 'share'"),
        ([PATTERN, {"method": "prune_structured", "rate": 0.5}], 1, "before 'prune'"),
        # Once is enough.
        (["quantize", quantize("float16")], 1, "once"),
        (["pack", "pack"], 1, "once"),
    ],
)
def test_what_cannot_follow_is_refused(steps: list[Any], at: int, hint: str) -> None:
    """The error stands at the step that could not be done, and names the way out."""
    with pytest.raises(MeuseError) as caught:
        steps_from(steps)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, f"steps.{at}.method")
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    "steps",
    [
        ["prune", "share", "quantize", "pack"],
        ["prune_structured", "low_rank", "qat", "prune", "share", "distill", "pack"],
        ["qat", "qat", "convert"],
        ["prune", "clip", "share"],
        ["prune", {"method": "prune_structured", "rate": 0.5}],
        [PATTERN, "share", STUDENT, "low_rank", "clip"],
        ["prune", NNCF],
        ["qat", STUDENT, "quantize"],
        ["qat", STUDENT, {"method": "prune_structured", "rate": 0.5}, NNCF],
        ["prune", quantize("openvino_int8")],
        [quantize("int4"), "convert"],
        [quantize("mixed"), "pack"],
        [quantize("float16"), LITERT],
        ["prune", {**LITERT, "numbers": "int8"}],
    ],
)
def test_what_can_follow_is_accepted(steps: list[Any]) -> None:
    """A student takes the place of what was trained for integers; halves are plain casts."""
    assert [step.method for step in steps_from(steps)] == [
        step if isinstance(step, str) else step["method"] for step in steps
    ]


@pytest.mark.parametrize(
    ("steps", "format", "has_weights", "told"),
    [
        (["prune", "quantize"], "onnx", False, "m:1 has no weights file, which 'prune' needs"),
        (["quantize"], "openvino", True, "'quantize' takes ONNX, and m:1 is OpenVINO IR"),
        (["convert"], "litert", False, "'convert' takes ONNX, and m:1 is LiteRT"),
    ],
)
def test_a_parent_that_the_first_step_cannot_take_is_refused(
    steps: list[Any], format: str, has_weights: bool, told: str
) -> None:
    with pytest.raises(MeuseError, match=told) as caught:
        order.check_parent(steps_from(steps), "m:1", format, has_weights=has_weights)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "steps.0.method")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("steps", "format", "has_weights"),
    [
        (["quantize"], "onnx", False),
        (["quantize", "pack"], "packed", False),
        (["prune", "quantize"], "openvino", True),
        ([], "onnx", False),
        ([], "packed", True),
    ],
)
def test_a_parent_that_the_first_step_can_take_is_accepted(
    steps: list[Any], format: str, has_weights: bool
) -> None:
    """A packed file holds a graph; a network is exported anew; a search finds its own steps."""
    order.check_parent(steps_from(steps) if steps else (), "m:1", format, has_weights=has_weights)


@pytest.mark.parametrize("format", ["openvino", "litert"])
def test_a_search_takes_no_parent_that_has_left_onnx(format: str) -> None:
    with pytest.raises(MeuseError) as caught:
        order.check_parent((), "m:1", format, has_weights=True)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "model")
    assert "name steps" in str(caught.value.hint)
