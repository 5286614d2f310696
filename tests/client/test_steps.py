"""How steps and goals are typed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.client.steps import AUTO, parse_goals, parse_steps
from meuse.core.errors import Code, MeuseError


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("auto", "auto"),
        ("prune,share,quantize", [{"method": m} for m in ("prune", "share", "quantize")]),
        (
            "prune(rate=0.9, scope=layer),share(bits=4)",
            [{"method": "prune", "rate": 0.9, "scope": "layer"}, {"method": "share", "bits": 4}],
        ),
        ("quantize()", [{"method": "quantize"}]),
        (
            'prune(rates={"a.b": 0.5, "c": 0}, gate.max_drop=0.02)',
            [{"method": "prune", "rates": {"a.b": 0.5, "c": 0}, "gate": {"max_drop": 0.02}}],
        ),
        (
            'distill(teacher=["m:1","m:2"],labelled=false,note="a,(b")',
            [{"method": "distill", "teacher": ["m:1", "m:2"], "labelled": False, "note": "a,(b"}],
        ),
        ("distill(teacher=m:1)", [{"method": "distill", "teacher": "m:1"}]),
    ],
)
def test_steps_are_read(text: str, steps: Any) -> None:
    """Names, options as JSON or plain words, objects by a dot."""
    assert parse_steps(text) == steps


@pytest.mark.parametrize(
    "text",
    ["prune(rate=0.9", "prune)", "prune(0.9)", "prune(rate=1,rate=2)", "a b", "prune(a=1,a.b=2)",
     'prune(a="x)', "(rate=1)"],
)  # fmt: skip
def test_what_is_no_step_is_refused(text: str) -> None:
    """The field is `steps`, and the hint shows the notation."""
    with pytest.raises(MeuseError) as caught:
        parse_steps(text)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "steps")
    assert "prune(rate=0.9)" in str(caught.value.hint)


@given(st.text(max_size=40))
def test_any_text_is_steps_or_is_refused(text: str) -> None:
    """Nothing else happens, whatever is typed."""
    found: Any = AUTO
    with suppress(MeuseError):
        found = parse_steps(text)
    assert found == AUTO or all(step["method"] for step in found)


def test_goals_are_read() -> None:
    """A goal per option; what is no pair is refused."""
    assert parse_goals(["max_drop=0.01", "max_bytes = 5000"]) == {
        "max_drop": 0.01,
        "max_bytes": 5000,
    }
    with pytest.raises(MeuseError) as caught:
        parse_goals(["0.01"])
    assert caught.value.field == "goal"
