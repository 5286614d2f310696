"""Errors as OpenAI words them: `{error: {message, type, param, code}}`. Pure."""

from __future__ import annotations

from typing import Any

from meuse.core.errors import Code, MeuseError

_WORDS: dict[Code, tuple[str, str]] = {
    Code.UNAUTHENTICATED: ("invalid_request_error", "invalid_api_key"),
    Code.FORBIDDEN: ("invalid_request_error", "insufficient_permissions"),
    Code.RATE_LIMITED: ("requests", "rate_limit_exceeded"),
    Code.LIMIT_EXCEEDED: ("requests", "rate_limit_exceeded"),
    Code.BUDGET_EXCEEDED: ("insufficient_quota", "insufficient_quota"),
}
"""(type, code) where clients know other words than ours."""


class PassedError(MeuseError):
    """Another server's own refusal of a request: its status, and its words."""

    def __init__(self, status: int, message: str, param: str | None, kind: str, code: str | None):
        super().__init__(Code.INVALID_REQUEST, message, field=param)
        self.status = status
        self.kind = kind
        self.their_code = code

    @property
    def http_status(self) -> int:
        return self.status


def dress(error: MeuseError) -> dict[str, Any]:
    if isinstance(error, PassedError):
        told = {"message": error.message, "type": error.kind, "param": error.field}
        return {"error": {**told, "code": error.their_code}}
    status = error.http_status
    kind, code = _WORDS.get(
        error.code, ("invalid_request_error" if status < 500 else "server_error", str(error.code))
    )
    if error.code is Code.NOT_FOUND and error.field == "model":
        code = "model_not_found"
    if error.code is Code.RATE_LIMITED and error.field == "budget":
        kind = "tokens"
    message = error.message if error.hint is None else f"{error.message}. {error.hint}"
    return {
        "error": {
            "message": message[:1].upper() + message[1:],
            "type": kind,
            "param": error.field,
            "code": code,
        }
    }
