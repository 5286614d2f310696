"""Where a process spends its time: py-spy's samples while the platform is under load.

py-spy (PyPI) looks at a process from outside; the process is not changed. Only threads that
hold the interpreter are counted: what waits is left out, and so is what an engine or a system
call does without it. What a C function takes is charged to the Python function that called it.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import venvs

_LINE = re.compile(r":\d+\)$")


def start(venv: venvs.Venv, pid: int, seconds: float, out: Path) -> subprocess.Popen[bytes]:
    """Sample a process in the background; `read` its file once this has ended."""
    return subprocess.Popen(
        [
            *(str(venv.folder / "bin" / "py-spy"), "record", "--gil", "--format", "raw"),
            *("--rate", "200", "--duration", str(max(round(seconds), 1))),
            *("--output", str(out), "--pid", str(pid)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def read(raw: str, most: int = 15) -> list[tuple[str, float]]:
    """(function, share of the samples that it was at work itself), the largest first.

    `raw` has a line for each stack: frames from the outermost, then the number of samples.
    """
    own: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        own[_LINE.sub(")", stack.rpartition(";")[2])] += int(count)
    total = own.total() or 1
    return [(name, count / total) for name, count in own.most_common(most)]


def sampled(venv: venvs.Venv, pids: dict[str, int], seconds: float) -> dict[str, Path]:
    """Sample all of `pids` (by name) at once and wait for the end; the files by name."""
    folder = Path(tempfile.mkdtemp(prefix="bench-profile-"))
    files = {name: folder / f"{name}.raw" for name in pids}
    running = [start(venv, pid, seconds, files[name]) for name, pid in pids.items()]
    for process in running:
        process.wait(seconds + 60)
    return {name: file for name, file in files.items() if file.exists()}
