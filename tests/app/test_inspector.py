"""Uploads are read in children: what they tell comes back, what ends them is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from meuse.app.inspector import Inspector
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column
from meuse.data.canonical import open_table
from meuse.settings import load


@pytest.fixture
def inspector(tmp_path: Path) -> Inspector:
    return Inspector(load(tmp_path))


def test_a_table_comes_back_with_its_progress(inspector: Inspector, tmp_path: Path) -> None:
    """Rows and columns are told, the canonical file is written, fractions rise."""
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n" + "1,x,\n" * 300_000)
    told: list[float] = []
    found = inspector.table(path, "csv", tmp_path / "table", {"kinds": "a:float"}, told.append)
    assert found.rows == 300_000
    assert found.columns == (
        Column("a", "float"), Column("b", "string"), Column("c", "float", 300_000),
    )  # fmt: skip
    assert "'c' has no value" in found.warnings[0]
    assert told
    assert told == sorted(told)
    assert open_table(found.table).rows == 300_000


def test_a_refusal_comes_back_as_it_was(inspector: Inspector, tmp_path: Path) -> None:
    """Code, field, message and hint."""
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(MeuseError) as caught:
        inspector.table(path, "csv", tmp_path / "table", {})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "line 3")
    assert caught.value.hint


def test_a_child_that_takes_too_long_is_ended(inspector: Inspector, tmp_path: Path) -> None:
    """The upload is refused, and the place is free for the next one."""
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    for _ in range(3):  # more often than there are places
        with pytest.raises(MeuseError, match="could not be read") as caught:
            inspector.table(path, "csv", tmp_path / "table", {}, timeout_s=0.01)
        assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "body")
    assert inspector.table(path, "csv", tmp_path / "table", {}).rows == 1
