"""A test's body in a process of its own: for what bounds or may end the whole process."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


def in_child(body: Callable[[], object]) -> None:
    """Raises AssertionError with the child's traceback where it fails, or how it ended.

    A fork has this thread alone: limits of memory or time that hold for a process reach no other,
    such as the one that speaks for a worker of the tests.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 0
        try:
            os.close(reading)
            body()
        except BaseException:
            status = 1
            os.write(writing, traceback.format_exc().encode()[-60_000:])
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        text = told.read().decode()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.stderr.write(text)
    assert ended == 0, f"it ended with {ended}\n{text}"
