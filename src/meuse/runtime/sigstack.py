"""The stack on which a process handles signals, taken back from a library that has freed it.

OpenVINO's CPU plugin sets an alternate signal stack for the thread that loads it (2026.4: also
where the processor needs none), and frees it when its last model is gone, in whatever order,
without a word to the kernel. Python's handlers ask for such a stack: the next signal of that
thread then ends the process, by a SIGSEGV that no handler sees.
"""

from __future__ import annotations

import ctypes
import platform

_DISABLE = 2  # SS_DISABLE


class _Stack(ctypes.Structure):
    _fields_ = (
        ("sp", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


def take_back() -> None:
    """Let signals of this thread be handled on its own stack, which is always there."""
    if platform.system() != "Linux":  # elsewhere the order of the fields is another
        return
    none = _Stack(None, _DISABLE, 0)
    ctypes.CDLL(None).sigaltstack(ctypes.byref(none), None)
