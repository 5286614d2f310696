"""Control's client of the ledger process. Knows its few calls; rates and counts nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from meuse.core.errors import Code, MeuseError

TIMEOUT_S = 30.0
RECOUNT_S = 900.0
"""For what reads all raw records again."""


class LedgerClient:
    """One connection pool to the ledger's unix socket. Thread-safe."""

    def __init__(self, socket: Path) -> None:
        transport = httpx.HTTPTransport(uds=str(socket))
        self._http = httpx.Client(transport=transport, base_url="http://ledger", timeout=TIMEOUT_S)

    def document(self, path: str, params: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        """(bytes, the headers that say what they are). Raises as `call`."""
        response = self._send("GET", path, params, None)
        names = ("content-type", "content-disposition")
        headers = {name: response.headers[name] for name in names if name in response.headers}
        return response.content, headers

    def call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[int, Any]:
        """(status, JSON). Raises what the ledger refused, or `unavailable` when it is down."""
        response = self._send(method, path, params, body, timeout_s)
        return response.status_code, response.json()

    def _send(
        self,
        method: str,
        path: str,
        params: dict[str, Any] | None,
        body: dict[str, Any] | None,
        timeout_s: float = TIMEOUT_S,
    ) -> httpx.Response:
        params = {k: v for k, v in (params or {}).items() if v is not None}
        response = self._ask(method, path, params=params, json=body, timeout=timeout_s)
        if response.status_code >= 400:
            raise MeuseError.from_dict(response.json()["error"])
        return response

    def send(self, path: str, params: dict[str, str], body: bytes) -> tuple[int, Any]:
        """POST bytes: (status, JSON), refusals too. Raises `unavailable` when it is down."""
        response = self._ask("POST", path, params=params, content=body)
        return response.status_code, response.json()

    def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **arguments)
        except httpx.TransportError:
            raise MeuseError(
                Code.UNAVAILABLE,
                "the ledger is not answering",
                hint="Usage waits in the journal and nothing is lost; try again shortly.",
            ) from None
