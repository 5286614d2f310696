"""Parts of an upload: whole or not there, and only what was announced."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.data import parts


def put(folder: Path, number: int, content: bytes) -> None:
    path = folder / "new"
    path.write_bytes(content)
    parts.add(folder, number, path, hashlib.sha256(content).hexdigest())


@given(total=st.integers(1, 10_000), size=st.integers(1, 1000))
def test_sizes_add_up(total: int, size: int) -> None:
    """Every part has a byte at least, and together they are the file."""
    count = parts.part_count(total, size)
    sizes = [parts.size_of(total, size, n) for n in range(1, count + 1)]
    assert sum(sizes) == total
    assert min(sizes) > 0
    for outside in (0, count + 1):
        with pytest.raises(MeuseError):
            parts.size_of(total, size, outside)


def test_a_part_is_replaced_and_the_whole_is_checked(tmp_path: Path) -> None:
    """The last one of a number counts; missing and damaged ones are told."""
    folder = tmp_path / "upload"
    folder.mkdir()
    put(folder, 2, b"world")
    put(folder, 1, b"wrong")
    put(folder, 1, b"hello")
    assert [(p.number, p.bytes) for p in parts.there(folder)] == [(1, 5), (2, 5)]
    with pytest.raises(MeuseError) as refusal:
        parts.check_all(folder, 15, 5)
    assert (refusal.value.code, refusal.value.field) == (Code.CONFLICT, "parts")
    parts.check_all(folder, 10, 5)
    done: list[int] = []
    parts.assemble(folder, tmp_path / "f", hashlib.sha256(b"helloworld").hexdigest(), done.append)
    assert (tmp_path / "f").read_bytes() == b"helloworld"
    assert done == [5, 10]
    with pytest.raises(MeuseError) as refusal:
        parts.assemble(folder, tmp_path / "f", "0" * 64)
    assert refusal.value.field == "sha256"
    next(folder.glob("000002-*")).write_bytes(b"WORLD")
    with pytest.raises(MeuseError) as refusal:
        parts.assemble(folder, tmp_path / "f")
    assert "part 2" in refusal.value.message
