"""Preparation: fitted on the rows given, applied by the graph that serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Frame
from meuse.train.prepare import graph
from meuse.train.prepare.apply import Preparer
from meuse.train.prepare.fit import fit
from meuse.train.prepare.options import PrepareOptions
from meuse.train.prepare.steps import Preparation


def frame(**columns: list[object]) -> tuple[Frame, list[Column]]:
    """A frame of numbers (float) and texts (str), by the type of the first value."""
    kinds = {n: "string" if isinstance(v[0], str) else "float" for n, v in columns.items()}
    numeric = tuple(name for name, kind in kinds.items() if kind == "float")
    rows = len(next(iter(columns.values())))
    numbers = np.array([columns[n] for n in numeric], np.float32).T.reshape(rows, len(numeric))
    texts = {n: np.array(columns[n], object) for n, kind in kinds.items() if kind == "string"}
    made = Frame(tuple(columns), numeric, numbers, texts)
    gaps = dict(zip(numeric, np.isnan(numbers).sum(axis=0).tolist(), strict=True))
    return made, [Column(name, kind, gaps.get(name, 0)) for name, kind in kinds.items()]


def test_numbers_are_standardised_and_missing_ones_filled() -> None:
    """By mean and deviation of the fitted rows; a gap takes the median; a constant stays 0."""
    rows, columns = frame(a=[1.0, 3.0, 5.0, float("nan")], b=[2.0, 2.0, 2.0, 2.0])
    preparation = fit(rows, columns)
    assert preparation.nullable
    filled = np.array([1, 3, 5, 3], np.float32)
    found = Preparer(preparation).apply(rows)
    np.testing.assert_allclose(found[:, 0], (filled - 3) / filled.std(), atol=1e-6)
    np.testing.assert_array_equal(found[:, 1], 0)


def test_texts_become_one_column_a_value() -> None:
    """Values are those of the fitted rows, sorted; unknown and missing ones give zeros."""
    rows, columns = frame(a=[0.0, 2.0, 1.0], tree=["oak", "ash", ""])
    preparation = fit(rows, columns)
    assert preparation.shape == (3,)
    later, _ = frame(a=[1.0, 1.0], tree=["elm", "oak"])
    np.testing.assert_array_equal(Preparer(preparation).apply(later), [[0, 0, 0], [0, 0, 1]])


def test_a_preparation_is_data() -> None:
    """It survives JSON, and says no more than it was fitted to."""
    rows, columns = frame(a=[0.0, 2.0, 1.0], tree=["oak", "ash", ""])
    preparation = fit(rows, columns)
    again = Preparation.from_dict(preparation.to_dict())
    assert again == preparation
    np.testing.assert_array_equal(Preparer(again).apply(rows), Preparer(preparation).apply(rows))


def test_a_column_of_nothing_is_left_out() -> None:
    """It is told; with nothing left there is an error that names the columns."""
    nan = float("nan")
    rows, columns = frame(a=[nan, nan], b=[1.0, 2.0], tree=["", ""])
    heard: list[str] = []
    preparation = fit(rows, columns, told=heard.append)
    assert preparation.columns == (("b", "number"),)
    assert [message.split("'")[1] for message in heard] == ["a", "tree"]
    with pytest.raises(MeuseError) as caught:
        fit(rows, columns, options(drop=["b"]))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "columns")


def prepared(
    rows: Frame, known: list[Column], later: Frame | None = None, /, **chosen: object
) -> np.ndarray:
    return Preparer(fit(rows, known, options(**chosen))).apply(later or rows)


def options(**chosen: object) -> PrepareOptions:
    return msgspec.convert(chosen, PrepareOptions)


NUMBERS = [float(v) for v in range(-50, 50)] + [1000.0]


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ({"scale": "none"}, lambda v: v),
        ({"scale": "minmax"}, lambda v: (v + 50) / 1050),
        ({"clip": [0.1, 0.9], "scale": "none"}, lambda v: np.clip(v, -40, 40)),
        ({"log": True, "scale": "none"}, lambda v: np.sign(v) * np.log1p(abs(v))),
        ({"scale": "standard"}, lambda v: (v - v.mean()) / v.std()),
    ],
)
def test_numbers_by_option(chosen: dict[str, object], wanted: Callable[..., np.ndarray]) -> None:
    """Each transformation by its formula."""
    rows, columns = frame(a=NUMBERS)
    found = prepared(rows, columns, columns={"a": chosen})
    np.testing.assert_allclose(found[:, 0], wanted(np.array(NUMBERS)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("missing", "wanted"), [("median", 2.0), ("mean", 3.0), ("zero", 0.0), (7, 7.0)]
)
def test_gaps_are_filled_as_asked(missing: object, wanted: float) -> None:
    rows, columns = frame(a=[1.0, float("nan"), 2.0, 6.0])
    found = prepared(rows, columns, default={"missing": missing, "scale": "none"})
    np.testing.assert_allclose(found[:, 0], [1, wanted, 2, 6])


def test_gaps_are_refused_when_asked() -> None:
    """With the column and how many."""
    rows, columns = frame(a=[1.0, float("nan"), 2.0])
    with pytest.raises(MeuseError, match="missing in 1 rows") as caught:
        fit(rows, columns, options(columns={"a": {"missing": "refuse"}}))
    assert caught.value.field == "columns.a"


def test_gaps_outside_the_fitted_rows_are_filled_too() -> None:
    """The column knows of them; the rows to train on happen to have none."""
    rows, _ = frame(a=[1.0, 2.0, 6.0])
    preparation = fit(rows, [Column("a", "float", missing=1)])
    assert preparation.nullable
    later, _ = frame(a=[float("nan")])
    assert Preparer(preparation).apply(later) == Preparer(preparation).apply(rows)[1]


def test_categories_as_one_number_and_hashed() -> None:
    """Ordinal: the place among the values; hashed: equal texts alike, any text somewhere."""
    rows, columns = frame(tree=["oak", "ash", "elm", ""])
    later, _ = frame(tree=["elm", "fir", "", "oak"])
    found = prepared(rows, columns, later, columns={"tree": {"encode": "ordinal"}})
    np.testing.assert_allclose(found[:, 0], [2 / 3, 0, 0, 1])
    hashed = prepared(rows, columns, later, columns={"tree": {"encode": "hash", "buckets": 16}})
    assert hashed.shape == (4, 16)
    np.testing.assert_array_equal(hashed.sum(axis=1), 1)
    again = prepared(rows, columns, rows, columns={"tree": {"encode": "hash", "buckets": 16}})
    np.testing.assert_array_equal(hashed[0], again[2])


def test_numbers_as_categories() -> None:
    """One feature per value; a gap and an unknown number give zeros, beside other numbers."""
    rows, columns = frame(code=[3.0, 1.0, 3.0, 7.5], a=[0.0, 1.0, 0.0, 1.0])
    later, _ = frame(code=[7.5, 2.0, float("nan")], a=[0.0, 0.0, 0.0])
    found = prepared(rows, columns, later, columns={"code": {"kind": "category"}})
    np.testing.assert_array_equal(found[:, 1:], [[0, 0, 1], [0, 0, 0], [0, 0, 0]])


def test_too_many_categories_are_refused() -> None:
    """With their number and three ways out."""
    rows, columns = frame(id=[f"u{i}" for i in range(300)])
    with pytest.raises(MeuseError, match="300 distinct") as caught:
        fit(rows, columns)
    assert caught.value.field == "columns.id"
    assert "hash" in str(caught.value.hint)


@given(st.lists(st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31)), min_size=1))
@settings(max_examples=40, deadline=None)
def test_dates_by_the_calendar(dates: list[datetime]) -> None:
    """Days, month, weekday and hour are those of the standard library."""
    rows, columns = frame(at=[d.isoformat() for d in dates])
    preparation = fit(rows, columns)
    (step,) = preparation.dates
    found = Preparer(preparation).apply(rows)
    days = np.array([(d.date() - date(1970, 1, 1)).days for d in dates])
    np.testing.assert_allclose(found[:, 0], (days - step.shift) / step.scale, rtol=1e-3, atol=1e-3)
    for column, values, period in (
        (1, [d.month - 1 for d in dates], 12),
        (3, [d.weekday() for d in dates], 7),
        (5, [d.hour for d in dates], 24),
    ):
        angle = 2 * np.pi * np.array(values) / period
        np.testing.assert_allclose(found[:, column], np.sin(angle), atol=1e-5)
        np.testing.assert_allclose(found[:, column + 1], np.cos(angle), atol=1e-5)


def test_what_is_no_date_counts_as_the_middle_one() -> None:
    """An empty text, nonsense and an impossible month do not fail a request."""
    rows, columns = frame(at=["2024-01-01", "2024-01-03", "2024-01-05"])
    later, _ = frame(at=["2024-01-03", "", "soon", "2024-13-01"])
    found = prepared(rows, columns, later)
    np.testing.assert_array_equal(found, np.repeat(found[:1], 4, axis=0))


TEXT = frozenset({"text"})


def test_texts_become_ids() -> None:
    """By frequency; case folded; signs stand alone; padding is 0, unknown 1, cut at the length."""
    rows, columns = frame(said=["The cat, the dog", "the end"], n=[1.0, 2.0])
    heard: list[str] = []
    chosen = options(text={"length": 4, "vocabulary": 5})
    preparation = fit(rows, columns, chosen, TEXT, heard.append)
    assert preparation.tokens is not None
    assert preparation.tokens.vocabulary == ("the", ",", "cat")
    assert "left out: n" in heard[0]
    later, _ = frame(said=["THE CAT", "", "dog , the the the"], n=[0.0, 0.0, 0.0])
    found = Preparer(preparation).apply(later)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, [[2, 4, 0, 0], [0, 0, 0, 0], [1, 3, 2, 2]])
    empty, _ = frame(said=["", ""], n=[0.0, 0.0])
    np.testing.assert_array_equal(Preparer(preparation).apply(empty), np.zeros((2, 4)))


IMAGE = frozenset({"image"})


def pictures(*shape: int) -> Frame:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    return Frame(("picture",), (), np.empty((shape[0], 0), np.float32), {}, {"picture": pixels})


def test_images_pass_as_they_are() -> None:
    """Their size is the model's; nothing is converted."""
    rows = pictures(3, 8, 6, 3)
    preparation = fit(rows, [Column("picture", "image")], kinds=IMAGE)
    (spec,) = graph.inputs_of(preparation)
    assert (spec.datatype, spec.shape) == ("UINT8", (-1, 8, 6, 3))
    np.testing.assert_array_equal(Preparer(preparation).apply(rows), rows.images["picture"])


