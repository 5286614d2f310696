"""Becoming new code without ending: `exec` keeps the pid, the children and what is open.

The old image writes what it knows into a memfd (JSON; descriptors by number), lets these
descriptors pass and executes the new one, which takes them back. Signals are blocked in
between: one that arrives waits for the new image instead of ending everything.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Sequence
from typing import Any

FORMAT = 1
"""Of the state. Code that cannot read it says so in its check, before anything is executed."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


def hand_over(command: Sequence[str], state: dict[str, Any], fds: Iterable[int]) -> None:
    """Execute `command`, in which `{state}` is the state's descriptor. Does not return.

    Raises OSError when it cannot be executed; then all is as before.
    """
    memory = os.memfd_create("meuse-takeover", 0)
    passed = [memory, *fds]
    try:
        os.write(memory, json.dumps({"format": FORMAT, **state}).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        filled = [part.format(state=memory) if part == "{state}" else part for part in command]
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for fd in passed:
            os.set_inheritable(fd, True)
        os.execv(filled[0], filled)  # noqa: S606
    finally:
        for fd in passed:
            os.set_inheritable(fd, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(memory)


def take(memory: int) -> dict[str, Any]:
    """The state that was handed over. Its descriptors are still to be `keep`-ed."""
    with os.fdopen(memory, "rb") as file:
        state: dict[str, Any] = json.load(file)
    return state


def keep(fds: Iterable[int]) -> None:
    """Do not pass these on to children."""
    for fd in fds:
        os.set_inheritable(fd, False)


def listen_to_signals() -> None:
    """The handlers stand: let what came in between arrive."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
