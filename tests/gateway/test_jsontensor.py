"""JSON to tensors: what is accepted, and the field that every refusal names."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.gateway import jsontensor


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "expected"),
    [
        (b"[[1, 2.5], [3e0, -4]]", "FP32", (-1, 2), [[1, 2.5], [3, -4]]),
        (b"[1, 2]", "INT64", (-1,), [1, 2]),
        (b"[[1,2,3,4]]", "FP64", (-1, 2, 2), [[[1, 2], [3, 4]]]),
        (b" [ [[1,2],[3,4]] ] ", "FP32", (-1, 2, 2), [[[1, 2], [3, 4]]]),
        (b"[[1,2,3]]", "FP32", (-1, -1), [[1, 2, 3]]),
        (b"[[true,false]]", "BOOL", (-1, 2), [[True, False]]),
        (b"[[255]]", "UINT8", (-1, 1), [[255]]),
        (b"[[18446744073709551615]]", "UINT64", (-1, 1), [[2**64 - 1]]),
        ('["a","","né"]'.encode(), "BYTES", (-1,), [b"a", b"", "né".encode()]),
        (b'[["a","b"],["c","d"]]', "BYTES", (-1, 2), [[b"a", b"b"], [b"c", b"d"]]),
        (b'[["a","b"]]', "BYTES", (-1, 2, 1), [[[b"a"], [b"b"]]]),
    ],
)
def test_rows(raw: bytes, datatype: str, shape: tuple[int, ...], expected: object) -> None:
    """Rows may be nested as the model's shape, or flat."""
    got = jsontensor.rows(raw, datatype, shape, "input_data")
    assert got.tolist() == expected
    assert jsontensor.DTYPES[datatype] == got.dtype


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "field"),
    [
        (b"[]", "FP32", (-1, 2), "input_data"),
        (b"7", "FP32", (-1, 2), "input_data"),
        (b'"text"', "FP32", (-1, 2), "input_data"),
        (b"null", "FP32", (-1, 2), "input_data"),
        (b"[1,2]", "FP32", (-1, 2), "input_data[0]"),
        (b"[[[1,2]]]", "FP32", (-1, 2), "input_data[0]"),
        (b"[[1,2],[1,2],[1]]", "FP32", (-1, 2), "input_data[2]"),
        (b"[[1],[1,2]]", "FP32", (-1, 2), "input_data[0]"),
        (b"[[1,2,3],[1,2,3]]", "FP32", (-1, 2), "input_data[0]"),
        (b"[[],[]]", "FP32", (-1, 2), "input_data[0]"),
        (b'[[1,2],[1,"2"]]', "FP32", (-1, 2), "input_data[1]"),
        (b"[[1,2],[1,true]]", "FP32", (-1, 2), "input_data[1]"),
        (b"[[1,2],[null,1]]", "FP32", (-1, 2), "input_data[1]"),
        (b"[[1,2],3]", "FP32", (-1, 2), "input_data[1]"),
        (b"[[1,2],[1,1e39]]", "FP32", (-1, 2), "input_data[1]"),
        (b"[[1,2],[1,1e999]]", "FP64", (-1, 2), "input_data[1]"),
        (b"[[1,2],[1,70000]]", "FP16", (-1, 2), "input_data[1]"),
        (b"[[1,2],[1,128]]", "INT8", (-1, 2), "input_data[1]"),
        (b"[[1,2],[1,-1]]", "UINT64", (-1, 2), "input_data[1]"),
        (b"[[1,2],[1,18446744073709551616]]", "UINT64", (-1, 2), "input_data[1]"),
        (b"[[1,2],[1,1.5]]", "INT64", (-1, 2), "input_data[1]"),
        (b"[[1,2],[1,0]]", "BOOL", (-1, 2), "input_data[0]"),
        (b"[[[1,2],[3,4]],[[1,2],[3]]]", "FP32", (-1, 2, 2), "input_data[1]"),
        (b"[[[1,2],[3,4]],[[1,2]]]", "FP32", (-1, 2, 2), "input_data[1]"),
        (b"[[1,2,3]]", "FP32", (-1, 2, 2), "input_data[0]"),
        (b"[[1,2],[1]]", "FP32", (-1, -1), "input_data[1]"),
        (b"[" * 17 + b"]" * 17, "FP32", (-1, 2), "input_data"),
        (b'[["a"],["b","c"]]', "BYTES", (-1, 1), "input_data[1]"),
        (b'[["a"],["b","c"]]', "BYTES", (-1, -1), "input_data[1]"),
        (b'[["a"],[1]]', "BYTES", (-1, 1), "input_data[1]"),
        (b'[["\\ud800"]]', "BYTES", (-1, 1), "input_data"),
        (b'[["\xff"]]', "BYTES", (-1, 1), "input_data"),
    ],
)
def test_bad_rows_are_named(raw: bytes, datatype: str, shape: tuple[int, ...], field: str) -> None:
    """Every refusal is `invalid_input` and names the first row at fault."""
    with pytest.raises(MeuseError) as caught:
        jsontensor.rows(raw, datatype, shape, "input_data")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_INPUT, field)


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "field"),
    [
        (b"[1,2,3]", "FP32", (2, 2), "inputs[0].data"),
        (b"[[1,2],[3]]", "FP32", (2, 2), "inputs[0].data"),
        (b"[[1,2]]", "FP32", (2, 2), "inputs[0].data"),
        (b"[[[1]]]", "FP32", (1, 1), "inputs[0].data"),
        (b"{}", "FP32", (1,), "inputs[0].data"),
        (b'[1,2,"3"]', "FP32", (3,), "inputs[0].data[2]"),
        (b'[[1,2],[3,"4"]]', "FP32", (2, 2), "inputs[0].data[1][1]"),
        (b"[1,2,3,300,301]", "UINT8", (5,), "inputs[0].data[3]"),
        (b"[1,1e39]", "FP32", (2,), "inputs[0].data[1]"),
        (b"[true]", "INT32", (1,), "inputs[0].data[0]"),
        (b"[1]", "BYTES", (1,), "inputs[0].data[0]"),
        (b'[["a","b"],["c"]]', "BYTES", (2, 2), "inputs[0].data"),
        (b'["a"]', "BYTES", (2,), "inputs[0].data"),
        (b"[1]", "BF16", (1,), "inputs[0].data"),
        (b"[]", "FP32", (0, 2**62, 8), "inputs[0].data"),
        (b"[]", "FP32", (0, 10**30), "inputs[0].data"),
    ],
)
def test_bad_tensors_are_named(
    raw: bytes, datatype: str, shape: tuple[int, ...], field: str
) -> None:
    """Flat and nested data name the element where one is at fault."""
    with pytest.raises(MeuseError) as caught:
        jsontensor.tensor(raw, datatype, shape, "inputs[0].data")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_INPUT, field)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False),
                         min_size=3, max_size=3), min_size=1, max_size=5))  # fmt: skip
