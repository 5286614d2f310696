"""What a supervisor holds of its home: the lock, the folder of sockets, the run file.

Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any


class AlreadyRunningError(Exception):
    """Another supervisor holds this home."""


class Home:
    """`claim` or `adopt` it first. `lock` is a descriptor, `sockets` a folder of its own."""

    lock: int
    sockets: Path

    def __init__(self, folder: Path, run_file: Path) -> None:
        self._folder = folder
        self._run_file = run_file

    def claim(self) -> bool:
        """Take the lock. Raises `AlreadyRunningError`.

        True when a killed predecessor was swept away; its workers may need a moment to see
        that and leave.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.lock = os.open(self._folder / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.lock)
            raise AlreadyRunningError(str(self._folder)) from None
        swept = self._sweep()
        self.sockets = Path(tempfile.mkdtemp(prefix="meuse-"))  # 0700 and short
        return swept

    def adopt(self, lock: int, sockets: Path) -> None:
        """Go on with what an earlier image of this process has claimed."""
        self.lock, self.sockets = lock, sockets

    def write(self, what: dict[str, Any]) -> None:
        """The run file, for the CLI of the same home."""
        fresh = self._run_file.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(what, indent=1))
            fresh.replace(self._run_file)
        except OSError as error:  # a full disk must not end what runs
            sys.stderr.write(f"meuse: {self._run_file} cannot be written: {error}\n")

    def release(self) -> None:
        self._run_file.unlink(missing_ok=True)
        shutil.rmtree(self.sockets, ignore_errors=True)
        os.close(self.lock)

    def _sweep(self) -> bool:
        """Remove what a killed predecessor left: this home's lock is ours, so it is dead."""
        try:
            left = Path(json.loads(self._run_file.read_text())["sockets"])
        except (OSError, ValueError, KeyError):
            return False
        if left.name.startswith("meuse-") and left.parent == Path(tempfile.gettempdir()):
            shutil.rmtree(left, ignore_errors=True)
        return True
