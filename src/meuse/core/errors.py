"""The closed list of error codes and the one table to HTTP and gRPC statuses.

An error says what is wrong (`message`), where (`field`) and what to do (`hint`). The
edges dress it for their protocol; nothing below them knows a status number.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Every way a call can fail. Clients may rely on these strings."""

    INVALID_REQUEST = "invalid_request"
    INVALID_JSON = "invalid_json"
    INVALID_FIELD = "invalid_field"
    INVALID_DATA = "invalid_data"
    INVALID_INPUT = "invalid_input"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    PRECONDITION_FAILED = "precondition_failed"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    GATE_REFUSED = "gate_refused"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"
    BUDGET_EXCEEDED = "budget_exceeded"
    UNRATED = "unrated"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    LIMIT_EXCEEDED = "limit_exceeded"
    ENGINE_ERROR = "engine_error"
    INTERNAL = "internal"
    UPSTREAM_ERROR = "upstream_error"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"


# code → (HTTP status, gRPC status name). gRPC names, not objects: core imports no grpc.
STATUS: dict[Code, tuple[int, str]] = {
    Code.INVALID_REQUEST: (400, "INVALID_ARGUMENT"),
    Code.INVALID_JSON: (400, "INVALID_ARGUMENT"),
    Code.INVALID_FIELD: (400, "INVALID_ARGUMENT"),
    Code.INVALID_DATA: (400, "INVALID_ARGUMENT"),
    Code.INVALID_INPUT: (400, "INVALID_ARGUMENT"),
    Code.CONTEXT_LENGTH_EXCEEDED: (400, "INVALID_ARGUMENT"),
    Code.UNAUTHENTICATED: (401, "UNAUTHENTICATED"),
    Code.FORBIDDEN: (403, "PERMISSION_DENIED"),
    Code.NOT_FOUND: (404, "NOT_FOUND"),
    Code.METHOD_NOT_ALLOWED: (405, "UNIMPLEMENTED"),
    Code.CONFLICT: (409, "FAILED_PRECONDITION"),
    Code.PRECONDITION_FAILED: (412, "FAILED_PRECONDITION"),
    Code.TOO_LARGE: (413, "RESOURCE_EXHAUSTED"),
    Code.UNSUPPORTED_MEDIA_TYPE: (415, "INVALID_ARGUMENT"),
    Code.GATE_REFUSED: (422, "FAILED_PRECONDITION"),
    Code.QUARANTINED: (422, "FAILED_PRECONDITION"),
    Code.CANCELLED: (409, "CANCELLED"),
    Code.BUDGET_EXCEEDED: (402, "RESOURCE_EXHAUSTED"),
    Code.UNRATED: (402, "FAILED_PRECONDITION"),
    Code.OVERLOADED: (429, "RESOURCE_EXHAUSTED"),
    Code.RATE_LIMITED: (429, "RESOURCE_EXHAUSTED"),
    Code.LIMIT_EXCEEDED: (429, "RESOURCE_EXHAUSTED"),
    Code.ENGINE_ERROR: (500, "INTERNAL"),
    Code.INTERNAL: (500, "INTERNAL"),
    Code.UPSTREAM_ERROR: (502, "UNAVAILABLE"),
    Code.UNAVAILABLE: (503, "UNAVAILABLE"),
    Code.DEADLINE_EXCEEDED: (504, "DEADLINE_EXCEEDED"),
}


class MeuseError(Exception):
    """A failure that a caller can understand and act on.

    `field` names the part of the request at fault (`learning_rate`, `columns.age`),
    `hint` says how to mend it, `retry_after_s` when asking again may help (whole seconds, for
    the header or trailer `retry-after`). Each may be None.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.hint = hint
        self.is_counted = False
        """Whether metrics have it: it is raised through several hands, and counts once."""
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        where = f" (field: {self.field})" if self.field else ""
        fix = f" {self.hint}" if self.hint else ""
        return f"{self.message}{where}{fix}"

    @property
    def http_status(self) -> int:
        return STATUS[self.code][0]

    @property
    def grpc_status(self) -> str:
        return STATUS[self.code][1]

    def to_dict(self) -> dict[str, Any]:
        """The body of the `error` object, as every protocol carries it."""
        return {
            "code": str(self.code),
            "message": self.message,
            "field": self.field,
            "hint": self.hint,
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> MeuseError:
        """Rebuild an error that crossed a process border; unknown codes become `internal`."""
        try:
            code = Code(str(body.get("code")))
        except ValueError:
            code = Code.INTERNAL
        return cls(
            code,
            str(body.get("message") or "unknown error"),
            field=body.get("field"),
            hint=body.get("hint"),
        )


class RefusedError(MeuseError):
    """Work that was done and measured, and did not reach its goal (`gate_refused`).

    `report` is what was measured, JSON-able: it is kept with the job that failed so.
    """

    def __init__(
        self, message: str, *, report: dict[str, Any], field: str | None, hint: str | None
    ) -> None:
        super().__init__(Code.GATE_REFUSED, message, field=field, hint=hint)
        self.report = report


def invalid(field: str, message: str, hint: str | None = None) -> MeuseError:
    """A field of a request that cannot be accepted."""
    return MeuseError(Code.INVALID_FIELD, message, field=field, hint=hint)


def not_found(kind: str, name: str, hint: str | None = None) -> MeuseError:
    """A thing that does not exist, or that the caller may not know to exist."""
    return MeuseError(Code.NOT_FOUND, f"there is no {kind} {name!r}", field=kind, hint=hint)
