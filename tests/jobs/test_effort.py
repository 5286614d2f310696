"""What a job costs: real CPU time, sums over restarts, counters that wrap or are absent."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from meuse.jobs.effort import Counters, Effort


def burn(seconds: float) -> None:
    """CPU time of this process, however busy the machine is."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


def package(root: Path, number: int, microjoules: int, wraps: int = 1_000_000) -> Path:
    zone = root / f"intel-rapl:{number}"
    zone.mkdir(parents=True)
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text(f"{wraps}\n")
    return zone / "energy_uj"


def test_cpu_time_is_measured(tmp_path: Path) -> None:
    """Work counts, waiting does not."""
    with Effort(tmp_path / "effort.json", tmp_path / "none") as effort:
        burn(0.2)
        time.sleep(0.3)
    spent = effort.spent()
    assert 0.2 <= spent.cpu_seconds < 0.45
    assert spent.seconds > 0.45


def test_without_counters_energy_is_not_measured(tmp_path: Path) -> None:
    """None, and said so: never an estimate."""
    with Effort(tmp_path / "effort.json", tmp_path / "none") as effort:
        pass
    assert effort.spent().energy_joules is None
    assert effort.spent().energy.startswith("not measured")


def test_attempts_add_up(tmp_path: Path) -> None:
    """A killed attempt counts up to its last note."""
    path, root = tmp_path / "effort.json", tmp_path / "powercap"
    counter = package(root, 0, 100)
    first = Effort(path, root)
    burn(0.1)
    counter.write_text("500100")
    first.note()
    burn(0.1)  # lost: no note follows, as when the process is killed
    with Effort(path, root) as second:
        counter.write_text("700100")
    spent = second.spent()
    assert spent.attempts == 2
    assert 0.1 <= spent.cpu_seconds < 0.19
    assert spent.energy_joules == pytest.approx(0.7)
    assert json.loads(path.read_text())["attempts"] == 2


def test_counters_of_packages_add_up_and_wrap(tmp_path: Path) -> None:
    """Sub-zones are part of their package and do not count twice."""
    one, two = package(tmp_path, 0, 900_000), package(tmp_path, 1, 0)
    (tmp_path / "intel-rapl:0:0").mkdir()
    counters = Counters(tmp_path)
    one.write_text("100000")  # wrapped at a million
    two.write_text("300000")
    assert counters.joules() == pytest.approx(0.5)
    two.write_text("400000")
    assert counters.joules() == pytest.approx(0.6)
    one.unlink()
    assert counters.joules() is None
    assert "went away" in counters.told


def test_energy_of_a_part_is_not_told_as_the_whole(tmp_path: Path) -> None:
    """An attempt without counters leaves the sum unknown."""
    path, root = tmp_path / "effort.json", tmp_path / "powercap"
    with Effort(path, root):
        pass
    package(root, 0, 0)
    with Effort(path, root) as second:
        pass
    assert second.spent().energy_joules is None
