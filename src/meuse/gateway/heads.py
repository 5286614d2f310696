"""Requests as their handlers get them, and what their heads ask of all protocols alike. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meuse.core.errors import Code, MeuseError
from meuse.core.ids import uuid7_bytes
from meuse.gateway import oip
from meuse.gateway.paths import Match
from meuse.gateway.routes import Caller
from meuse.meter.checks import Standing
from meuse.serve.frames import HIGH, LOW, NORMAL

Header = tuple[bytes, bytes]
Headers = Sequence[Header]
"""Names in lower case."""

JSON = (b"content-type", b"application/json")
HEADER_LENGTH = oip.HEADER_LENGTH.lower().encode()
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

# What is looked for in a head; headers have lower-case names.
_LOOKED_FOR = frozenset(
    {
        b"authorization", b"content-length", b"content-encoding", HEADER_LENGTH,
        b"x-timeout-ms", b"x-priority",
    }
)  # fmt: skip
_PRIORITIES = {b"high": HIGH, b"normal": NORMAL, b"low": LOW}
_MAX_TIMEOUT_MS = 24 * 3600 * 1000


@dataclass(slots=True)  # not frozen: made once per request, that would cost three times as much
class Request:
    """What a handler is given. `caller` is None on public routes only."""

    match: Match
    body: bytes
    caller: Caller | None
    headers: Headers
    found: dict[bytes, bytes]
    """Of the headers, those that are looked for."""
    standings: Callable[[Caller, str], list[Standing]]
    """How the limits stand that a caller meets at a model."""

    @property
    def known(self) -> Caller:
        if self.caller is None:
            raise MeuseError(Code.INTERNAL, "a public route asked for its caller")
        return self.caller


def look(headers: Headers) -> dict[bytes, bytes]:
    """Those of the headers that are looked for; one that must not be repeated is spoilt by it."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _LOOKED_FOR:
            found[name] = b"several" if name == HEADER_LENGTH and name in found else value
    return found


def timeout_ms_of(value: bytes) -> int:
    if not (value.isdigit() and len(value) < 10 and 0 < int(value) <= _MAX_TIMEOUT_MS):
        raise MeuseError(
            Code.INVALID_FIELD,
            f"{value[:40].decode('latin-1')!r} is no time to wait",
            field="X-Timeout-Ms",
            hint=f"A whole number of milliseconds from 1 to {_MAX_TIMEOUT_MS}.",
        )
    return int(value)


def priority_of(value: bytes) -> int:
    """high, normal or low."""
    found = _PRIORITIES.get(value.strip().lower())
    if found is None:
        raise MeuseError(
            Code.INVALID_FIELD,
            f"there is no priority {value[:40].decode('latin-1')!r}",
            field="X-Priority",
            hint="high (on deployments of your own), normal or low.",
        )
    return found


def check_encoding(value: bytes) -> None:
    """Raises `unsupported_media_type`: bodies are read as they are."""
    if value.strip().lower() not in (b"", b"identity"):
        raise MeuseError(
            Code.UNSUPPORTED_MEDIA_TYPE,
            f"a body encoded as {value[:40].decode('latin-1')!r} cannot be read",
            field="Content-Encoding",
            hint="Send the body as it is.",
        )


def identified(headers: Headers) -> list[Header]:
    return [(b"x-request-id", request_id(headers).encode())]


def request_id(headers: Headers) -> str:
    """The client's X-Request-Id where it is sane, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return uuid7_bytes().hex()
