"""Rows of a model whose inputs are columns."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.gateway.jsonrows import columns
from meuse.serve.snapshot import TensorEntry

SPECS = (
    TensorEntry("age", "FP32", (-1,), nullable=True),
    TensorEntry("city", "BYTES", (-1,)),
    TensorEntry("floor", "INT64", (-1,)),
)


def read(rows: Any, specs: tuple[TensorEntry, ...] = SPECS) -> dict[str, Any]:
    return dict(columns(msgspec.json.encode(rows), specs, "input_data"))


@pytest.mark.parametrize(
    "rows",
    [
        [[37, "Liège", 2], [None, None, -1]],
        [{"floor": 2, "city": "Liège", "age": 37}, {"age": None, "city": "", "floor": -1}],
        [[37.0, "Liège", 2], {"age": None, "city": None, "floor": -1}],
    ],
)
def test_lists_and_objects(rows: Any) -> None:
    """The same rows in three spellings; null is NaN, or an empty text."""
    found = read(rows)
    np.testing.assert_array_equal(found["age"], np.array([37, np.nan], np.float32))
    assert found["age"].dtype == np.float32
    assert found["city"].tolist() == ["Liège".encode(), b""]
    assert found["floor"].tolist() == [2, -1]


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ([], "input_data"),
        (3, "input_data"),
        ([3], "input_data[0]"),
        ([[1, "a", 2], [1, "a"]], "input_data[1]"),
        ([[1, "a", 2], ["1", "a", 2]], "input_data[1].age"),
        ([[True, "a", 2]], "input_data[0].age"),
        ([[1e39, "a", 2]], "input_data[0].age"),
        ([[1, 5, 2]], "input_data[0].city"),
        ([[1, "a", 2.5]], "input_data[0].floor"),
        ([[1, "a", None]], "input_data[0].floor"),
        ([[1, "a", 2**63]], "input_data[0].floor"),
        ([{"age": 1, "city": "a"}], "input_data[0].floor"),
        ([{"age": 1, "city": "a", "floor": 1, "x": 1}], "input_data[0].x"),
    ],
)
def test_rows_that_do_not_fit(rows: Any, field: str) -> None:
    """Row and input are named."""
    with pytest.raises(MeuseError) as caught:
        read(rows)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_INPUT, field)


IMAGE = (TensorEntry("picture", "UINT8", (-1, -1, -1, 1)), TensorEntry("n", "FP32", (-1,)))


def test_tensors_in_rows() -> None:
    """Nested lists of one shape for all rows."""
    picture = [[[1], [2]], [[3], [255]]]
    found = read([[picture, 1], [picture, 2]], IMAGE)
    assert found["picture"].shape == (2, 2, 2, 1)
    assert found["picture"].dtype == np.uint8


@pytest.mark.parametrize(
    "bad", [[[[1, 2]]], [[[256]]], [[[1.5]]], [[["a"]]], 3, [[1]], [[[1]], []]]
)
def test_tensors_that_do_not_fit(bad: Any) -> None:
    """Of another rank, out of range, fractions, texts, uneven."""
    with pytest.raises(MeuseError) as caught:
        read([[[[[1]]], 1], [bad, 1]], IMAGE)
    assert caught.value.field == "input_data[1].picture"


@given(st.lists(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists)))
def test_anything_else_is_refused_or_read(rows: list[Any]) -> None:
    """No body makes another error than ours."""
    try:
        columns(json.dumps(rows).encode(), SPECS, "input_data")
    except MeuseError as error:
        assert error.code == Code.INVALID_INPUT  # noqa: PT017
