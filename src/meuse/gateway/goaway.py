"""Ending gRPC connections without losing a call.

A gRPC server that is told to shut down refuses every call that arrives after that, also those
that a client sent before it could know (grpcio 1.85: they end as CANCELLED). HTTP/2 has the
remedy: a first GOAWAY that refuses nothing yet, then a moment in which late calls are served
(RFC 9113, 6.8). grpcio has no such first step, so it is taken here, beneath it: the listening
socket is shut (grpcio logs one line about that), and the frame is written on every connection
that has nothing else to send.

A connection that the kernel has made and the server has not accepted yet when the socket is
shut is reset, a matter of microseconds: a call that waited for it ends as UNAVAILABLE, unsent.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
from pathlib import Path

# Length 8, type GOAWAY, no flags, stream 0; highest stream of all, NO_ERROR.
GOAWAY = struct.pack(">BHBBIII", 0, 8, 7, 0, 0, 0x7FFFFFFF, 0)
_SETTLE_S = 0.1
_LOOK_S = 0.01


async def drain(port: int, seconds: float) -> None:
    """Accept no more connections on `port`, and wait until clients have left those there are.

    Returns after `seconds` at the latest. The server still answers all the while.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    for fd in await asyncio.to_thread(_find, port):  # a worker may hold thousands
        _shut(fd, port)
    # A connection that was just accepted must be greeted by the server first.
    await asyncio.sleep(_SETTLE_S)
    left = untold = await asyncio.to_thread(_find, port)
    while loop.time() < deadline:
        untold = [fd for fd in untold if not _tell(fd, port)]
        left = [fd for fd in left if _is_connected(fd, port)]
        if not left:
            return
        await asyncio.sleep(_LOOK_S)


def _shut(fd: int, port: int) -> None:
    with contextlib.suppress(OSError), _open(fd, port) as ours:
        if ours.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            ours.shutdown(socket.SHUT_RDWR)


def _tell(fd: int, port: int) -> bool:
    """Whether there is no more to say: GOAWAY is written, or nobody is there.

    With nothing left to send the server stands between two frames: it never writes a part of
    one unless the socket's buffer is full.
    """
    try:
        with _open(fd, port) as ours:
            ours.getpeername()
            if fcntl.ioctl(ours, termios.TIOCOUTQ, b"\0" * 4) != b"\0" * 4:
                return False
            ours.send(GOAWAY, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        pass
    return True


def _is_connected(fd: int, port: int) -> bool:
    try:
        with _open(fd, port) as ours:
            ours.getpeername()
    except OSError:
        return False
    return True


def _find(port: int) -> list[int]:
    """The TCP sockets of this process that are bound to `port`."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if entry.readlink().name.startswith("socket:"):
                _open(int(entry.name), port).close()
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _open(fd: int, port: int) -> socket.socket:
    """A duplicate of the server's own descriptor, which may be another's by now.

    Raises OSError when it is not, or no longer, a TCP socket bound to `port`.
    """
    copy = os.dup(fd)
    try:
        ours = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    inet = ours.family in (socket.AF_INET, socket.AF_INET6)
    if not (inet and ours.type == socket.SOCK_STREAM and ours.getsockname()[1] == port):
        ours.close()
        raise OSError(f"descriptor {fd} is not bound to {port}")
    return ours
