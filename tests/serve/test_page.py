"""The page of started requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from meuse.serve.page import PageReader, PageWriter

IDS = [bytes([i]) * 16 for i in range(4)]


def test_marks_are_read_by_another_descriptor(tmp_path: Path) -> None:
    """The last batch is what is read, also after smaller and empty ones."""
    writer = PageWriter(tmp_path / "r.page", 4)
    reader = PageReader(tmp_path / "r.page")
    assert reader.started() == frozenset()
    for batch in (IDS, IDS[1:2], []):
        writer.mark(batch)
        assert reader.started() == frozenset(batch)
    with pytest.raises(ValueError, match="5 ids"):
        writer.mark([*IDS, IDS[0]])
    reader.close()


def test_a_new_replica_leaves_the_old_page_alone(tmp_path: Path) -> None:
    """Who connected to the old replica still reads what that one had started."""
    PageWriter(tmp_path / "r.page", 2).mark(IDS[:2])
    reader = PageReader(tmp_path / "r.page")
    PageWriter(tmp_path / "r.page", 2).mark(IDS[2:3])
    assert reader.started() == frozenset(IDS[:2])
    reader.close()
