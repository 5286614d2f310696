"""The examples run as a newcomer would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from e2e.conftest import Platform

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
NEEDS = {"text": Path("/usr/share/games/fortunes/law")}


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if p.stem == "text" else pytest.mark.slow) for p in EXAMPLES],
    ids=lambda path: path.stem,
)
def test_an_example_runs(platform: Platform, path: Path) -> None:
    """To its end, and it says what it made."""
    data = NEEDS.get(path.stem)
    if data is not None and not data.exists():
        pytest.skip(f"{data} is not there: install the Debian package fortunes")
    done = subprocess.run(
        [sys.executable, str(path), platform.url, platform.admin_key],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "example-" in done.stdout
