"""Clients that keep a connection each and write down what became of every request.

Plain `http.client`: nothing is sent twice behind the test's back.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

FEATURES = 8
FULL, BROKEN, HALF, REFUSED = "full", "broken", "half", "refused"


@dataclass(slots=True)
class Outcome:
    """One request: `rows` sent, when (monotonic), and how it ended.

    full: a whole answer with `status`; half: a part of one; broken: the connection ended
    before any of it; refused: no connection was made, so nothing was sent.
    """

    rows: int
    sent: float
    kind: str = BROKEN
    status: int = 0
    seconds: float = 0.0
    body: bytes = b""


class Caller:
    """One connection, opened again when it breaks."""

    def __init__(self, port: int, key: str, model: str, timeout_s: float = 60.0) -> None:
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._model = model
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def call(self, rows: int = 1, data: list[Any] | None = None) -> Outcome:
        """Ask for rows of our own, or for those of `data`."""
        data = [[0.5] * FEATURES] * rows if data is None else data
        rows = len(data)
        body = json.dumps({"model": self._model, "input_data": data})
        outcome = Outcome(rows, time.monotonic())
        try:
            if self._http.sock is None:
                outcome.kind = REFUSED
                self._http.connect()
                outcome.kind = BROKEN
            self._http.request("POST", "/predict", body, self._headers)
            response = self._http.getresponse()
            outcome.kind, outcome.status = HALF, response.status
            outcome.body = response.read()
            outcome.kind = FULL
            if response.status == 200:
                assert len(json.loads(outcome.body)["output_data"]) == rows
        except (OSError, http.client.HTTPException):
            self._http.close()
        outcome.seconds = time.monotonic() - outcome.sent
        return outcome

    def local_port(self) -> int:
        """Our end of the connection; it must be open."""
        assert self._http.sock is not None
        return int(self._http.sock.getsockname()[1])

    def close(self) -> None:
        self._http.close()


@dataclass(slots=True)
class Load:
    """A caller per key, each in a thread, until the block ends."""

    port: int
    keys: Sequence[str]
    model: str
    most_rows: int = 1
    pause: float = 0.0
    until_refused: bool = False
    ask: Callable[[int], list[Any]] | None = None  # the rows of a caller's nth request
    outcomes: list[list[Outcome]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self.outcomes = [[] for _ in self.keys]
        for number, key in enumerate(self.keys):
            thread = threading.Thread(target=self._call, args=(number, key))
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let every caller finish its last request."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int, key: str) -> None:
        caller, mine = Caller(self.port, key, self.model), self.outcomes[number]
        try:
            while not self._stop.is_set():
                # Rows follow from who and when: a record can be told from its neighbours.
                rows = (len(mine) + number) % self.most_rows + 1
                mine.append(caller.call(rows, self.ask and self.ask(len(mine))))
                if mine[-1].kind == REFUSED:
                    if self.until_refused:
                        return
                    time.sleep(0.02)
                if self.pause:
                    time.sleep(self.pause)
        finally:
            caller.close()

    def all(self) -> list[Outcome]:
        return [outcome for mine in self.outcomes for outcome in list(mine)]

    def answered(self) -> int:
        return sum(outcome.kind == FULL for outcome in self.all())

    def counts(self) -> Counter[tuple[str, int]]:
        """(kind, status) → how many."""
        return Counter((outcome.kind, outcome.status) for outcome in self.all())
