"""Request bodies: read under a limit, decoded strictly, refused precisely. Knows no route."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

import msgspec

from meuse.core.errors import Code, MeuseError

T = TypeVar("T")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

AT_ONCE = 256 * 1024 * 1024
"""Bytes of unfinished bodies that one worker holds."""
_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_S = 5.0

_NAMED = re.compile(r"(?:missing required|unknown) field `([^`]*)`")
_WHERE = re.compile(r" - at `\$\.?([^`]*)`")


class ClientGoneError(Exception):
    """Nobody is there to be answered."""


def decode(decoder: msgspec.json.Decoder[T], body: bytes | memoryview) -> T:
    """Raises `invalid_json` for what is no JSON, `invalid_field` for what has another shape."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        where, named = _WHERE.search(text), _NAMED.search(text)
        path = [where[1]] if where and where[1] else []
        path += [named[1]] if named else []
        message = _WHERE.sub("", text)
        raise MeuseError(
            Code.INVALID_FIELD, message[:1].lower() + message[1:], field=".".join(path) or "body"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeuseError(
            Code.INVALID_JSON, f"the body is not JSON: {error}", field="body",
            hint="NaN and Infinity are not JSON either.",
        ) from None  # fmt: skip
    except RecursionError:
        raise MeuseError(Code.INVALID_JSON, "the body is nested too deeply", field="body") from None


class BodyReader:
    """Reads bodies, each under a limit, and all that are being read at once under another."""

    def __init__(self, limit: int, at_once: int = AT_ONCE) -> None:
        self._limit = limit
        self._at_once = max(at_once, limit)
        self._held = 0

    async def read(self, receive: Receive, announced: int) -> bytes:
        """The whole body.

        Raises `too_large` before more than the limit (and a read) is held, `overloaded` when
        all unfinished bodies together would be too much.
        """
        if announced > self._limit:
            raise too_large(self._limit)
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        body: bytes = message["body"]
        if not message["more_body"] and len(body) <= self._limit:
            return body
        return await self._read_on(receive, body)

    async def _read_on(self, receive: Receive, body: bytes) -> bytes:
        parts, size, more = [body], len(body), True
        self._held += size
        try:
            while size <= self._limit:
                if not more:
                    return b"".join(parts)
                if self._held > self._at_once:
                    raise MeuseError(
                        Code.OVERLOADED, "too many large bodies arrive at once", field="body",
                        hint="Try again later, or send fewer rows in one request.",
                    )  # fmt: skip
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientGoneError
                body, more = message["body"], message["more_body"]
                parts.append(body)
                size += len(body)
                self._held += len(body)
        finally:
            self._held -= size
        raise too_large(self._limit)


def too_large(limit: int, hint: str = "Send fewer rows in one request.") -> MeuseError:
    return MeuseError(
        Code.TOO_LARGE,
        f"the body has more than {limit} bytes",
        field="body",
        hint=hint,
    )


async def drain(receive: Receive) -> None:
    """Take some of what a client still sends and throw it away; bounded in bytes and time."""
    taken = 0
    try:
        async with asyncio.timeout(_DRAIN_S):
            while taken < _DRAIN_BYTES:
                message = await receive()
                taken += len(message.get("body", b""))
                if message["type"] != "http.request" or not message["more_body"]:
                    return
    except TimeoutError:
        return
