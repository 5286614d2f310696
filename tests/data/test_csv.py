"""CSV: kinds, the rule for strays, encodings, and that fast and precise readers agree."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data.helpers_data import bad, refused, rows, taken
from meuse.core.errors import Code, MeuseError
from meuse.data import csv_stream
from meuse.data.canonical import Reading
from meuse.data.csv_scan import look
from meuse.data.faults import Retry
from meuse.data.options import ReadOptions

NUMBERS = [f"{i},{i / 2}" for i in range(400)]


def table(*lines: str, header: str = "a,b") -> str:
    return "\n".join([header, *lines]) + "\n"


def test_stray_texts_among_numbers_are_refused_with_their_lines(tmp_path: Path) -> None:
    """A few texts in a column of numbers do not make it text in silence."""
    error = refused(tmp_path, table(*NUMBERS, "1,oops", "2,3", "3,n.a."), "csv")
    bad(error, "columns.b", "401 numbers and 2 texts", "line 402 'oops'", "line 404 'n.a.'")
    assert "kinds=b:string" in str(error.hint)
    assert "missing=oops" in str(error.hint)


def test_strays_are_accepted_on_demand(tmp_path: Path) -> None:
    """As text by an override, or as missing values by a list."""
    content = table(*NUMBERS, "1,oops", "2,n.a.")
    found = taken(tmp_path, content, "csv", kinds={"b": "string"})
    assert [c.kind for c in found.columns] == ["integer", "string"]
    assert rows(tmp_path)["b"][400].as_py() == "oops"
    found = taken(tmp_path, content, "csv", missing=["oops", "n.a."])
    assert [(c.kind, c.missing) for c in found.columns] == [("integer", 0), ("float", 2)]


@pytest.mark.parametrize(
    ("texts", "numbers", "kind"),
    [(5, 400, "string"), (1000, 200_000, "string"), (4, 400, None), (999, 200_000, None)],
)
def test_the_rule_for_strays(tmp_path: Path, texts: int, numbers: int, kind: str | None) -> None:
    """Strays are fewer than 1,000 and at most one in a hundred; else the column is text."""
    content = "a\n" + "7\n" * numbers + "x\n" * texts
    if kind is None:
        bad(refused(tmp_path, content, "csv"), "columns.a", f"{texts} text")
    else:
        assert taken(tmp_path, content, "csv").columns[0].kind == kind


def test_the_usual_marks_are_missing_among_numbers_only(tmp_path: Path) -> None:
    """NA is a missing number, and a text like any other among texts."""
    found = taken(tmp_path, table("1,NA", "NA,x", "3,y", ",z"), "csv")
    assert [(c.kind, c.missing) for c in found.columns] == [("integer", 2), ("string", 0)]


def test_numbers_in_every_spelling(tmp_path: Path) -> None:
    """Signs, exponents, bare points and leading zeros are numbers; hex and underscores text."""
    content = "i,f,x,u,big\n+5,.5,0x10,1_0,9223372036854775808\n007,1E+3,0x11,2_0,1\n"
    found = taken(tmp_path, content, "csv")
    assert [c.kind for c in found.columns] == ["integer", "float", "string", "string", "float"]
    assert rows(tmp_path)["i"].to_pylist() == [5, 7]
    assert rows(tmp_path)["f"].to_pylist() == [0.5, 1000.0]


@pytest.mark.parametrize(
    ("kind", "cell", "words"),
    [("integer", "1.5", "'1.5'"), ("float", "ten", "'ten'"), ("integer", "9" * 19, "999")],
)
def test_an_override_that_a_cell_denies_names_its_line(
    tmp_path: Path, kind: str, cell: str, words: str
) -> None:
    """The column was said to be of a kind; the first cell that is not is told."""
    error = refused(tmp_path, table("1,1", f"2,{cell}", "3,3"), "csv", kinds={"b": kind})
    bad(error, "columns.b", f"said to be {kind}", "line 3", words)


def test_an_override_of_no_column_is_refused(tmp_path: Path) -> None:
    """The columns that there are are listed."""
    error = refused(tmp_path, table("1,2"), "csv", kinds="c:string")
    assert (error.code, error.field) == (Code.INVALID_FIELD, "kinds.c")
    assert "a, b" in str(error.hint)


def test_names_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    """Age and age are one column to many tools."""
    bad(refused(tmp_path, table("1,2", header="Age,age"), "csv"), "line 1", "'Age' and 'age'")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("latin-1", "größe,b\n1,é\n"), ("utf-16", "größe,b\n1,✓\n"), ("cp1252", "a,b\n1,€\n")],
)
def test_other_encodings_are_read_on_demand(tmp_path: Path, encoding: str, text: str) -> None:
    """Without the option the line is named; with it the text is what it was."""
    error = refused(tmp_path, text.encode(encoding), "csv")
    assert error.message == "the text is not UTF-8"
    assert "encoding=" in str(error.hint)
    found = taken(tmp_path, text.encode(encoding), "csv", encoding=encoding)
    assert found.columns[0].name == text.split(",", maxsplit=1)[0]
    assert rows(tmp_path)["b"].to_pylist() == [text.splitlines()[1].split(",")[1]]


def test_a_wrong_encoding_names_its_line(tmp_path: Path) -> None:
    """The encoding that was named does not fit from that line on."""
    error = refused(tmp_path, b"a,b\n1,x\n2,\xff\xfe\n", "csv", encoding="ascii")
    bad(error, "line 3", "not ascii")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("encoding", "klingon"),
        ("encoding", "base64"),
        ("delimiter", "ab"),
        ("kinds", "a:number"),
        ("kinds", "[1]"),
        ("missing", [1]),
        ("on_error", "ignore"),
        ("sheet", "1"),
    ],
)
def test_a_bad_option_is_refused_by_name(option: str, value: object) -> None:
    """Options are checked before anything is read."""
    with pytest.raises(MeuseError) as caught:
        ReadOptions.from_dict({option: value})
    assert caught.value.code == Code.INVALID_FIELD
    assert str(caught.value.field).partition(".")[0] == option


def test_delimiters(tmp_path: Path) -> None:
    """TSV by format, others by option."""
    assert len(taken(tmp_path, "a\tb\n1\tx,y\n", "tsv").columns) == 2
    assert len(taken(tmp_path, 'a;b\n1;"x;y"\n', "csv", delimiter=";").columns) == 2
    error = refused(tmp_path, "a;b\n1,5;2\n", "csv")
    assert "delimiter=" in str(error.hint)


def test_an_all_missing_column_is_kept_with_a_warning(tmp_path: Path) -> None:
    """It is in the dataset; training will leave it out."""
    found = taken(tmp_path, table("1,", "2,", "3,"), "csv")
    assert [(c.kind, c.missing) for c in found.columns] == [("integer", 0), ("float", 3)]
    assert "'b' has no value" in found.warnings[0]


def test_a_column_empty_at_first_is_judged_by_what_follows(tmp_path: Path) -> None:
    """The beginning of a file suggests kinds; it does not decide them."""
    body = "1,,\n" * 700_000
    found = taken(tmp_path, "a,b,c\n" + body + "1,5,\n2.5,6,x\n", "csv")
    assert [c.kind for c in found.columns] == ["float", "integer", "string"]
    assert [c.missing for c in found.columns] == [0, 700_000, 700_001]


def test_long_cells_and_lines(tmp_path: Path) -> None:
    """A document in one cell, longer than the fast reader's block, is read."""
    long = "word " * 1_200_000
    taken(tmp_path, f'a,b\n1,"{long}"\n2,short\n', "csv")
    assert rows(tmp_path)["b"][0].as_py() == long.strip()


