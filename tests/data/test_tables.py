"""What a table holds, and every way in which it can be refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column
from meuse.data.ingest import ingest
from meuse.data.tables import inspect, read


def write(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "t.npz"
    np.savez(path, **arrays)
    return path


def refused(path: Path, format: str, **options: Any) -> MeuseError:
    with pytest.raises(MeuseError) as caught:
        inspect(path, format, **options)
    return caught.value


def test_columns_and_rows_of_a_csv(tmp_path: Path) -> None:
    """A column is integer, float or string by its cells; empty cells and NaN are missing."""
    path = write(
        tmp_path,
        'n,price,name,half,none\n1,1.5,ash,,\n-2,2e3,"birch, silver",7,\n3,nan,,8,\n\n',
    )
    rows, columns = inspect(path, "csv")
    assert rows == 3
    assert columns == (
        Column("n", "integer", 0),
        Column("price", "float", 1),
        Column("name", "string", 1),
        Column("half", "integer", 1),
        Column("none", "float", 3),
    )


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_not_part_of_a_name(tmp_path: Path, prefix: bytes) -> None:
    """UTF-8 is read with and without a byte order mark, with either line ending."""
    path = write(tmp_path, prefix + "größe,b\r\n1,x\r\n2,y\r\n".encode())
    assert inspect(path, "csv") == (2, (Column("größe", "integer"), Column("b", "string")))


def test_kinds_climb_across_blocks(tmp_path: Path) -> None:
    """A column that turns from integers to text late in a large file is text."""
    body = "".join(f"{i},{i}\n" for i in range(250_000))
    path = write(tmp_path, "a,b\n" + body + "0.5,x\n" * 1000)
    rows, columns = inspect(path, "csv")
    assert rows == 251_000
    assert [c.kind for c in columns] == ["float", "string"]


@pytest.mark.parametrize(
    ("content", "field", "words"),
    [
        (b"", "line 1", "empty"),
        (b"\n\n", "line 1", "blank"),
        (b"a,b\n", "line 2", "no row"),
        (b"a,a\n1,2\n", "line 1", "'a' stands twice"),
        (b"a,,c\n1,2,3\n", "line 1", "column 2 has no name"),
        (b"0.5,0.5,1\n1,2,3\n", "line 1", "stands twice"),
        (b"a," + b"b" * 257 + b"\n1,2\n", "column 2", "257 characters; the limit is 256"),
        (b"a,b\n1,2\n3,4,5\n", "line 3", "2 fields, this line has 3"),
        (b"a,b\n1,2\n\n3\n", "line 4", "2 fields, this line has 1"),
        (b"a,b\n1,2\n3,\xff\n", "line 3", "not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "line 1", "not UTF-8"),
        (b'a,b\n1,2\n"3,4\n', "line 3", "not CSV"),
        (b'a,b\n1,2\n"3"x,4\n', "line 3", "not CSV"),
    ],
)
def test_bad_csv_is_refused_with_its_line(
    tmp_path: Path, content: bytes, field: str, words: str
) -> None:
    """Every fault of a CSV file names the line, says what is wrong and how to mend it."""
    error = refused(write(tmp_path, content), "csv")
    assert (error.code, error.field) == (Code.INVALID_DATA, field)
    assert words in error.message
    assert error.hint


def test_columns_of_an_npz(tmp_path: Path) -> None:
    """1-D arrays are columns by key, N-D arrays become key_0, key_1, … in C order; uint8 of 3 or
    4 dimensions is a column of images."""
    path = npz(
        tmp_path,
        image=np.arange(12).reshape(3, 2, 2),
        grey=np.zeros((3, 4, 5), np.uint8),
        photo=np.zeros((3, 4, 5, 3), np.uint8),
        channels_first=np.zeros((3, 1, 4, 5), np.uint8),
        weight=np.array([1.0, np.nan, 2.0], np.float16),
        flag=np.array([True, False, True]),
        label=np.array(["a", "", "c"]),
    )
    rows, columns = inspect(path, "npz")
    assert rows == 3
    assert columns == (
        *(Column(f"image_{i}", "integer") for i in range(4)),
        Column("grey", "image", 0, (4, 5, 1)),
        Column("photo", "image", 0, (4, 5, 3)),
        Column("channels_first", "image", 0, (4, 5, 1)),
        Column("weight", "float", 1),
        Column("flag", "integer"),
        Column("label", "string", 1),
    )


@pytest.mark.parametrize(
    ("arrays", "field", "words"),
    [
        ({"x": np.zeros(3), "y": np.zeros(4)}, "columns.y", "x 3, y 4"),
        ({"x" * 257: np.zeros(3), "y": np.zeros(3)}, "column 1", "257 characters"),
        ({"x": np.array([1, "a", None], dtype=object)}, "columns.x", "pickle"),
        ({"x": np.zeros(3, np.complex64)}, "columns.x", "complex64"),
        ({"x": np.zeros(3, "datetime64[s]")}, "columns.x", "datetime64"),
        ({"x": np.array([b"a", b"b"])}, "columns.x", "|S1"),
        ({"x": np.float32(3)}, "columns.x", "no row"),
        ({"x": np.zeros((0, 4))}, "columns.x", "no row"),
        ({"x": np.zeros((3, 0))}, "columns.x", "no row"),
        ({"x": np.zeros((3, 2)), "x_1": np.zeros(3)}, "arrays", "'x_1' stands twice"),
        ({}, "body", "no array"),
    ],
)
def test_bad_arrays_are_refused_by_name(
    tmp_path: Path, arrays: dict[str, Any], field: str | None, words: str
) -> None:
    """Every array that cannot be a column is refused under its own name."""
    error = refused(npz(tmp_path, **arrays), "npz")
    assert (error.code, error.field) == (Code.INVALID_DATA, field)
    assert words in error.message
    assert error.hint


def entry(content: bytes, name: str = "x.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 not really",
        b"a,b\n1,2\n",
        entry(b"plain text", "readme.txt"),
        entry(b""),
        entry(saved(np.zeros(4))[:-8]),
        entry(saved(np.zeros(4)).replace(b"(4,)", b"(9,)")),
        entry(saved(np.zeros(4)).replace(b"'<f8'", b"'<f8\"")),
        entry(saved(np.zeros(4)))[:-30],
    ],
)
def test_what_is_not_an_archive_of_arrays_is_refused(tmp_path: Path, content: bytes) -> None:
    """Other files, cut archives and headers that promise more than follows are refused."""
    error = refused(write(tmp_path, content, "t.npz"), "npz")
    assert error.code == Code.INVALID_DATA
    assert error.hint


def test_a_damaged_array_is_refused(tmp_path: Path) -> None:
    """An archive whose checksum does not hold is refused."""
    content = bytearray(entry(saved(np.arange(1000.0))))
    content[3000] ^= 0xFF
    error = refused(write(tmp_path, bytes(content), "t.npz"), "npz")
    assert error.code == Code.INVALID_DATA


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """The uncompressed total of an archive is checked by its directory."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros(4_000_000, np.float64))
    assert path.stat().st_size < 100_000
    error = refused(path, "npz", max_bytes=1_000_000)
    assert error.code == Code.TOO_LARGE


