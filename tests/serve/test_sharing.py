"""serve.sharing: large tensors in sealed memory, between real sockets and real processes."""

from __future__ import annotations

import array
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meuse.serve import sharing, strings
from meuse.serve.frames import FrameError
from meuse.serve.sharing import Side, Sides


@pytest.fixture
def pair() -> Any:
    """Two ends of one side socket."""
    a, b = (Side(s) for s in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    yield a, b
    a.close()
    b.close()


def large(value: float, bytes_: int = sharing.LARGE) -> Any:
    return np.full(bytes_ // 4, value, np.float32)


def test_tensors_arrive_as_they_were(pair: Any) -> None:
    """Each at an aligned place; in any order of asking; nobody can change them."""
    a, b = pair
    first = [np.arange(7, dtype=np.int8), large(1.0)]
    second = [large(2.0)]
    sizes = [sharing.shared_size(t) for t in (first, second)]
    assert a.send(1, sizes[0], first)
    assert a.send(2, sizes[1], second)
    two, one = b.fetch(2, sizes[1]), b.fetch(1, sizes[0])
    assert np.array_equal(np.ndarray(len(second[0]), np.float32, two), second[0])
    assert np.array_equal(np.ndarray(7, np.int8, one), first[0])
    view = np.ndarray(len(first[1]), np.float32, one, 64)
    assert np.array_equal(view, first[1])
    assert not view.flags.writeable


def test_small_tensors_and_strings_go_inline() -> None:
    """Sharing pays from a megabyte on; BYTES have no fixed place."""
    assert sharing.shared_size([np.zeros(10)]) == 0
    assert sharing.shared_size([strings.array_of([b"x" * sharing.LARGE], (1,))]) == 0
    assert sharing.shared_size([large(0.0)]) == sharing.LARGE


def send_fd(to: socket.socket, number: int, fd: int) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    to.sendmsg([number.to_bytes(8, "little")], rights)


@pytest.mark.parametrize("seals", ["none", "grow", "size"])
def test_what_is_not_sealed_is_not_mapped(seals: str) -> None:
    """Memory that its sender could still shrink would kill the reader: it is refused, as is
    memory of another size."""
    import fcntl

    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = os.memfd_create("t", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    if seals == "grow":
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    if seals == "size":
        every = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, every)
    with a:
        send_fd(a, 5, fd)
        os.close(fd)
        side = Side(b)
        with pytest.raises(FrameError, match="sealed" if seals != "size" else "shared bytes"):
            side.fetch(5, 4096 if seals != "size" else 8192)
        side.close()


def test_what_was_not_sent_is_an_error_at_once(pair: Any) -> None:
    """A frame that shares without a descriptor, or with two, cuts the connection: no waiting."""
    a, b = pair
    with pytest.raises(FrameError, match="did not come"):
        b.fetch(1, 4096)
    size = sharing.shared_size([large(1.0)])
    a.send(1, size, [large(1.0)])
    a.send(1, size, [large(1.0)])
    with pytest.raises(FrameError, match="twice"):
        b.fetch(2, size)


def test_a_full_side_socket_sends_inline(pair: Any) -> None:
    """The sender is told, and never blocks; descriptors do not pile up in it."""
    a, _ = pair
    tensor = [large(0.0)]
    before = len(os.listdir("/proc/self/fd"))
    sent = 0
    while a.send(sent, sharing.LARGE, tensor):
        sent += 1
        assert sent < 10_000
    assert len(os.listdir("/proc/self/fd")) == before


def test_sides_are_told_apart_by_their_token(tmp_path: Path) -> None:
    """A connection gets the side on which its own token was said; an unknown one gets none."""
    sides = Sides(tmp_path / "r.fds")
    joined = [sharing.connect(tmp_path / "r.fds") for _ in range(2)]
    assert joined[0] is not None
    assert joined[1] is not None
    (one, first), (two, second) = joined[0], joined[1]
    theirs = sides.claim(second)
    assert theirs is not None
    size = sharing.shared_size([large(3.0)])
    assert two.send(9, size, [large(3.0)])
    assert theirs.fetch(9, size)[:4] == np.float32(3.0).tobytes()
    assert sides.claim(b"?" * 16) is None
    mine = sides.claim(first)
    assert mine is not None
    for side in (one, two, theirs, mine):
        side.close()
    sides.close()
    assert sharing.connect(tmp_path / "nothing.fds") is None
