"""Parquet, Arrow, JSON lines, NPZ and text: types mapped, faults named."""

from __future__ import annotations

import decimal
import io
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.helpers_data import ACCEPTABLE, bad, outcome, picture, refused, rows, taken
from meuse.core.errors import MeuseError
from meuse.core.nouns import Column
from meuse.data.formats import FORMATS, parse, sniff
from meuse.data.tables import read

TYPED = pa.table(
    {
        "small": pa.array([1, None, 3], pa.int8()),
        "huge": pa.array([1, 2, 3], pa.uint64()),
        "half": pa.array(np.array([0.5, np.nan, 2], np.float16)),
        "price": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("3")]),
        "flag": pa.array([True, False, None]),
        "day": pa.array([date(2026, 11, 24), None, date(1999, 1, 2)]),
        "at": pa.array([datetime(2026, 11, 24, 14, 18, 16, tzinfo=UTC)] * 3),
        "plain": pa.array([datetime(2026, 11, 24, 14, 18, 16)] * 3, pa.timestamp("s")),
        "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
        "code": pa.array([7, 8, 7]).dictionary_encode(),
        "name": pa.array(["x", "", None], pa.large_string()),
        "none": pa.nulls(3),
    }
)
KINDS = [
    "integer", "integer", "float", "float", "string", "string", "string", "string", "string",
    "integer", "string", "float",
]  # fmt: skip


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def ipc(table: pa.Table, new: str = "file") -> bytes:
    buffer = io.BytesIO()
    make = pa.ipc.new_file if new == "file" else pa.ipc.new_stream
    with make(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["parquet", "arrow-file", "arrow-stream", "feather"])
def test_types_are_mapped(tmp_path: Path, format: str) -> None:
    """Numbers are numbers; booleans, dates and dictionaries of text are text, in ISO 8601."""
    if format == "parquet":
        found = taken(tmp_path, parquet(TYPED.drop_columns("half")), "parquet")
    elif format == "feather":
        path = tmp_path / "t.feather"
        feather.write_feather(TYPED.drop_columns("half"), path)
        found = taken(tmp_path, path.read_bytes(), "arrow")
    else:
        content = ipc(TYPED.drop_columns("half"), format.removeprefix("arrow-"))
        found = taken(tmp_path, content, "arrow")
    assert [c.kind for c in found.columns] == KINDS[:2] + KINDS[3:]
    assert [c.missing for c in found.columns] == [1, 0, 1, 1, 1, 0, 0, 0, 0, 2, 3]
    row = rows(tmp_path).to_pylist()[0]
    assert row["price"] == 1.25
    assert row["flag"] == "true"
    assert row["day"] == "2026-11-24"
    assert row["at"].startswith("2026-11-24T14:18:16")
    assert row["at"].endswith("Z")
    assert row["plain"] == "2026-11-24T14:18:16"
    assert row["code"] == 7


def test_floats_of_half_precision(tmp_path: Path) -> None:
    """NaN is missing."""
    found = taken(tmp_path, ipc(TYPED.select(["half"])), "arrow")
    assert found.columns == (Column("half", "float", 1),)


def test_an_unsigned_number_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """2⁶⁴-1 is no int64; as a float it may be."""
    table = pa.table({"n": pa.array([1, 2**64 - 1], pa.uint64())})
    bad(refused(tmp_path, parquet(table), "parquet"), "columns.n", "does not fit")
    assert taken(tmp_path, parquet(table), "parquet", kinds={"n": "float"}).rows == 2


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([[1], [2]]), "nested"),
        (pa.array([{"a": 1}, {"a": 2}]), "nested"),
        (pa.array([b"a", b"b"]), "binary"),
        (pa.array([1, 2], pa.duration("s")), "duration"),
    ],
)
def test_a_column_that_cannot_be_one_is_named(tmp_path: Path, column: pa.Array, words: str) -> None:
    """Lists, structs, bytes and durations."""
    table = pa.table({"ok": [1, 2], "odd": column})
    bad(refused(tmp_path, ipc(table), "arrow"), "columns.odd", words)


def test_overrides_convert(tmp_path: Path) -> None:
    """Numbers become text and text numbers; a binary column of PNG becomes images."""
    table = pa.table({"zip": [1234, 99], "n": ["1", " 2.5"], "img": [picture(), picture((8, 6))]})
    kinds = {"zip": "string", "n": "float", "img": "image"}
    found = taken(tmp_path, parquet(table), "parquet", kinds=kinds)
    assert found.columns == (
        Column("zip", "string"), Column("n", "float"), Column("img", "image", 0, (6, 8, 3)),
    )  # fmt: skip
    assert rows(tmp_path)["zip"].to_pylist() == ["1234", "99"]


def test_a_broken_image_in_a_column_names_its_row(tmp_path: Path) -> None:
    """Bytes that are no image are told by row."""
    table = pa.table({"img": [picture(), b"\x89PNG no"]})
    error = refused(tmp_path, parquet(table), "parquet", kinds={"img": "image"})
    bad(error, "columns.img", "row 2", "broken")


