"""The page of started requests and signs of life."""

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


def test_a_pulse_tells_life_and_batches(tmp_path: Path) -> None:
    """Every beat and every batch is another number; odd is at work. Rest forgets no ids."""
    writer = PageWriter(tmp_path / "r.page", 2)
    reader = PageReader(tmp_path / "r.page")
    assert reader.pulse() == (0, 0)
    steps = []
    for ids in (IDS[:1], IDS[1:3]):  # the second straight after the first: run in parts
        writer.mark(ids)
        steps.append(reader.pulse()[1])
    writer.rest()
    writer.rest()
    assert reader.started() == frozenset(IDS[1:3])
    steps.append(reader.pulse()[1])
    writer.mark(IDS[:1])
    steps.append(reader.pulse()[1])
    assert [step % 2 for step in steps] == [1, 1, 0, 1]
    assert sorted(set(steps)) == steps
    writer.beat()
    assert reader.pulse() == (1, steps[-1])
    assert reader.started() == frozenset(IDS[:1])
    reader.close()


def test_numbers_come_round(tmp_path: Path) -> None:
    """After as many as four bytes can tell, odd stays at work and even at rest."""
    writer = PageWriter(tmp_path / "r.page", 2)
    reader = PageReader(tmp_path / "r.page")
    writer._step = writer._beat = 0xFFFFFFFE
    seen = []
    for _ in range(3):
        writer.mark(IDS[:1])
        writer.beat()
        seen.append(reader.pulse())
        writer.rest()
        seen.append(reader.pulse())
    assert [step for _, step in seen] == [0xFFFFFFFF, 0, 1, 2, 3, 4]
    assert [beat for beat, _ in seen[::2]] == [0xFFFFFFFF, 0, 1]


def test_no_page(tmp_path: Path) -> None:
    """What an earlier release has written, or nobody, is refused."""
    path = tmp_path / "r.page"
    for content in (b"", b"\0" * 4, b"\1\0\0\0" + bytes(64), b"MPG2"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"page|empty"):
            PageReader(path)
    with pytest.raises(FileNotFoundError):
        PageReader(tmp_path / "none")
