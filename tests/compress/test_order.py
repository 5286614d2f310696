"""Which steps may follow which: what a method could not take is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from meuse.compress.spec import steps_from
from meuse.core.errors import Code, MeuseError

NNCF = {"method": "qat", "backend": "nncf"}
STUDENT = {"method": "distill", "student": {"recipe": "mlp"}}
LITERT = {"method": "convert", "to": "litert"}


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