def test_images_of_any_size_are_resized() -> None:
    """To the size asked for, by area; grey from three channels."""
    rows = pictures(3, 8, 8, 3)
    chosen = options(image={"size": [4, 4], "grey": True})
    preparation = fit(rows, [Column("picture", "image")], chosen, IMAGE)
    (spec,) = graph.inputs_of(preparation)
    assert spec.shape == (-1, -1, -1, 3)
    found = Preparer(preparation).apply(pictures(2, 16, 12, 3))
    assert (found.shape, found.dtype) == ((2, 4, 4, 1), np.uint8)
    flat = Frame(
        ("picture",),
        (),
        np.empty((1, 0), np.float32),
        {},
        {"picture": np.full((1, 9, 9, 3), 77, np.uint8)},
    )
    assert (Preparer(preparation).apply(flat) == 77).all()


def test_numeric_columns_as_pixels() -> None:
    """Row by row; another number of columns is refused with the sum."""
    rows = Frame.of_numbers(np.arange(24, dtype=np.float32).reshape(2, 12))
    columns = [Column(name, "float") for name in rows.names]
    preparation = fit(rows, columns, options(image={"pixels": [3, 4]}), IMAGE)
    np.testing.assert_array_equal(
        Preparer(preparation).apply(rows), rows.numbers.reshape(2, 3, 4, 1)
    )
    with pytest.raises(MeuseError, match="there are 12") as caught:
        fit(rows, columns, options(image={"pixels": [4, 4]}), IMAGE)
    assert caught.value.field == "prepare.image.pixels"
    with pytest.raises(MeuseError, match="takes one image column"):
        fit(rows, columns, kinds=IMAGE)


