"""Large tensors between a worker and a replica in memory that both map, not through a socket.

A sender writes the tensors of one frame to an anonymous file (memfd), seals it, and sends the
descriptor over a side socket before it sends the frame, whose header says how many bytes are
shared. When the frame is read its descriptor is there already, so nothing here waits. The
receiver maps nothing that is not sealed against shrinking (a shrunk file kills the reader with
SIGBUS), growing and writing. Where a side socket is missing or full, tensors go inline: slower,
never wrong.

Pairing: the worker connects to the side socket, says a random token there, and the same token in
an `Attach` frame on its main connection.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from meuse.serve.frames import FrameError, aligned, payload, size_of
from meuse.serve.strings import OBJECT

LARGE = 1024 * 1024
"""Bytes of tensors in one frame from which they are shared."""
TOKEN = 16
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NUMBER = struct.Struct("<Q")
_FD = array.array("i").itemsize
_BACKLOG = 64


def shared_size(tensors: Sequence[NDArray[Any]]) -> int:
    """Bytes that the tensors take in shared memory; 0 when they are better sent inline."""
    total = 0
    for tensor in tensors:
        if tensor.dtype is OBJECT:
            return 0
        total = aligned(total) + size_of(tensor)
    return total if total >= LARGE else 0


class Side:
    """One end of a side socket. Belongs to one loop; closed with its main connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._early: dict[int, int] = {}  # descriptors of frames that are not read yet

    def send(self, number: int, size: int, tensors: Sequence[NDArray[Any]]) -> bool:
        """Share the tensors of frame `number`; False when they must go inline."""
        try:
            fd = _sealed(size, tensors)
        except OSError:
            return False
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            self._socket.sendmsg([_NUMBER.pack(number)], rights)
        except OSError:  # full, or the other side has gone
            return False
        finally:
            os.close(fd)
        return True

    def fetch(self, number: int, size: int) -> mmap.mmap:
        """The shared bytes of frame `number`, read-only. Raises `FrameError`."""
        while number not in self._early:
            self._receive()
        fd = self._early.pop(number)
        try:
            if os.fstat(fd).st_size != size:
                raise FrameError(f"{os.fstat(fd).st_size} shared bytes, not {size}")
            if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise FrameError("shared memory that is not sealed")
            return mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise FrameError(f"shared memory cannot be mapped: {error}") from None
        finally:
            os.close(fd)

    def close(self) -> None:
        self._socket.close()
        for fd in self._early.values():
            os.close(fd)
        self._early = {}

    def _receive(self) -> None:
        try:
            data, control, flags, _ = self._socket.recvmsg(_NUMBER.size, socket.CMSG_SPACE(_FD))
        except OSError as error:
            raise FrameError(f"a frame's shared memory did not come: {error}") from None
        fds = array.array("i")
        for level, kind, content in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % _FD])
        if len(data) != _NUMBER.size or len(fds) != 1 or flags & socket.MSG_CTRUNC:
            for fd in fds:
                os.close(fd)
            raise FrameError("the side socket says what nobody understands")
        (number,) = _NUMBER.unpack(data)
        if number in self._early:
            os.close(fds[0])
            raise FrameError(f"frame {number} was shared twice")
        self._early[number] = fds[0]


class Sides:
    """The replica's listening end: hands a side to the connection that knows its token."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._waiting: dict[bytes, socket.socket] = {}

    def claim(self, token: bytes) -> Side | None:
        """The side on which `token` was said; it was, before the frame that tells of it."""
        while token not in self._waiting:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return None
            sock.setblocking(False)
            try:
                said = sock.recv(TOKEN)
            except OSError:
                said = b""
            if len(said) != TOKEN or len(self._waiting) >= _BACKLOG:
                sock.close()
            else:
                self._waiting[said] = sock
        return Side(self._waiting.pop(token))

    def close(self) -> None:
        for sock in (self._listener, *self._waiting.values()):
            sock.close()


def connect(path: Path) -> tuple[Side, bytes] | None:
    """The worker's end and its token; None where the replica has no side socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    token = os.urandom(TOKEN)
    try:
        sock.connect(str(path))
        sock.send(token)
    except OSError:
        sock.close()
        return None
    return Side(sock), token


def _sealed(size: int, tensors: Sequence[NDArray[Any]]) -> int:
    """A descriptor of sealed memory that holds the tensors, each at its aligned place."""
    fd = os.memfd_create("tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        offset = 0
        for tensor in tensors:
            offset = aligned(offset)
            left = memoryview(payload(tensor))
            while left:
                written = os.pwrite(fd, left, offset)
                offset += written
                left = left[written:]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    return fd
