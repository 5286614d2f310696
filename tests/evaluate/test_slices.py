"""Slices: parts of the rows, worst first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.conftest import Real
from meuse.core.errors import MeuseError
from meuse.evaluate.judge import judge, rows_of
from meuse.evaluate.slices import by_column

ROWS = rows_of("set:1", "d" * 64, "test", "target", 3)


def test_a_hidden_weakness_is_on_top(cancer: Real) -> None:
    """Answers that are wrong for one site only: the mean hides it, the first slice says it."""
    p, y = cancer.outputs.copy(), cancer.y
    site = np.where(np.arange(len(y)) % 5 == 0, "north", "south").astype(object)
    north = site == "north"
    p[north] = 1 - p[north]
    columns = {"site": site, "mean radius": cancer.x[:, 0]}
    found = judge(
        p, y, "classification", ROWS, columns=columns, slices_by=["site", "mean radius"]
    ).evaluation
    first = found.slices[0]
    assert (first.column, first.value, first.rows) == ("site", "north", int(north.sum()))
    assert first.figure == pytest.approx((p[north].argmax(axis=1) == y[north]).mean())
    assert first.interval is not None
    assert first.interval[0] <= first.figure <= first.interval[1]
    ranges = [s for s in found.slices if s.column == "mean radius"]
    assert len(ranges) == 5
    assert sum(s.rows for s in ranges) == len(y)


def test_errors_are_worst_when_high(diabetes: Real) -> None:
    """Of a regression the slices tell the absolute error: the largest first."""
    found = judge(
        diabetes.outputs, diabetes.y, "regression", ROWS,
        columns={"bmi": diabetes.x[:, 2]}, slices_by=["bmi"],
    ).evaluation  # fmt: skip
    assert found.slice_figure == "mae"
    told = [s.figure for s in found.slices]
    assert told == sorted(told, reverse=True)


def test_small_slices_say_so_and_come_last() -> None:
    """One wrong row is not the worst group of all."""
    score = np.array([0.0] + [1.0] * 59 + [0.5] * 40)
    group = np.array(["one"] + ["many"] * 59 + ["some"] * 40, object)
    found, _ = by_column({"group": group}, ["group"], score, worse_is_low=True)
    assert [(s.value, s.small) for s in found] == [("some", False), ("many", False), ("one", True)]
    assert found[-1].interval is None


def test_missing_values_are_a_slice() -> None:
    """In text and in numbers."""
    score = np.ones(6)
    columns = {
        "text": np.array(["", "a", "a", "", "b", "b"], object),
        "number": np.array([np.nan, 1, 1, 2, 2, np.nan]),
    }
    found, _ = by_column(columns, ["text", "number"], score, worse_is_low=True)
    counts = {(s.column, s.value): s.rows for s in found}
    assert counts == {
        ("text", "a"): 2, ("text", "b"): 2, ("text", "missing"): 2,
        ("number", "1"): 2, ("number", "2"): 2, ("number", "missing"): 2,
    }  # fmt: skip


def test_an_unknown_column_is_refused() -> None:
    """With the field and those there are."""
    with pytest.raises(MeuseError, match="nowhere") as caught:
        by_column({"a": np.zeros(3)}, ["nowhere"], np.ones(3), worse_is_low=True)
    assert caught.value.field == "slices"


@settings(deadline=None, max_examples=20)
@given(
    values=st.lists(
        st.one_of(st.floats(allow_nan=True, allow_infinity=False, width=32), st.integers(0, 3)),
        min_size=1,
        max_size=80,
    )
)
def test_slices_of_numbers_cover_every_row_once(values: list[float]) -> None:
    """Whatever the numbers are."""
    found, _ = by_column(
        {"x": np.array(values, float)}, ["x"], np.ones(len(values)), worse_is_low=True
    )
    assert sum(s.rows for s in found) == len(values)


@settings(deadline=None, max_examples=10)
@given(values=st.lists(st.text(max_size=2), min_size=1, max_size=60))
def test_slices_of_text_cover_every_row_once(values: list[str]) -> None:
    """Rare values share a slice; none is lost."""
    found, _ = by_column(
        {"x": np.array(values, object)}, ["x"], np.ones(len(values)), worse_is_low=True
    )
    assert sum(s.rows for s in found) == len(values)
