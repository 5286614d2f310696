"""serve.cost"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.serve.cost import CostModel


@given(st.floats(0, 5000), st.floats(1, 500), st.lists(st.integers(1, 64), min_size=8))
def test_a_straight_line_is_found(fixed: float, slope: float, sizes: list[int]) -> None:
    """Batches of different sizes that take a + c·b are predicted to take that."""
    cost = CostModel()
    for rows in (*sizes, 1, 64):
        cost.observe(rows, fixed + slope * rows)
    assert cost.predict(64) == pytest.approx(fixed + slope * 64, rel=0.01)
    assert cost.predict(1) == pytest.approx(fixed + slope, rel=0.01, abs=1)


@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(0, 1e7)), min_size=1))
def test_parameters_are_never_negative(batches: list[tuple[int, float]]) -> None:
    """Whatever was seen, more rows never take less, and no batch takes negative time."""
    cost = CostModel()
    for rows, us in batches:
        cost.observe(rows, us)
        fixed, slope = cost.parameters
        assert fixed >= 0
        assert slope >= 0
        assert cost.predict(2) >= cost.predict(1)


def test_one_size_says_nothing_of_the_offset() -> None:
    """After single rows alone, two are taken to need twice as long."""
    cost = CostModel()
    for _ in range(50):
        cost.observe(1, 5000)
    assert cost.predict(2) == pytest.approx(10_000)
    assert cost.rows_within(20_000) == pytest.approx(4)


def test_a_slower_machine_is_believed_a_single_pause_is_not() -> None:
    """One batch of a second does not make all look late; a hundred slow ones do."""
    cost = CostModel()
    for _ in range(100):
        cost.observe(1, 1000)
    cost.observe(1, 1_000_000)
    assert cost.predict(1) < 1200
    for _ in range(100):
        cost.observe(1, 3000)
    assert cost.predict(1) == pytest.approx(3000, rel=0.1)


def test_nothing_is_known_at_first() -> None:
    """Before a batch was seen, none is held back."""
    cost = CostModel()
    assert (cost.known, cost.predict(64), cost.rows_within(1)) == (False, 0.0, math.inf)
