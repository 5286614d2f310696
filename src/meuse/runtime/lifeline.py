"""A pipe from the parent that tells a child when the parent is gone, and one to the parent.

Of the first the parent holds the only write end, so the kernel closes it however the parent
dies. Nothing is ever written. A child that sees the end of file has no reason to live. On the
second the child says that it does its work: once, or again and again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

BEAT_S = 1.0


def watch(fd: int, on_eof: Callable[[], None]) -> None:
    """Call `on_eof` from a daemon thread when the parent's end of `fd` closes."""

    def wait() -> None:
        while os.read(fd, 1):
            pass
        on_eof()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def tell_ready(fd: int) -> None:
    """Say once that this process does its work now; `fd` is a pipe to the supervisor."""
    with contextlib.suppress(OSError):  # the lifeline tells of a dead parent
        os.write(fd, b"1")
    os.close(fd)


def beat(fd: int) -> None:
    """Say so for now; who keeps `fd` open must go on every `BEAT_S`, or is taken for hung.

    `fd` does not block: a parent that reads nothing holds up nobody.
    """
    with contextlib.suppress(OSError):
        os.write(fd, b"1")


def end_now() -> None:
    """Leave without clean-up: what must be durable already is."""
    os._exit(0)