@pytest.mark.parametrize("format", ["parquet", "arrow"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_cut_files_are_refused(tmp_path: Path, format: str, part: float) -> None:
    """A file that ends early is no table."""
    whole = parquet(TYPED.select(["huge", "kind"])) if format == "parquet" else ipc(TYPED)
    error = refused(tmp_path, whole[: int(len(whole) * part)], format)
    bad(error, "body", "cannot be read")


def test_a_table_without_rows_or_columns_is_refused(tmp_path: Path) -> None:
    """There is nothing to keep."""
    bad(refused(tmp_path, parquet(TYPED.slice(0, 0).select(["huge"])), "parquet"), "body", "no row")
    bad(refused(tmp_path, ipc(pa.table({})), "arrow"), "columns", "no column")


def test_json_lines(tmp_path: Path) -> None:
    """Keys are columns, absent keys and null missing, booleans text."""
    content = '{"a": 1, "b": "x"}\n\n{"a": 2.5, "c": true}\n{"a": null, "b": ""}\n'
    found = taken(tmp_path, content, "jsonl")
    assert found.columns == (
        Column("a", "float", 1), Column("b", "string", 2), Column("c", "string", 2),
    )  # fmt: skip
    assert rows(tmp_path)["c"].to_pylist() == [None, "true", None]


@pytest.mark.parametrize(
    ("content", "field", "words"),
    [
        ("", "line 1", "empty"),
        ('{"a": 1}\n{"a": \n', "line 2", "not a JSON object"),
        ('{"a": 1}\n\n[1]\n', "line 3", "not a JSON object"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "line 2", "not UTF-8"),
        ('{"a": 1}\n{"a": [1, 2]}\n', "columns.a", "a list at line 2"),
        ('{"a": 1}\n{"a": {"b": 2}}\n', "columns.a", "an object at line 2"),
        ('{"a": 1, "A": 2}\n', "line 1", "differ in case"),
        ('{"a": 5}\n' * 200 + '\n{"a": "five"}\n', "columns.a", "line 202 'five'"),
    ],
)
def test_bad_json_lines_are_refused_with_the_line(
    tmp_path: Path, content: bytes | str, field: str, words: str
) -> None:
    """Every fault names its line, or the column and the line."""
    bad(refused(tmp_path, content, "jsonl"), field, words)


def test_plain_text(tmp_path: Path) -> None:
    """One row a line, without blank ones."""
    assert taken(tmp_path, "one\n\n two \n", "txt").columns == (Column("text", "string"),)
    assert rows(tmp_path)["text"].to_pylist() == ["one", "two"]
    bad(refused(tmp_path, b"a\nb\xff\n", "txt"), "line 2", "not UTF-8")
    bad(refused(tmp_path, "\n\n", "txt"), "body", "no row")


def test_images_in_an_npz_come_back_as_pixels(tmp_path: Path) -> None:
    """uint8 arrays of 3 and 4 dimensions are read as they were."""
    grey = np.random.default_rng(0).integers(0, 256, (30, 5, 4), np.uint8)
    colour = np.random.default_rng(1).integers(0, 256, (30, 3, 5, 4), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, grey=grey, colour=colour, y=np.arange(30))
    taken(tmp_path, buffer.getvalue(), "npz")
    frame = read(tmp_path / "table").frame
    np.testing.assert_array_equal(frame.images["grey"][..., 0], grey)
    np.testing.assert_array_equal(frame.images["colour"], colour.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("content", "name", "format"),
    [
        (b"a,b\n1,2\n", "", "csv"),
        (b"a\tb\n", "t.TSV", "tsv"),
        (b"{}", "t.ndjson", "jsonl"),
        (parquet(TYPED.select(["huge"])), "x", "parquet"),
        (ipc(TYPED), "x", "arrow"),
        (ipc(TYPED, "stream"), "x", "arrow"),
    ],
)
def test_formats_are_known_by_their_bytes(
    tmp_path: Path, content: bytes, name: str, format: str
) -> None:
    """By the first bytes, else by the file's name, else CSV."""
    path = tmp_path / "t"
    path.write_bytes(content)
    assert sniff(path, name) == format


def test_names_of_formats() -> None:
    """Aliases are known, others refused with the list."""
    assert (parse("Feather"), parse("tar.gz"), parse("ndjson")) == ("arrow", "tar", "jsonl")
    with pytest.raises(MeuseError, match="format of data"):
        parse("xlsx")


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=300), format=st.sampled_from(FORMATS))
def test_any_bytes_are_a_table_or_a_refusal(tmp_path: Path, content: bytes, format: str) -> None:
    """No content makes a reader fail in any other way."""
    assert outcome(tmp_path, content, format) in ACCEPTABLE


WHOLE = {"parquet": parquet(TYPED.select(["huge", "kind"])), "arrow": ipc(TYPED)}


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(format=st.sampled_from(sorted(WHOLE)), place=st.floats(0, 0.9999), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(
    tmp_path: Path, format: str, place: float, value: int
) -> None:
    """A changed byte anywhere gives a table or a MeuseError."""
    content = bytearray(WHOLE[format])
    content[int(place * len(content))] = value
    assert outcome(tmp_path, bytes(content), format) in ACCEPTABLE
