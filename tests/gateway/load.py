"""Many requests at once, each on a connection of its own."""

from __future__ import annotations

import threading
from typing import Any

import httpx


class Load:
    """Starts one thread per body; `answers` holds (status, body) in the order of the bodies."""

    def __init__(self, url: str, key: str, bodies: list[Any]) -> None:
        self.answers: list[Any] = [None] * len(bodies)
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._threads = [
            threading.Thread(target=self._one, args=(i, body)) for i, body in enumerate(bodies)
        ]
        for thread in self._threads:
            thread.start()

    def _one(self, i: int, body: Any) -> None:
        try:
            answer = httpx.post(
                f"{self._url}/predict", json=body, headers=self._headers, timeout=30
            )
            self.answers[i] = (answer.status_code, answer.json())
        except httpx.TransportError as error:
            self.answers[i] = (0, error)

    def wait(self) -> list[Any]:
        for thread in self._threads:
            thread.join()
        return self.answers
