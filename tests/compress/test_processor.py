"""What a processor can do, by the flags that it tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from meuse.compress.processor import sums_are_exact


@pytest.mark.parametrize(
    ("flags", "exact"),
    [("fpu avx2 avx512_vnni", True), ("fpu avx_vnni", True), ("fpu avx2 avx512f", False)],
)
def test_vnni_is_read_from_the_processors_flags(tmp_path: Path, flags: str, exact: bool) -> None:
    """Only a processor with VNNI sums 8-bit products without saturation."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: avx_vnni?\nflags\t\t: {flags}\n")
    assert sums_are_exact(cpuinfo) == exact
    assert not sums_are_exact(tmp_path / "absent")
