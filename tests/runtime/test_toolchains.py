"""Toolchains: found when whole, made from a lock with hashes, and never half."""

from __future__ import annotations

import hashlib
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from meuse.core.errors import MeuseError
from meuse.runtime import toolchains
from meuse.runtime.toolchains import KNOWN, Toolchain, find, install, need, remove

WHEEL = "meuse_probe-1.0-py3-none-any.whl"


def test_every_lock_pins_with_hashes() -> None:
    for chain in KNOWN.values():
        entries = re.split(r"\n(?=\S)", chain.lock.read_text().strip())
        assert entries
        for entry in entries:
            assert re.match(r"[a-z0-9-]+==\S+", entry), entry
            assert "--hash=sha256:" in entry, entry
    assert "tensorflow-cpu==2.21.0" in KNOWN["tensorflow"].lock.read_text()


def test_what_is_missing_says_how_to_install_it(tmp_path: Path) -> None:
    assert find("tensorflow", tmp_path / "absent") is None
    with pytest.raises(MeuseError) as caught:
        need("tensorflow", tmp_path, "format")
    assert (caught.value.code, caught.value.field) == ("unavailable", "format")
    assert "meuse toolchains install tensorflow" in (caught.value.hint or "")
    for name in ("nonsense", "../tensorflow", ""):
        with pytest.raises(MeuseError, match="there is no toolchain"):
            install(name, tmp_path, print)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels instead of an index; the lock is `lock.txt` in it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr("meuse_probe.py", "ANSWER = 42\n")
        told = "Metadata-Version: 2.1\nName: meuse-probe\nVersion: 1.0\n"
        wheel.writestr("meuse_probe-1.0.dist-info/METADATA", told)
        tags = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr("meuse_probe-1.0.dist-info/WHEEL", tags)
        wheel.writestr("meuse_probe-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(toolchains, "KNOWN", {"probe": Toolchain("probe", "a test", 1, 1)})
    monkeypatch.setattr(Toolchain, "lock", property(lambda _: folder / "lock.txt"))
    return folder


@pytest.mark.timeout(400)
def test_one_is_made_once_and_removed(tmp_path: Path, index: Path) -> None:
    digest = hashlib.sha256((index / WHEEL).read_bytes()).hexdigest()
    lock = index / "lock.txt"
    folder, heard = tmp_path / "toolchains", []
    lock.write_text(f"meuse-probe==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(MeuseError) as caught:
        install("probe", folder, heard.append)
    assert caught.value.code == "unavailable"
    assert list(folder.iterdir()) == []
    lock.write_text(f"meuse-probe==1.0 --hash=sha256:{digest}\n")
    made = install("probe", folder, heard.append)
    program = "import meuse_probe, sys; print(meuse_probe.ANSWER, sys.prefix)"
    said = subprocess.run(
        [str(made.interpreter), "-c", program], check=True, capture_output=True, text=True
    )
    assert said.stdout.split() == ["42", str(made.path)]
    assert (made.packages / "meuse_probe.py").is_file()
    assert install("probe", folder, lambda _: pytest.fail("it is there")) == made
    (made.path / toolchains.MARK).unlink()  # as an install that was killed leaves it
    assert find("probe", folder) is None
    assert remove("probe", folder) == 1
    assert list(folder.iterdir()) == []