@pytest.mark.parametrize(
    ("chosen", "field"),
    [
        ({"columns": {"b": {}}}, "prepare.columns"),
        ({"drop": ["b"]}, "prepare.drop"),
        ({"columns": {"tree": {"kind": "number"}}}, "prepare.columns.tree.kind"),
        ({"columns": {"a": {"kind": "category", "encode": "hash"}}}, "prepare.columns.a.encode"),
    ],
)
def test_options_that_fit_no_column(chosen: dict[str, object], field: str) -> None:
    rows, columns = frame(a=[0.0, 2.0, 1.0], tree=["oak", "ash", ""])
    with pytest.raises(MeuseError) as caught:
        fit(rows, columns, options(**chosen))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)


def test_a_mixed_table_survives_json() -> None:
    """Every kind of step at once; what is read back does the same."""
    rows, columns = frame(
        a=[0.0, float("nan"), 5.0],
        at=["2024-01-01", "2025-06-07T08:09:10", ""],
        tree=["oak", "ash", ""],
        code=[1.0, 2.0, 2.0],
        user=["x", "y", "z"],
    )
    chosen = options(columns={"code": {"kind": "category"}, "user": {"encode": "hash"}})
    preparation = fit(rows, columns, chosen)
    again = Preparation.from_dict(json.loads(json.dumps(preparation.to_dict())))
    assert again == preparation
    found = Preparer(again).apply(rows)
    assert found.shape == (3, *preparation.shape)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "change",
    [
        {"columns": []},
        {"columns": [["a", "number"], ["a", "number"]]},
        {"columns": [["a", "number"]], "numbers": None},
        {"tokens": {"column": "said", "vocabulary": [], "length": 3, "lowercase": True}},
        {"code": "print()"},
    ],
)
def test_a_document_that_is_no_preparation(change: dict[str, object]) -> None:
    good = Preparation.of_numbers(["a", "b"]).to_dict()
    with pytest.raises(msgspec.ValidationError):
        Preparation.from_dict(good | change)
