"""Publish snapshots to the gateway workers and wait until they have them.

Workers connect to `publish.sock` and say {"slot", "epoch", "pid", "loaded"}; they are sent
{"snapshot": n} and answer {"ack": n} once they route by it; {"wake": "acme/digits"} says that
a request waits where nothing runs. The file is the truth, the
socket only says that it changed: a worker that was away reads the file.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from meuse.serve import snapshot as snapshots
from meuse.serve.snapshot import Snapshot

log = logging.getLogger(__name__)

ACK_S = 1.0


class Publisher:
    """`workers()` gives the epochs of the workers that run, by name (`worker-0`); `on_wake` is
    called with "owner/name" from a thread of the publisher's."""

    def __init__(
        self,
        path: Path,
        address: Path,
        workers: Callable[[], dict[str, int]],
        on_wake: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._on_wake = on_wake
        self._path = path
        self._workers = workers
        self.current = snapshots.read(path)
        self._publishing = threading.Lock()
        self._changed = threading.Condition()
        self._acked: dict[int, int] = {}  # worker epoch → number
        self._links: dict[int, socket.socket] = {}
        address.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(address))
        self._server.listen(64)
        threading.Thread(target=self._accept, name="publisher", daemon=True).start()

    def publish(self, build: Callable[[], Snapshot]) -> bool:
        """Write the next snapshot; True when every live worker has taken it within 1 s.

        `build` runs under the publisher's lock, so that two writers cannot overtake each other.
        """
        with self._publishing:
            fresh = msgspec.structs.replace(build(), number=self.current.number)
            if fresh == self.current:
                return self._wait(self.current.number)
            fresh = msgspec.structs.replace(fresh, number=self.current.number + 1)
            snapshots.write(self._path, fresh)
            self.current = fresh
            with self._changed:
                links = list(self._links.items())
            for epoch, link in links:
                self._send(epoch, link, fresh.number)
        return self._wait(fresh.number)

    def _wait(self, number: int) -> bool:
        def taken() -> bool:
            return all(self._acked.get(e, -1) >= number for e in self._workers().values())

        with self._changed:
            deadline = time.monotonic() + ACK_S
            while not taken():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 0.1))  # a worker's death is not signalled here
        return True

    def _accept(self) -> None:
        while True:
            link, _ = self._server.accept()
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        epoch = -1
        try:
            with link, link.makefile("rb") as lines:
                for line in lines:
                    message: dict[str, Any] = json.loads(line)
                    if "wake" in message:
                        self._on_wake(str(message["wake"]))
                        continue
                    with self._changed:
                        if "epoch" in message:
                            epoch = int(message["epoch"])
                            self._links[epoch] = link
                            self._acked[epoch] = int(message["loaded"])
                        else:
                            self._acked[epoch] = int(message["ack"])
                        behind = self._acked[epoch] < self.current.number
                        self._changed.notify_all()
                    if "epoch" in message and behind:
                        self._send(epoch, link, self.current.number)
        except (OSError, ValueError, KeyError) as error:
            log.warning("worker link %s broke: %s", epoch, error)
        finally:
            with self._changed:
                if self._links.get(epoch) is link:
                    del self._links[epoch]
                    del self._acked[epoch]

    def _send(self, epoch: int, link: socket.socket, number: int) -> None:
        try:
            link.sendall(json.dumps({"snapshot": number}).encode() + b"\n")
        except OSError:
            log.warning("worker %s is gone; it will read the file", epoch)
