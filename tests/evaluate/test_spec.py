"""What an evaluate job may be asked."""

from __future__ import annotations

from typing import Any

import pytest

from meuse.core.errors import MeuseError
from meuse.evaluate.spec import EvaluateSpec

GOOD: dict[str, Any] = {"models": ["m:1", "m@best"], "data": "d:2"}


def test_a_spec_is_completed_and_is_json() -> None:
    """What is not asked stays open until the versions are known."""
    spec = EvaluateSpec.from_dict({**GOOD, "slices": ["site"], "split": "Test", "seed": "3"})
    assert (spec.split, spec.slices, spec.seed) == ("test", ("site",), 3)
    assert EvaluateSpec.from_dict(spec.to_dict()) == spec
    assert EvaluateSpec.from_dict(GOOD).split is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"models": []}, "models"),
        ({"models": "m:1"}, "models"),
        ({"models": [f"m:{i + 1}" for i in range(11)]}, "models"),
        ({"models": ["m:1", "m:1"]}, "models"),
        ({"models": ["m:1", "M"]}, "models[1]"),
        ({"data": None}, "data"),
        ({"data": "d@x"}, "data"),
        ({"split": "train"}, "split"),
        ({"slices": "site"}, "slices"),
        ({"slices": [3]}, "slices[0]"),
        ({"target": " "}, "target"),
        ({"task": "ranking"}, "task"),
        ({"quantile": 1}, "quantile"),
        ({"seed": -1}, "seed"),
        ({"model": "m:1"}, "model"),
    ],
)
def test_a_bad_spec_names_the_field(change: dict[str, Any], field: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(MeuseError) as caught:
        EvaluateSpec.from_dict({**GOOD, **change})
    assert caught.value.field == field
