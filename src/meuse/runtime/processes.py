"""Control's end of the supervisor's pipe: which replicas and workers run, start one, stop one.

Adapter of `core.ports.Launcher` on local processes. The supervisor sends the whole picture
after every change, so that a control that was just started knows what runs.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any


class LocalProcesses:
    """Reads the pipe in a thread; `on_change` is called there after each new picture."""

    def __init__(self, fd: int, on_change: Callable[[], None]) -> None:
        self._socket = socket.socket(fileno=fd)
        self._sending = threading.Lock()
        self._looking = threading.Lock()  # the two fields below
        self._first = threading.Event()
        self._picture: dict[str, dict[str, Any]] = {"replicas": {}, "workers": {}}
        self._asked: dict[str, dict[str, Any]] = {}  # starts that no picture shows yet
        self._labels: dict[str, dict[str, Any]] = {}  # labels that no picture shows yet
        self._on_change = on_change
        threading.Thread(target=self._listen, name="supervisor-pipe", daemon=True).start()

    def start(self, replica: str, argv: list[str], label: dict[str, Any]) -> None:
        with self._looking:
            self._asked[replica] = label
        self._send({"op": "start", "replica": replica, "argv": argv, "label": label})

    def stop(self, replica: str) -> None:
        self._send({"op": "stop", "replica": replica})

    def kill(self, replica: str) -> None:
        self._send({"op": "kill", "replica": replica})

    def label(self, replica: str, label: dict[str, Any]) -> None:
        with self._looking:
            self._labels[replica] = label
        self._send({"op": "label", "replica": replica, "label": label})

    def pids(self) -> dict[str, int]:
        """Processes by the id of their replica, those that were told to stop included."""
        with self._looking:
            return {name: entry["pid"] for name, entry in self._picture["replicas"].items()}

    def running(self) -> dict[str, dict[str, Any]]:
        """Labels of the replicas that run and were not told to stop, by id.

        A replica is among them from the moment its start is asked for until it has ended.
        """
        self._first.wait(5.0)
        with self._looking:
            entries = self._picture["replicas"].items()
            shown = {name: entry["label"] for name, entry in entries if not entry["stopping"]}
            shown |= self._asked
            return shown | {n: label for n, label in self._labels.items() if n in shown}

    def workers(self) -> dict[str, int]:
        """Epochs of the gateway workers that run, by name."""
        return {name: entry["epoch"] for name, entry in self._picture["workers"].items()}

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                if not line.strip():
                    continue
                try:
                    picture = json.loads(line)
                except ValueError:
                    continue  # cut off when we were slow to read; the next one is whole again
                with self._looking:
                    self._picture = picture
                    for replica in (*picture["replicas"], *picture["failed"]):
                        self._asked.pop(replica, None)
                    self._labels = {
                        name: label
                        for name, label in self._labels.items()
                        if name in self._asked
                        or picture["replicas"].get(name, {"label": label})["label"] != label
                    }
                self._first.set()
                self._on_change()
