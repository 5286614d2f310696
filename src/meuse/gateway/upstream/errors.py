"""What an external server refuses, as its caller hears it. Pure.

Its judgement of the request (400, 413, 422, …) passes as it is; what is between the server and
this platform (the platform's key, a path, a model that is not there) is no business of the
caller's, and never shows what the server said. No text that holds the key is passed on.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from meuse.core.errors import Code, MeuseError
from meuse.core.openai_errors import PassedError

_OURS = frozenset({401, 402, 403, 404, 405, 407, 421})
_KNOWN = frozenset(HTTPStatus)
_MOST = 2000
_MAX_WAIT_S = 24 * 3600


class _Error(msgspec.Struct):
    message: str = ""
    type: str | None = None
    param: str | None = None
    code: Any = None


class _Body(msgspec.Struct):
    error: _Error | str = ""
    message: str = ""
    detail: Any = None


_decode = msgspec.json.Decoder(_Body).decode


def refused(status: int, retry_after: bytes, body: bytes, secret: str) -> MeuseError:
    """The error of an answer with this status."""
    if status == 429:
        wait = retry_after.strip()
        seconds = int(wait) if wait.isdigit() and len(wait) < 7 else 1
        return MeuseError(
            Code.OVERLOADED,
            "the model's server has too many requests",
            hint="Try again later.",
            retry_after_s=min(max(seconds, 1), _MAX_WAIT_S),
        )
    if status == 503:
        return MeuseError(
            Code.UNAVAILABLE, "the model's server is not available", hint="Try again later."
        )
    if status in (408, 504):
        return MeuseError(Code.DEADLINE_EXCEEDED, "the model's server did not answer in time")
    if status in _OURS or not 400 <= status < 500:
        return MeuseError(
            Code.UPSTREAM_ERROR,
            f"the model's server answered with status {status}",
            hint="Its operator has to look at it.",
        )
    told = _told(body)
    message = told.message or f"the model's server refused the request with status {status}"
    if secret:
        message = message.replace(secret, "***")
        told.param = told.param and told.param.replace(secret, "***")
    code = told.code if isinstance(told.code, str) else None
    kind = told.type or "invalid_request_error"
    status = status if status in _KNOWN else 400
    return PassedError(status, message[:_MOST], told.param, kind, code)


def _told(body: bytes) -> _Error:
    try:
        found = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Error()
    if isinstance(found.error, _Error):
        return found.error
    text = found.error or found.message
    return _Error(text or (found.detail if isinstance(found.detail, str) else ""))
