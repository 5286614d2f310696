"""A filter of system calls, as classic BPF, put on this process and all that it becomes.

A list of what is forbidden: what reaches other processes, the network, mounts, the kernel's
rarely used and often broken parts. See seccomp(2) and <linux/filter.h>.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from meuse.runtime.sandbox import syscalls

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_CLONE_THREAD = 0x00010000
# CLONE_NEWTIME, NS, CGROUP, UTS, IPC, USER, PID, NET
_CLONE_NEW = 0x00000080 | 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000
_CLONE_NEW |= 0x10000000 | 0x20000000 | 0x40000000
_AF_UNIX = 1

_SIGNALS = ("kill", "tkill", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
_SPECIAL = {"clone", "clone3", "fork", "vfork", "socketpair", "tgkill", "prlimit64", *_SIGNALS}

Line = tuple[int, int, int, int]
"""code, jump if true, jump if false, k."""


def program(machine: str, *, alone: bool, pid: int) -> list[Line]:
    """The filter. `alone`: no other process may be started or signalled (`pid` is its own).

    Raises KeyError for an architecture that it does not know.
    """
    lines: list[Line] = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQ, 1, 0, syscalls.ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NR),
        (_JUMP_GE, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]

    def refuse(name: str, error: int = errno.EPERM) -> None:
        lines.extend(_when(name, machine, [(_RETURN, 0, 0, _ERRNO | error)]))

    for name in syscalls.NUMBERS:
        if name not in _SPECIAL:
            refuse(name)
    # clone3's flags lie in memory, where no filter sees them; without it libc takes clone.
    refuse("clone3", errno.ENOSYS)
    lines += _when("clone", machine, _argument(0, _JUMP_SET, _CLONE_NEW, refused=True))
    lines += _when("socketpair", machine, _argument(0, _JUMP_EQ, _AF_UNIX))
    lines += _when("prlimit64", machine, _argument(0, _JUMP_EQ, 0))
    if alone:
        for name in ("fork", "vfork"):
            refuse(name)
        lines += _when("clone", machine, _argument(0, _JUMP_SET, _CLONE_THREAD))
        for name in _SIGNALS:
            refuse(name)
        lines += _when("tgkill", machine, _argument(0, _JUMP_EQ, pid))  # abort() of its own
    lines.append((_RETURN, 0, 0, _ALLOW))
    return lines


def _when(name: str, machine: str, then: list[Line]) -> list[Line]:
    number = syscalls.number(name, machine)
    if number is None:
        return []
    # The number is loaded anew, because `then` may have loaded an argument before.
    return [(_LOAD, 0, 0, _NR), (_JUMP_EQ, 0, len(then), number), *then]


def _argument(index: int, test: int, value: int, *, refused: bool = False) -> list[Line]:
    """Refuse unless the low half of an argument meets the test (or, `refused`, if it does)."""
    deny: Line = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    skip = (0, 1) if refused else (1, 0)
    return [(_LOAD, 0, 0, _ARGS + 8 * index), (test, *skip, value), deny]


def forbid_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0)


def install(*, alone: bool) -> None:
    """Put the filter on this process for good. Raises OSError, or KeyError (architecture)."""
    lines = program(os.uname().machine, alone=alone, pid=os.getpid())
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(buffer))
    filter = ctypes.create_string_buffer(header, len(header))
    _prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(filter))


def _prctl(option: int, second: int, third: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    arguments = (ctypes.c_ulong(second), ctypes.c_ulong(third), zero, zero)
    if libc.prctl(ctypes.c_int(option), *arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")
