"""runtime.sigstack: signals after a library has freed the stack on which they are handled."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import ctypes, mmap, signal, sys
from meuse.runtime import sigstack

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
size = 1 << 16
place = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE,
                  mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
libc.sigaltstack(ctypes.byref(sigstack._Stack(place, 0, size)), None)
libc.munmap(place, size)
if sys.argv[1] == "taken":
    sigstack.take_back()
signal.signal(signal.SIGALRM, lambda *_: print("rung", flush=True))
signal.raise_signal(signal.SIGALRM)
"""


@pytest.mark.parametrize(("how", "status", "told"), [("left", -11, ""), ("taken", 0, "rung\n")])
def test_a_signal_after_its_stack_was_freed(how: str, status: int, told: str) -> None:
    """It would end the process; not once the stack is taken back."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, how], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (status, told), done.stderr
