"""The last step inside: give up what can be given up, then become the command.

`python -m meuse.runtime.sandbox.enter <JSON>`; the JSON says what (`tiers.command` makes it).
Standard library only, and little of that: it runs before every sandboxed command.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from meuse.runtime.sandbox import landlock, seccomp

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP = 1, 24
_CAPABILITY_VERSION = 0x20080522


def main(argv: list[str]) -> NoReturn:
    what = json.loads(argv[0])
    os.umask(0o077)
    _limit(what["limits"])
    if what["tier"] < 2:
        _end_with_parent(what["parent"])
    if what["user"] is not None:
        os.setgroups([])
        os.setresgid(*[what["user"]] * 3)
        os.setresuid(*[what["user"]] * 3)
    os.chdir(what["folder"])  # which may be closed to any other
    if what["tier"] >= 1:
        _drop_capabilities()
        seccomp.forbid_new_privileges()
        if what["tier"] == 1:
            landlock.restrict(map(Path, what["readable"]), map(Path, what["writable"]))
        seccomp.install(alone=what["tier"] == 1)
    os.execv(what["argv"][0], what["argv"])  # noqa: S606  a list, no shell


def _limit(limits: dict[str, int]) -> None:
    for name, wanted in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))


def _end_with_parent(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _drop_capabilities() -> None:
    """All of them, now and for whatever is executed later. Without any this changes nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing: Any = (ctypes.c_uint32 * 6)()
    libc.capset(header, nothing)


if __name__ == "__main__":
    main(sys.argv[1:])
