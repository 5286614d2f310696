"""The listening sockets of the platform, held by the supervisor. Standard library only."""

from __future__ import annotations

import errno
import socket
import time

_BACKLOG = 2048


class PortError(Exception):
    """The address cannot be listened on."""


def listen(
    host: str, http_port: int, grpc_port: int, patience: float
) -> tuple[socket.socket, socket.socket]:
    """(HTTP, gRPC). A port in use is tried again for `patience` s. Raises `PortError`."""
    try:
        return _http(host, http_port, patience), _grpc(host, grpc_port)
    except OSError as error:
        raise PortError(f"cannot listen on {host}: {error.strerror}") from None


def _http(host: str, port: int, patience: float) -> socket.socket:
    made = socket.socket(_family(host), socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    deadline = time.monotonic() + patience
    while True:
        try:
            made.bind((host, port))
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    # Queued here, a connection survives the death of any worker.
    made.listen(_BACKLOG)
    return made


def _grpc(host: str, port: int) -> socket.socket:
    """grpcio cannot take a listening socket: workers listen with SO_REUSEPORT, and this one,
    bound and never listening, keeps the port ours while no worker runs."""
    made = socket.socket(_family(host), socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((host, port))
    return made


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
