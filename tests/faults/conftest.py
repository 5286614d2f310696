"""One home is prepared once (data, a trained model); each platform starts on a copy of it."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.rig import Platform

FEATURES = 8
EPOCHS = 40
SPEC: dict[str, Any] = {
    "epochs": EPOCHS,
    "batch_size": 8,
    "config": {"hidden": [256], "dropout": 0.2},
    "seed": 7,
    "checkpoint_seconds": 0.05,
}
"""The training that every test of jobs repeats, under a model name of its own."""


def write_points(path: Path, rows: int, seed: int = 5) -> Path:
    """A CSV file: eight numbers and which of three classes they belong to."""
    chance = random.Random(seed)
    with path.open("w") as file:
        file.write(",".join(f"x{i}" for i in range(FEATURES)) + ",kind\n")
        for _ in range(rows):
            point = [chance.random() for _ in range(FEATURES)]
            kind = int(sum(point) > 4) + int(point[0] > 0.5)
            file.write(",".join(f"{value:.6f}" for value in point) + f",{kind}\n")
    return path


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home at rest: data "points:1", an undisturbed training as "reference:1"."""
    folder = tmp_path_factory.mktemp("prepared")
    platform = Platform(folder / "home")
    try:
        platform.start()
        with_data = platform.client()
        with_data.upload("points", write_points(folder / "points.csv", 1000))
        with_data.wait(with_data.train("reference", "points", **SPEC)["id"], timeout_s=240)
        assert platform.stop() == 0
    finally:
        platform.close()
    return platform.home


@pytest.fixture(scope="module")
def make_platform(
    prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Platform]]:
    """Platforms on copies of the prepared home, ended with the module."""
    made: list[Platform] = []
    numbers = itertools.count()

    def make(settings: str = "") -> Platform:
        """`settings`: lines of its meuse.toml."""
        home = tmp_path_factory.mktemp("faults") / f"home{next(numbers)}"
        shutil.copytree(prepared, home)
        (home / "meuse.toml").write_text(settings)
        made.append(Platform(home))
        return made[-1].start()

    yield make
    for platform in made:
        platform.close()


@pytest.fixture(scope="module")
def platform(make_platform: Callable[[], Platform]) -> Platform:
    """The platform that the tests of a module share: that each leaves it whole is a claim."""
    return make_platform()
