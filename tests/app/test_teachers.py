"""app.work.teachers: teachers and rows of a job's child, and the step whose field is named where
they do not fit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers_jobs import RecordedJob
from meuse.app.work import teachers
from meuse.compress.artifact import Artifact
from meuse.compress.pipeline import Parent
from meuse.compress.spec import CompressSpec
from meuse.compress.teachers import Given
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Examples, Frame, Signature, Splits
from meuse.data.ingest import ingest
from meuse.store.blobs import FolderBlobs
from meuse.train.signature import inputs_for, outputs_for

NAMES = ("a", "b", "c")


def splits() -> Splits:
    numbers = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows = Examples(Frame(NAMES, NAMES, numbers, {}, {}), np.array([0, 1, 0, 1]))
    columns = tuple(Column(name, "float") for name in NAMES)
    return Splits(rows, rows, rows, columns, "y", "classification", (0, 1))


def signature(*names: str) -> Signature:
    inputs = inputs_for([(name, "number") for name in names])
    return Signature(inputs, outputs_for("classification", 2), (0, 1))


def version(ref: str, *names: str) -> dict[str, Any]:
    return {
        "ref": ref, "digest": ref, "format": "onnx", "signature": signature(*names).to_dict(),
        "task": "classification", "target": "y", "features": list(names), "weights": None,
    }  # fmt: skip


def given(folder: Path, inputs: dict[str, Any], *steps: dict[str, Any]) -> Given:
    told = [{"method": "prune"}, *({"method": "distill", **step} for step in steps)]
    spec = CompressSpec.from_dict({"model": "m:1", "steps": told})
    blobs, parent = FolderBlobs(folder / "blobs"), version("m:1", *NAMES)
    whole = {"tenant": "default", "parent": parent, **inputs}
    known = Parent("m:1", Artifact("onnx", b""), signature(*NAMES))
    return teachers.given(blobs, RecordedJob(folder / "job"), whole, spec, splits(), known)


def rows(folder: Path, text: str) -> dict[str, Any]:
    """A dataset of these rows, as control resolves it."""
    source, table = folder / "rows.csv", folder / "table"
    source.write_text(text)
    columns = ingest(source, "csv", table).columns
    with table.open("rb") as file:
        digest, _ = FolderBlobs(folder / "blobs").put("default", file)
    told = [asdict(column) for column in columns]
    return {"tenant": "default", "digest": digest, "format": "table", "columns": told}


def test_a_teacher_may_take_fewer_columns(tmp_path: Path) -> None:
    """Its own by name, in its own order; the parent stands under no name."""
    found = given(tmp_path, {"teachers": {"t:1": version("t:1", "c", "a")}}, {"teacher": "t:1"})
    assert set(found.teachers) == {"", "t:1"}
    assert found.teachers["t:1"].features == ("c", "a")  # type: ignore[attr-defined]


def test_a_teacher_of_columns_that_are_not_there(tmp_path: Path) -> None:
    """The step that names it is told."""
    inputs = {"teachers": {"t:1": version("t:1", "a", "z"), "u:1": version("u:1", "a")}}
    with pytest.raises(MeuseError) as caught:
        given(tmp_path, inputs, {"teacher": "u:1"}, {"teacher": ["u:1", "t:1"]})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "steps.2.teacher")
    assert "'z'" in caught.value.message


def test_rows_without_labels_are_read_by_name(tmp_path: Path) -> None:
    """Whatever their order, and with columns that nobody takes."""
    found = rows(tmp_path, "c,note,b,a\n3,x,2,1\n6,y,5,4\n")
    step = {"unlabelled": "rest:1", "labelled": False}
    frame = given(tmp_path, {"unlabelled": {"rest:1": found}}, step).unlabelled["rest:1"]
    assert frame.select(NAMES).numbers.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_rows_that_float32_cannot_hold(tmp_path: Path) -> None:
    """The step, the column and the row are named."""
    inputs = {"unlabelled": {"rest:1": rows(tmp_path, "a,b,c\n1,2,3\n4,1e300,6\n")}}
    with pytest.raises(MeuseError) as caught:
        given(tmp_path, inputs, {"unlabelled": "rest:1"})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "steps.1.unlabelled")
    assert "'b' has a value that is 1e+300" in caught.value.message
    assert "row 2" in caught.value.message