def test_a_csv_over_the_limit_is_refused(tmp_path: Path) -> None:
    """A CSV file larger than max_bytes is not read."""
    error = refused(write(tmp_path, "a,b\n" + "1,2\n" * 100), "csv", max_bytes=100)
    assert error.code == Code.TOO_LARGE


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    """Only the listed formats are read."""
    error = refused(write(tmp_path, "a,b\n1,2\n"), "xlsx")
    assert (error.code, error.field) == (Code.INVALID_FIELD, "format")


def test_csv_and_npz_give_the_same_table(tmp_path: Path) -> None:
    """The same numbers in either format are the same features and targets."""
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    y = np.arange(20) % 2
    lines = [",".join(map(repr, [*map(float, row), int(t)])) for row, t in zip(x, y, strict=True)]
    ingest(write(tmp_path, "x_0,x_1,x_2,y\n" + "\n".join(lines)), "csv", tmp_path / "csv.table")
    ingest(npz(tmp_path, x=x, y=y), "npz", tmp_path / "npz.table")
    csv, other = read(tmp_path / "csv.table"), read(tmp_path / "npz.table")
    np.testing.assert_array_equal(csv.frame.numbers, other.frame.numbers)
    np.testing.assert_array_equal(csv.y, other.y)
    assert [c.name for c in csv.features] == [c.name for c in other.features]
    assert csv.frame.numbers.dtype == np.float32


def outcome(path: Path, format: str) -> Code | None:
    """The code of a refusal, None for a table; anything else fails the test."""
    try:
        rows, columns = inspect(path, format)
    except MeuseError as error:
        return error.code
    assert rows > 0
    assert columns
    return None


ACCEPTABLE = (None, Code.INVALID_DATA, Code.TOO_LARGE)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(content=st.binary(max_size=200) | st.text('ab1,.\n"-_ e', max_size=80).map(str.encode))
def test_any_bytes_are_a_table_or_a_precise_refusal(tmp_path: Path, content: bytes) -> None:
    """No content makes the reader fail in any other way than by a MeuseError."""
    for format in ("csv", "npz"):
        assert outcome(write(tmp_path, content, f"fuzz.{format}"), format) in ACCEPTABLE


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(place=st.integers(0, 600), value=st.integers(0, 255))
def test_any_changed_byte_of_an_archive_is_read_or_refused(
    tmp_path: Path, place: int, value: int
) -> None:
    """A changed byte anywhere in an NPZ file gives a table or a MeuseError."""
    content = bytearray(entry(saved(np.arange(30))))
    content[place % len(content)] = value
    assert outcome(write(tmp_path, bytes(content), "flip.npz"), "npz") in ACCEPTABLE
