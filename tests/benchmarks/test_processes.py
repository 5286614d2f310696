"""Server processes of the benchmark: found, counted and ended."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import processes

ORPHAN = """
import os, subprocess, sys
code = "import time\\nwhile True: time.sleep(1)"
if os.fork() == 0:
    os.setsid()
    child = subprocess.Popen([sys.executable, "-c", code])
    print(child.pid, flush=True)
    os._exit(0)
os.wait()
import time
time.sleep(60)
"""


def test_an_orphan_of_a_server_is_found_and_ended(tmp_path: Path) -> None:
    """A process whose parent went away still counts as the server's, and does not outlive it."""
    log = tmp_path / "log"
    with processes.started([sys.executable, "-c", ORPHAN], {}, log, tmp_path) as (_, group):
        deadline = time.monotonic() + 30
        while not log.read_text().endswith("\n"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        orphan = int(log.read_text())
        assert orphan in group.pids()
    assert orphan not in processes.family(orphan)


def test_cpu_time_counts_all_processes_of_a_server(tmp_path: Path) -> None:
    """What a child burns is the server's."""
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\n"
    code = f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
    log = tmp_path / "log"
    command = [sys.executable, "-c", code + "time.sleep(60)"]
    with processes.started(command, {}, log, tmp_path) as (_, group):
        deadline = time.monotonic() + 60
        while group.cpu_seconds() < 0.25:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert os.getpid() not in group.pids()
