"""What a compress job may be asked to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meuse.compress import catalog
from meuse.compress.spec import CompressSpec, Goal, Step
from meuse.core.errors import Code, MeuseError

QUANTIZE = Step("quantize", catalog.METHODS["quantize"].configure({}))


def test_defaults() -> None:
    """A model is enough: quantize, and let accuracy fall by a hundredth at most."""
    spec = CompressSpec.from_dict({"model": "digits:1"})
    assert spec == CompressSpec("digits:1", None, Goal(0.01, None, None), (QUANTIZE,))
    assert spec == CompressSpec.from_dict({"model": "digits:1", "steps": "quantize"})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "digits@champion", "data": "digits:3"},
        {"goal": {"max_drop": "0.05", "max_bytes": "100000", "max_latency_ms": 2}},
        {"goal": {"max_drop": None}, "steps": [{"method": "Quantize"}], "data": None},
        {"sensitivity": False, "seed": 3},
    ],
)
def test_a_spec_round_trips(fields: dict[str, Any]) -> None:
    """to_dict gives JSON that from_dict turns into the same spec."""
    spec = CompressSpec.from_dict({"model": "digits:1", **fields})
    assert CompressSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("fields", "field", "hint"),
    [
        ({"model": None}, "model", "digits:2"),
        ({"model": "digits"}, "model", "digits@champion"),
        ({"model": "digits:x"}, "model", "digits:2"),
        ({"model": "digits@"}, "model", "match"),
        ({"model": "Digits:1"}, "model", "match"),
        ({"data": "digits:x"}, "data", "digits:2"),
        ({"method": "quantize"}, "method", "steps"),
        ({"goal": 0.01}, "goal", "max_drop"),
        ({"goal": {"min_accuracy": 0.9}}, "goal.min_accuracy", "max_drop"),
        ({"goal": {"max_drop": -0.1}}, "goal.max_drop", "0 to 1"),
        ({"goal": {"max_drop": "much"}}, "goal.max_drop", "0 to 1"),
        ({"goal": {"max_bytes": 0}}, "goal.max_bytes", "from 1"),
        ({"goal": {"max_latency_ms": 0}}, "goal.max_latency_ms", "above 0"),
        ({"steps": []}, "steps", "quantize"),
        ({"steps": {"method": "quantize"}}, "steps", "quantize"),
        ({"steps": [7]}, "steps.0", "quantize"),
        ({"steps": "shrink-it"}, "steps.0.method", "quantize"),
        ({"steps": [{}]}, "steps.0.method", "quantize"),
        ({"steps": [{"method": "press"}]}, "steps.0.method", "quantize"),
        ({"steps": [{"method": "quantize", "bit": 4}]}, "steps.0.bit", ""),
        ({"steps": [{"method": "quantize", "gate": 0.1}]}, "steps.0.gate", "max_drop"),
        ({"steps": [{"method": "quantize", "gate": {"max_drop": 2}}]}, "steps.0.gate.max_drop", ""),
        ({"steps": ["quantize"] * 33}, "steps", "quantize"),
        ({"steps": [{"method": "quantize"}] * 2}, "steps.1.method", "once"),
        ({"seed": -1}, "seed", "from 0"),
        ({"sensitivity": "no"}, "sensitivity", "true or false"),
    ],
)
def test_a_bad_field_is_refused_by_name(fields: dict[str, Any], field: str, hint: str) -> None:
    """Every refusal names the field and says what is allowed."""
    with pytest.raises(MeuseError) as caught:
        CompressSpec.from_dict({"model": "digits:1", **fields})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert hint in str(caught.value.hint)
