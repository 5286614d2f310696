"""One platform, one key: how the client's requests are sent, and what their failures mean."""

from __future__ import annotations

from typing import Any

import httpx

from meuse.core.errors import Code, MeuseError, invalid

JSON = dict[str, Any]


class Link:
    """What all calls share. Thread-safe, as its connection pool is."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        if not key.isascii():
            raise invalid("key", "the key is not one of this platform's", "Check MEUSE_KEY.")
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers={"authorization": f"Bearer {key}"},
                timeout=timeout_s,
                trust_env=False,  # a proxy of the environment has no business with loopback
            )
        except httpx.InvalidURL as error:
            raise invalid("url", f"{url!r} is not a URL: {error}", "Check MEUSE_URL.") from None

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request; the decoded JSON of the answer."""
        response = self._send(method, path, **arguments)
        return response.json() if response.content else None

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from None
        if response.status_code >= 400:
            raise error_of(response)
        return response


def unreachable(url: str, error: Exception) -> MeuseError:
    if isinstance(error, MeuseError):
        return error
    return MeuseError(
        Code.UNAVAILABLE,
        f"{url} does not answer: {error}",
        hint="Is `meuse up` running there?",
    )


def error_of(response: httpx.Response) -> MeuseError:
    try:
        body = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return MeuseError(Code.INTERNAL, f"HTTP {response.status_code}: {response.text[:200]}")
    error = MeuseError.from_dict(body if isinstance(body, dict) else {"message": body})
    wait = response.headers.get("retry-after", "")
    error.retry_after_s = int(wait) if wait.isdecimal() else None
    return error
