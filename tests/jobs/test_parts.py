"""A file that grows part by part: killed at any byte, no part is there twice or missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.jobs.parts import Parts

WRITER = """
import sys
from pathlib import Path
from meuse.jobs.parts import Parts

folder = Path(sys.argv[1])
with Parts(folder / "out", folder / "parts") as parts:
    for n in range(len(parts.done), 400):
        parts.append(f"part {n}\\n".encode() * (1 + n % 50), n=n)
"""


def expected(count: int) -> bytes:
    return b"".join(f"part {n}\n".encode() * (1 + n % 50) for n in range(count))


def test_killed_again_and_again_it_ends_whole(tmp_path: Path) -> None:
    """A real writer under kill -9: the file is that of an undisturbed run."""
    kills = 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
        manifest = tmp_path / "parts"
        before = manifest.stat().st_size if manifest.exists() else 0
        deadline = time.monotonic() + 60
        while (
            kills < 3
            and process.poll() is None
            and (manifest.stat().st_size if manifest.exists() else 0) < before + 800
        ):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        if kills < 3 and process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
            process.wait()
            continue
        assert process.wait() == 0
        break
    assert kills > 0
    assert (tmp_path / "out").read_bytes() == expected(400)
    with Parts(tmp_path / "out", tmp_path / "parts") as parts:
        assert [part["n"] for part in parts.done] == list(range(400))


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_torn_files_are_cut_to_whole_parts(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a crash has left behind the last whole part goes."""
    folder = tmp_path_factory.mktemp("parts")
    out, manifest = folder / "out", folder / "parts"
    with Parts(out, manifest) as parts:
        for n in range(5):
            parts.append(f"part {n}\n".encode(), n=n)
    lines = manifest.read_bytes()
    cut = data.draw(st.integers(0, len(lines)))
    manifest.write_bytes(lines[:cut])
    whole = lines[:cut].count(b"\n")
    out.write_bytes(out.read_bytes() + data.draw(st.binary(max_size=20)))
    with Parts(out, manifest) as parts:
        assert [part["n"] for part in parts.done] == list(range(whole))
        for n in range(whole, 5):
            parts.append(f"part {n}\n".encode(), n=n)
    assert out.read_bytes() == b"".join(f"part {n}\n".encode() for n in range(5))


def test_a_file_that_lost_bytes_is_refused(tmp_path: Path) -> None:
    """Rather than answers with a hole."""
    out, manifest = tmp_path / "out", tmp_path / "parts"
    with Parts(out, manifest) as parts:
        parts.append(b"part\n")
    out.write_bytes(b"pa")
    with pytest.raises(ValueError, match="shorter"):
        Parts(out, manifest)
