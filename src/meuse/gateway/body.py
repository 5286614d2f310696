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

_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_S = 5.0

_NAMED = re.compile(r"(?:missing required|unknown) field `([^`]*)`")
_WHERE = re.compile(r" - at `\$\.?([^`]*)`")


class ClientGoneError(Exception):
    """Nobody is there to be answered."""


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
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


async def read_body(receive: Receive, announced: int, limit: int) -> bytes:
    """The whole body. Raises `too_large` before more than `limit` (and a read) is held."""
    if announced > limit:
        raise too_large(limit)
    message = await receive()
    if message["type"] != "http.request":
        raise ClientGoneError
    body: bytes = message["body"]
    if not message["more_body"] and len(body) <= limit:
        return body
    parts, size = [body], len(body)
    while size <= limit:
        if not message["more_body"]:
            return b"".join(parts)
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        parts.append(message["body"])
        size += len(parts[-1])
    raise too_large(limit)


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
