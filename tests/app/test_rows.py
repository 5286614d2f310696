"""app.work.rows and predict: columns as a version takes them, answers as cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meuse.app.work import rows
from meuse.app.work.predict import _answers, _csv, _texts
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Signature, TensorSpec
from meuse.data.canonical import open_table
from meuse.data.ingest import ingest

COLUMNS = [
    Column("id", "integer"), Column("a", "float"), Column("b", "integer"), Column("y", "integer"),
]  # fmt: skip


def version(*inputs: TensorSpec, **more: Any) -> dict[str, Any]:
    signature = Signature(inputs, (TensorSpec("value", "FP32", (-1,)),)).to_dict()
    return {"ref": "m:1", "target": "y", "task": "regression", "signature": signature, **more}


MATRIX = TensorSpec("input", "FP32", (-1, 2))


def names(found: list[Column]) -> list[str]:
    return [column.name for column in found]


def test_features_by_name_where_they_are_known() -> None:
    """In the order of training, whatever else the data has."""
    known = version(MATRIX, features=["b", "a"])
    assert names(rows.features_of(COLUMNS, known, [])) == ["b", "a"]
    with pytest.raises(MeuseError) as caught:
        rows.features_of(COLUMNS[2:], known, [])
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
    assert "'a'" in caught.value.message


def test_features_by_number_where_they_are_not() -> None:
    """All numbers but the target; what is kept beside the answers may be one or not."""
    assert names(rows.features_of(COLUMNS[1:], version(MATRIX), [])) == ["a", "b"]
    assert names(rows.features_of(COLUMNS, version(MATRIX), ["id"])) == ["a", "b"]
    assert names(rows.features_of(COLUMNS[1:], version(MATRIX), ["a"])) == ["a", "b"]
    with pytest.raises(MeuseError, match="takes 2 features, the data has 3"):
        rows.features_of(COLUMNS, version(MATRIX), [])


def test_inputs_of_their_own_are_found_by_name() -> None:
    """Text beside numbers."""
    own = version(TensorSpec("b", "FP32", (-1,)), TensorSpec("word", "BYTES", (-1,)))
    columns = [*COLUMNS, Column("word", "string")]
    assert names(rows.features_of(columns, own, [])) == ["b", "word"]
    with pytest.raises(MeuseError, match="'word'"):
        rows.features_of(COLUMNS, own, [])


def ingested(path: Path, format: str) -> tuple[Path, tuple[Column, ...]]:
    """The canonical table of a file, and its columns."""
    table = path.with_name(f"{path.name}.table")
    ingest(path, format, table)
    return table, open_table(table).columns


def test_columns_keep_what_they_are(tmp_path: Path) -> None:
    """Large integers exactly, missing numbers as NaN, text as text; CSV and NPZ alike."""
    path = tmp_path / "t.csv"
    path.write_text("n,f,t,g\n9007199254740993,1.5,x,\n-1,,,2\n")
    found = rows.read_columns(*ingested(path, "csv"))
    assert found["n"].tolist() == [9007199254740993, -1]
    assert found["f"].tolist()[0] == 1.5
    assert np.isnan(found["f"][1])
    assert found["t"].tolist() == ["x", ""]
    assert _texts(found["g"]) == ["", "2"]
    npz = tmp_path / "t.npz"
    np.savez(npz, n=np.array([9007199254740993, -1]), t=np.array(["x", ""]))
    found = rows.read_columns(*ingested(npz, "npz"))
    assert found["n"].tolist() == [9007199254740993, -1]
    assert found["t"].tolist() == ["x", ""]


def test_a_missing_number_is_refused_unless_the_version_fills_it_in() -> None:
    """With the column and the row."""
    values = {"a": np.array([1.0, np.nan])}
    with pytest.raises(MeuseError) as caught:
        rows.frame_of(values, [COLUMNS[1]], nullable=False)
    assert caught.value.field == "columns.a"
    assert "row 2" in caught.value.message
    assert np.isnan(rows.frame_of(values, [COLUMNS[1]], nullable=True).numbers[1, 0])
    with pytest.raises(MeuseError, match="too large"):
        rows.frame_of({"a": np.array([1e300])}, [COLUMNS[1]], nullable=True)


def test_answers_by_task() -> None:
    """Labels, several labels joined by bars, values; probabilities by class when asked."""
    p = np.array([[0.25, 0.75], [1, 0]], np.float32)
    outputs = (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2)))
    made = {"task": "classification", "signature": Signature((), outputs, ("no", "yes")).to_dict()}
    answer = {"label": np.array([1, 0]), "probabilities": p}
    assert _answers(answer, made, True) == [
        ("prediction", ["yes", "no"]), ("probability_no", ["0.25", "1"]),
        ("probability_yes", ["0.75", "0"]),
    ]  # fmt: skip
    assert _answers(answer, made, False) == [("prediction", ["yes", "no"])]
    several = {"labels": np.array([[1, 1], [0, 0]]), "probabilities": p}
    found = _answers(several, {**made, "task": "multilabel"}, False)
    assert found == [("prediction", ["no|yes", ""])]
    value = {"value": np.array([0.1, 3], np.float32)}
    assert _answers(value, version(MATRIX), True) == [("prediction", ["0.1", "3"])]


def test_two_columns_of_one_name_are_refused() -> None:
    """A kept column may not stand in for an answer."""
    with pytest.raises(MeuseError, match="prediction"):
        _csv([("prediction", ["1"]), ("prediction", ["2"])], header=True)


def test_a_row_without_labels_is_a_row() -> None:
    """A line of one empty cell would be read as no line at all."""
    assert _csv([("prediction", ["a", "", "b"])], header=True) == b'prediction\na\n""\nb\n'
