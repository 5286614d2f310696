"""The supervisor's end of control's pipe: lines of JSON, both ways. Standard library only.

The other end is `runtime.processes`. A control that is away or stuck holds nothing up: it, or
its successor, is told the whole picture again.
"""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Callable
from typing import Any

_SEND_S = 1.0


class ControlPipe:
    """`obey` is called with each message; `owed` says that control has not heard the last word."""

    def __init__(
        self, selector: selectors.BaseSelector, obey: Callable[[dict[str, Any]], None]
    ) -> None:
        self._selector = selector
        self._obey = obey
        self._ours: socket.socket | None = None
        self._begun = b""
        self.owed = False

    def renew(self) -> socket.socket:
        """A new pipe in the place of the last; the end that is control's. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._close()
        self._use(ours, b"")
        return theirs

    def tell(self, picture: dict[str, Any]) -> None:
        self.owed = False
        if self._ours is None:
            return
        try:
            self._ours.settimeout(_SEND_S)
            # A line of its own, whatever was cut off before it.
            self._ours.sendall(b"\n" + json.dumps(picture).encode() + b"\n")
        except OSError:
            self.owed = True
        finally:
            self._ours.setblocking(False)

    def to_dict(self) -> dict[str, Any]:
        """For another image of this process: the descriptor, and what was read of a line."""
        fd = None if self._ours is None else self._ours.fileno()
        return {"fd": fd, "begun": self._begun.decode("latin-1")}

    def adopt(self, what: dict[str, Any]) -> None:
        if what["fd"] is not None:
            self._use(socket.socket(fileno=what["fd"]), what["begun"].encode("latin-1"))

    def _use(self, ours: socket.socket, begun: bytes) -> None:
        ours.setblocking(False)
        self._ours, self._begun = ours, begun
        self._selector.register(ours, selectors.EVENT_READ, self._read)

    def _close(self) -> None:
        if self._ours is not None:
            self._selector.unregister(self._ours)
            self._ours.close()
            self._ours = None

    def _read(self) -> None:
        assert self._ours is not None
        try:
            data = self._ours.recv(65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