def test_floats_arrive_as_they_were(values: list[list[float]]) -> None:
    """Nested, flat and by rows give the same float32 values."""
    raw = repr(values).encode()
    flat = repr([v for row in values for v in row]).encode()
    expected = np.array(values, np.float32)
    shape = (len(values), 3)
    for got in (
        jsontensor.rows(raw, "FP32", (-1, 3), "f"),
        jsontensor.tensor(raw, "FP32", shape, "f"),
        jsontensor.tensor(flat, "FP32", shape, "f"),
    ):
        assert np.array_equal(expected, got)


@given(st.text(alphabet='[]{}1.,-e"ntu \\'), st.sampled_from(["FP32", "INT8", "BOOL"]))
def test_noise_is_refused_or_read(text: str, datatype: str) -> None:
    """Nothing but `MeuseError` comes out, whatever comes in (the body was JSON before)."""
    try:
        msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        return
    for shape in ((-1, 2), (-1,), (1, 2, 2)):
        try:
            got = jsontensor.rows(text.encode(), datatype, shape, "f")
        except MeuseError:
            continue
        assert got.shape[0] > 0


@given(
    st.integers(1, 5).flatmap(
        lambda width: st.lists(
            st.lists(
                st.floats(allow_nan=False, allow_infinity=False), min_size=width, max_size=width
            ),
            min_size=1,
            max_size=4,
        )
    )
)
def test_a_matrix_is_what_numpy_makes_of_it(values: list[list[float]]) -> None:
    """Bit for bit; None where a number is beyond the type, so that the error names its row."""
    with np.errstate(over="ignore"):
        expected = np.array(values, np.float32)
    got = jsontensor.packed(values, len(values[0]))
    if np.isinf(expected).any():
        assert got is None
    else:
        assert got is not None
        assert got.tobytes() == expected.tobytes()
        assert got.shape == expected.shape
