"""The very first start under faults: the home is made whole later, or says what is wrong."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from faults.rig import Platform, until


def key_names(platform: Platform) -> list[str]:
    return [key["name"] for key in platform.client().call("GET", "/api/keys")["items"]]


def test_killed_while_it_makes_the_home(tmp_path: Path) -> None:
    """A first start that is killed at any moment leaves a home that starts."""
    chance = random.Random(3)
    platform = Platform(tmp_path / "home")
    try:
        for _ in range(3):
            platform.spawn()
            time.sleep(chance.uniform(0.3, 1.5))  # the fault is the moment itself
            platform.kill_supervisor()
        platform.start()
        assert key_names(platform) == ["administrator"]
    finally:
        platform.close()


@pytest.mark.slow
def test_the_first_key_cannot_be_written(tmp_path: Path) -> None:
    """The administrator's key exists only if it could be handed over."""
    platform = Platform(tmp_path / "home")
    obstacle = tmp_path / "home" / "admin.key.new"
    obstacle.mkdir(parents=True)
    try:
        platform.spawn()
        log = platform.home / "logs" / "control.log"
        until(lambda: log.exists() and log.read_text().count("IsADirectoryError") >= 1)
        obstacle.rmdir()
        platform.wait_up()
        assert key_names(platform) == ["administrator"]
    finally:
        platform.close()
