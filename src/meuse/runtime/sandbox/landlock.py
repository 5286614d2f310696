"""Landlock: which files this process, and all that it becomes, may touch. See landlock(7)."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture
_VERSION_FLAG, _PATH_BENEATH = 1, 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | (1 << 14) | (1 << 15)
# Rights known by ABI: 13 at first, then rename across folders, truncate, ioctl on devices.
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_RIGHTS = (1 << 16) - 1
_NET_TCP = 3  # bind and connect, from ABI 4
_SCOPE = 3  # abstract unix sockets and signals, from ABI 6


def abi() -> int:
    """The version that the kernel offers; 0: none."""
    return max(0, _syscall(_CREATE, 0, 0, _VERSION_FLAG, check=False))


def restrict(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Confine this process for good. Paths that do not exist are left out. Raises OSError."""
    version = abi()
    if version < 1:
        raise OSError("the kernel has no Landlock")
    rights = _RIGHTS_BY_ABI.get(version, _ALL_RIGHTS)
    network = _NET_TCP if version >= 4 else 0
    scope = _SCOPE if version >= 6 else 0
    fields = struct.pack("QQQ", rights, network, scope)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = ctypes.create_string_buffer(fields[:size], size)
    ruleset = _syscall(_CREATE, ctypes.addressof(attributes), size, 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ & rights)
        for path in writable:
            _allow(ruleset, path, rights)
        _syscall(_RESTRICT, ruleset, 0, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FILE_RIGHTS
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, fd), 12)
        _syscall(_ADD, ruleset, _PATH_BENEATH, ctypes.addressof(rule), 0)
    finally:
        os.close(fd)


def _syscall(number: int, *arguments: int, check: bool = True) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result: int = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(a) for a in arguments))
    if result < 0 and check:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
