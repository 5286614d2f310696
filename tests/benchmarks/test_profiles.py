"""Reading a sampled profile."""

from __future__ import annotations

import profiles
import pytest


def test_a_function_is_charged_with_its_own_samples_only() -> None:
    """Lines of one function add up; a caller is not charged for what it calls."""
    raw = "main (a.py:1);run (b.py:10) 6\nmain (a.py:2);run (b.py:12) 3\nmain (a.py:2) 1\n"
    assert profiles.read(raw) == [
        ("run (b.py)", pytest.approx(0.9)),
        ("main (a.py)", pytest.approx(0.1)),
    ]
    assert profiles.read("") == []
