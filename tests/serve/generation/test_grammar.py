"""How large a regular expression makes a grammar, before an engine sees it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.serve.generation.grammar import pattern_size


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("", 0),
        (r"\d{4}-\d{2}-\d{2}", 10),
        (r"[a-z{9}\]]{1,100}@[a-z]{2}", 103),
        (r"\({10}", 10),
        ("(ab|c){3,}", 12),
        ("((a{2}){3}){5}", 30),
        ("(a{3}b){0}", 4),
        ("a*b+c?", 6),
        ("a{,5}", 5),
        ("x{}", 1),
        ("(", 0),
        (")", 1),
        ("((a{1,5000}){1,5000}){1,5000}", 5000**3),
    ],
)
def test_repetitions_are_written_out(pattern: str, size: int) -> None:
    """Within one another they multiply, one after the other they add up."""
    assert pattern_size(pattern) == size


@given(st.text("a(){}[]\\,|^$*+?09", max_size=60))
def test_no_text_is_too_strange(pattern: str) -> None:
    """Whatever it is, it has a size, and one without repetitions none above its length."""
    size = pattern_size(pattern)
    assert size >= 0
    if "{" not in pattern:
        assert size <= len(pattern)


def test_numbers_without_end_are_large() -> None:
    assert pattern_size("a{" + "9" * 60_000 + "}") > 10**8
    assert pattern_size("(a{900000000}){900000000}") <= 10**18
    assert re.compile("(a{2}b){3}").fullmatch("aabaabaab")
    assert pattern_size("(a{2}b){3}") == len("aabaabaab")
