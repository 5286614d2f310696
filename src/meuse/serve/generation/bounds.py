"""A program of somebody else's in our process: so much processor time and memory, no more.

For what computes in Python alone and in the main thread. The clock is the process's own work, so
that a busy machine ends nothing early. One step of the interpreter may take for ever (two nested
lists that are compared): nothing interrupts it, and the process ends after `HARD_S`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meuse.runtime import sigstack

HARD_S = 30.0
"""Of wall time."""


class TooSlowError(Exception):
    """The time is up."""


@contextlib.contextmanager
def bounded(seconds: float, memory: int) -> Iterator[None]:
    """Within it `TooSlowError` is raised after `seconds` of work, and `MemoryError` where more
    than `memory` bytes are added to what the process has."""
    armed = True

    def end(*_: Any) -> None:
        if armed:
            raise TooSlowError

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * os.sysconf("SC_PAGE_SIZE") + memory
    if soft != resource.RLIM_INFINITY:
        most = min(most, soft)
    sigstack.take_back()
    before = signal.signal(signal.SIGPROF, end)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        signal.setitimer(signal.ITIMER_PROF, seconds)
        faulthandler.dump_traceback_later(HARD_S, exit=True)
        yield
    finally:
        armed = False
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        # One that is still on its way, to another thread, is discarded by this: by default it would
        # end the process.
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        signal.signal(signal.SIGPROF, before)