def test_progress_is_told_forwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fractions rise from 0 to 1."""
    from meuse.data import ingest as module

    monkeypatch.setattr(module, "TICK_S", 0.0)
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1.5,x\n" * 2_000_000)
    told: list[float] = []
    module.ingest(path, "csv", tmp_path / "table", progress=told.append)
    assert told == sorted(told)
    assert 0 < told[0] < 1
    assert told[-1] == pytest.approx(1.0)


cells = st.text(st.sampled_from('ab1.,";\n é-+eNA'), max_size=6)


def written(table: list[list[str]], terminator: str) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator=terminator).writerows(table)
    return buffer.getvalue()


def contents(reading: Reading) -> tuple[list[str], list[list[object]]]:
    """Kinds and values, all of them."""
    batches = [list(batch) for batch in reading.batches]
    columns: list[list[object]] = [
        pa.chunked_array([b[i] for b in batches]).to_pylist() for i in range(len(reading.fields))
    ]
    return [f.kind for f in reading.fields], columns


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=8),
    terminator=st.sampled_from(["\n", "\r\n"]),
)
@example(body=[("+1", "0x1", "NA")], terminator="\n")
def test_the_fast_and_the_precise_reader_agree(
    tmp_path: Path, body: list[tuple[str, str, str]], terminator: str
) -> None:
    """Every way to read the same file gives the same kinds and values, or gives up."""
    path = tmp_path / "t.csv"
    lines = [["a", "b", "c"], *map(list, body)]
    path.write_bytes(written(lines, terminator).encode())
    found = []
    for reading in csv_stream.readings(path, ReadOptions(), ",", tmp_path, lambda part: None):
        try:
            found.append(contents(reading))
        except Retry:
            continue
    assert found
    assert all(one == found[-1] for one in found)


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.text(st.sampled_from('a1,"\n\r '), max_size=40))
@example(content='a,b\n1,"3"x\n')
@example(content='a,b\n1,"3\n')
@example(content='a\n"1"" ""2"\n')
def test_any_text_is_read_alike_or_refused_alike(tmp_path: Path, content: str) -> None:
    """What the scan calls sound the strict reader takes: the fast path forgives nothing."""
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode())
    if not look(path, ",").sound:
        return
    try:
        list(csv.reader(io.StringIO(content, newline=""), strict=True))
    except csv.Error as error:
        raise AssertionError(f"{content!r} is not sound: {error}") from None
