"""What a compress job of a language model may be asked to do."""

from __future__ import annotations

from typing import Any

import pytest

from meuse.compress.language.spec import LanguageCompressSpec
from meuse.compress.spec import CompressSpec
from meuse.core.errors import MeuseError

DATA = "file-" + 32 * "a"


def spec_of(**changes: Any) -> dict[str, Any]:
    return {"model": "tiny:1", "data": DATA, **changes}


def test_a_spec_is_completed_and_comes_back() -> None:
    """int8 within 5 % of the parent's perplexity, unless it is told otherwise."""
    asked = LanguageCompressSpec.from_dict(spec_of())
    told = asked.to_dict()
    assert told["steps"][0]["precision"] == "int8"
    assert told["goal"] == {"max_drop": 0.05, "max_bytes": None}
    assert LanguageCompressSpec.from_dict(told) == asked


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"model": "tiny"}, "model", "names no version"),
        ({"data": None}, "data", "no file of them is named"),
        ({"data": "digits:1"}, "data", "is no file"),
        ({"steps": "weights,weights"}, "steps", "one step"),
        ({"steps": []}, "steps", "one step"),
        ({"steps": 7}, "steps", "one step"),
        ({"steps": "shrink"}, "steps.0.method", "no method"),
        ({"steps": "quantize"}, "steps.0.method", "not for language models"),
        ({"steps": "auto"}, "steps.0.method", "no method"),
        ({"steps": [{"method": "weights", "precision": "int3"}]}, "steps.0.precision", "int3"),
        ({"steps": [{"method": "weights", "precision": "int4", "group_size": 100}]},
         "steps.0.group_size", "100"),
        ({"steps": [{"method": "weights", "group_size": 64}]},
         "steps.0.group_size", "no effect"),
        ({"steps": [{"method": "weights", "precision": "f16", "symmetric": True}]},
         "steps.0.symmetric", "no effect"),
        ({"steps": [{"method": "weights", "precision": "int4", "ratio": 1.5}]}, "steps.0.ratio",
         ""),
        ({"steps": [{"method": "weights", "gate": {"max_drop": 0.1}}]}, "steps.0.gate", ""),
        ({"goal": {"max_drop": 2}}, "goal.max_drop", "not allowed"),
        ({"goal": {"max_latency_ms": 2}}, "goal.max_latency_ms", ""),
        ({"auto": {"trials": 3}}, "auto", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_its_field(
    changes: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(MeuseError) as caught:
        LanguageCompressSpec.from_dict(spec_of(**changes))
    assert caught.value.field == field, caught.value
    assert words in caught.value.message


def test_models_that_take_rows_have_other_methods() -> None:
    with pytest.raises(MeuseError, match="is for language models") as caught:
        CompressSpec.from_dict({"model": "digits:1", "steps": ["weights"]})
    assert caught.value.field == "steps.0.method"
