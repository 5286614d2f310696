"""Everything that is not the data plane goes to control over its unix socket, as it is.

Streams both ways and holds no body. Knows nothing of what control offers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec

from meuse.core.errors import Code, MeuseError
from meuse.gateway.body import ClientGoneError, Receive, Scope, Send, too_large

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
KEEPALIVE_S = 5.0
"""How long an idle connection is used again: less than control keeps it, or a request would
now and then meet a connection that is being closed."""
# Jobs may be waited for and events are streams, so only connecting has a limit.
_TIMEOUT = {"connect": 2.0, "read": None, "write": None, "pool": None}


class ControlProxy:
    """One per worker; connections to control are kept."""

    def __init__(self, socket: Path, max_upload_bytes: int, max_model_bytes: int) -> None:
        self._max_upload = max_upload_bytes
        self._max_model = max_model_bytes
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=16, keepalive_expiry=KEEPALIVE_S
        )
        self._transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=limits, trust_env=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """Answer as control does. Raises `MeuseError` as long as nothing was sent."""
        request = self._request(scope, receive, request_id)
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.TransportError as error:
            raise _away() from error
        pump = asyncio.create_task(_pump(response, send, request_id))
        watch = asyncio.create_task(_until_gone(receive))
        try:
            # An event stream may stay silent for long: only the watch sees its client leave.
            await asyncio.wait({pump, watch}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        except httpx.TransportError as error:
            # Control broke off in the middle: only a cut connection can say so now.
            raise ClientGoneError from error
        finally:
            for task in (pump, watch):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, httpx.TransportError):
                    await task
            await response.aclose()

    async def post(self, path: str, authorization: bytes) -> None:
        """Ask control for something in a caller's name. Raises its refusal, or `unavailable`."""
        request = httpx.Request(
            "POST", f"http://control{path}", headers=[(b"authorization", authorization)]
        )
        try:
            response = await self._transport.handle_async_request(request)
            body = await response.aread()
        except httpx.TransportError as error:
            raise _away() from error
        if not response.is_success:
            try:
                raise MeuseError.from_dict(msgspec.json.decode(body)["error"])
            except (msgspec.MsgspecError, KeyError, TypeError):
                raise MeuseError(Code.INTERNAL, "control's answer cannot be read") from None

    async def close(self) -> None:
        await self._transport.aclose()

    def _request(self, scope: Scope, receive: Receive, request_id: str) -> httpx.Request:
        headers = _end_to_end(scope["headers"])
        if not any(name == b"x-request-id" for name, _ in headers):
            headers.append((b"x-request-id", request_id.encode()))
        sizes = [value for name, value in headers if name == b"content-length"]
        limit, hint = self._max_upload, "The operator can raise max_upload_bytes."
        if scope["raw_path"].startswith(b"/api/models/"):
            limit, hint = self._max_model, "The operator can raise max_model_bytes."
        if any(value.isdigit() and int(value) > limit for value in sizes):
            raise too_large(limit, hint)
        chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        has_body = chunked or any(value != b"0" for value in sizes)
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        try:
            url = httpx.URL("http://control").copy_with(raw_path=target)
        except (UnicodeDecodeError, httpx.InvalidURL) as error:
            raise MeuseError(
                Code.INVALID_REQUEST,
                f"the path or the query is not that of a URL: {error}",
                field="path",
                hint="Percent-encode what is not printable ASCII, and stay below 64 KiB.",
            ) from None
        return httpx.Request(
            scope["method"],
            url,
            headers=headers,
            content=_body(receive, limit, hint) if has_body else None,
            extensions={"timeout": _TIMEOUT},
        )


async def _body(receive: Receive, limit: int, hint: str) -> AsyncIterator[bytes]:
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        size += len(message["body"])
        if size > limit:
            raise too_large(limit, hint)
        more = message["more_body"]
        yield message["body"]


def _away() -> MeuseError:
    return MeuseError(
        Code.UNAVAILABLE,
        "the control plane is not there; deployed models are served all the same",
        hint="Try again in a moment.",
    )


def _end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers without those that are about one connection only."""
    dropped = set(_HOP_BY_HOP)
    for name, value in headers:
        if name.lower() == b"connection":
            dropped |= {token.strip().lower() for token in value.split(b",")}
    return [(name, value) for name, value in headers if name.lower() not in dropped]


async def _pump(response: httpx.Response, send: Send, request_id: str) -> None:
    headers = [(name.lower(), value) for name, value in _end_to_end(response.headers.raw)]
    if not any(name == b"x-request-id" for name, _ in headers):
        headers.append((b"x-request-id", request_id.encode()))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    async for chunk in response.aiter_raw():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
