"""Ingesting needs the same memory whatever the size of the upload."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MIB = 1 << 20
CHILD = """
import re, sys
from pathlib import Path
from meuse.data.ingest import ingest
found = ingest(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[1] + ".table"))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(found.rows, int(peak[1]) << 10, *(c.kind for c in found.columns))
"""


def peak(path: Path, format: str = "csv") -> tuple[int, int, list[str]]:
    """(rows, peak resident bytes, kinds) of ingesting in a process of its own."""
    command = [sys.executable, "-c", CHILD, str(path), format]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, resident, *kinds = done.stdout.split()
    return int(rows), int(resident), kinds


def generated(path: Path, size: int) -> Path:
    """A CSV of at least `size` bytes: numbers, a category, quoted text with commas."""
    random = np.random.default_rng(0)
    numbers, counts = random.normal(size=(5000, 8)), random.integers(0, 10**6, (5000, 3))
    lines = [
        ",".join([*(f"{v:.6f}" for v in row), *map(str, many), f"city {many[0] % 7}"])
        + f',"user {many[1]}, of {many[2]}"\n'
        for row, many in zip(numbers.tolist(), counts.tolist(), strict=True)
    ]
    block = "".join(lines).encode()
    names = [*(f"f{i}" for i in range(8)), "n0", "n1", "n2", "city", "who"]
    with path.open("wb") as file:
        file.write((",".join(names) + "\n").encode())
        for _ in range(size // len(block) + 1):
            file.write(block)
    return path


@pytest.mark.parametrize(
    ("small", "large"), [(10, 40), pytest.param(50, 200, marks=pytest.mark.slow)]
)
@pytest.mark.timeout(400)
def test_memory_does_not_grow_with_a_csv(tmp_path: Path, small: int, large: int) -> None:
    """Four times the rows, the same memory, far below half a gigabyte."""
    rows, first, kinds = peak(generated(tmp_path / "small.csv", small * MIB))
    more, second, _ = peak(generated(tmp_path / "large.csv", large * MIB))
    assert kinds == ["float"] * 8 + ["integer"] * 3 + ["string"] * 2
    assert more > 3.5 * rows
    assert second < 350 * MIB
    assert second - first < 80 * MIB


def test_a_million_categories_cost_no_more(tmp_path: Path) -> None:
    """Distinct texts are not gathered anywhere."""
    path = tmp_path / "t.csv"
    with path.open("w") as file:
        file.write("key,y\n")
        file.writelines(f"category-{i:09},{i % 2}\n" for i in range(1_000_000))
    rows, resident, kinds = peak(path)
    assert (rows, kinds) == (1_000_000, ["string", "integer"])
    assert resident < 350 * MIB
