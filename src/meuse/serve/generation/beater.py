"""The sign of life of a replica whose engine holds Python's lock: a process beside it that beats.

`python -I -S beater.py PAGE`, started by `beside`. While the page says that a step is executed
(see `serve.page`), and the replica is not stopped, this grows the beat in the replica's place;
between steps the replica's own thread does. A step that lasts longer than `LONGEST_S` is not
covered up. It ends with the replica, whose end closes its standard input.
"""

from __future__ import annotations

import mmap
import os
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

BEAT_S = 0.1
LONGEST_S = 60.0
_BEAT, _STEP = 4, 8  # where on the page
_WORD = struct.Struct("=I")


def beside(page: Path) -> subprocess.Popen[bytes]:
    """Start one for this process. It holds no memory but its interpreter's."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(page)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={},
    )


def beat(page: mmap.mmap, parent: int) -> None:
    """Until standard input ends."""
    step, since = 0, time.monotonic()
    while not select.select([0], [], [], BEAT_S)[0]:
        (now,) = _WORD.unpack_from(page, _STEP)
        if now != step:
            step, since = now, time.monotonic()
        if step & 1 and time.monotonic() - since < LONGEST_S and not _is_stopped(parent):
            (count,) = _WORD.unpack_from(page, _BEAT)
            _WORD.pack_into(page, _BEAT, (count + 1) & 0xFFFFFFFF)


def _is_stopped(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state in ("T", "t", "Z")


if __name__ == "__main__":
    try:
        handle = os.open(sys.argv[1], os.O_RDWR)
    except FileNotFoundError:
        sys.exit()  # the replica has come and gone
    beat(mmap.mmap(handle, 0), os.getppid())
