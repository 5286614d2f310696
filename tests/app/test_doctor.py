"""What the doctor says of a home that nobody has started in."""

from __future__ import annotations

from pathlib import Path

from meuse.app.doctor import examine
from meuse.runtime import sandbox
from meuse.runtime.toolchains import KNOWN, MARK
from meuse.settings import load


def test_toolchains_and_sandbox_are_told(tmp_path: Path) -> None:
    """What is absent with the command that installs it, what is there with its place."""

    def told() -> dict[str, str]:
        return {f.check: f.finding for f in examine(load(tmp_path))}

    before = told()
    assert f"tier {sandbox.survey().tier}: " in before["sandbox"]
    assert "meuse toolchains install tensorflow" in before["toolchain tensorflow"]
    place = KNOWN["tensorflow"].place(load(tmp_path).toolchains)
    place.mkdir(parents=True)
    (place / MARK).write_text("{}")
    assert told()["toolchain tensorflow"] == f"installed in {place}"
