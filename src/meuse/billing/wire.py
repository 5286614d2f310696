"""How the ledger's server reads calls and writes answers: shapes, not meaning."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from meuse.core.clock import from_rfc3339, parse_period
from meuse.core.errors import Code, MeuseError, invalid

T = TypeVar("T")

_INVOICE_HINT = (
    'Send {"tenant": "acme", "period": "2026-11"}, or "period": {"from": …, "to": …} in RFC 3339.'
)


def decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise MeuseError(Code.INVALID_REQUEST, str(error), hint=_INVOICE_HINT) from None
    except msgspec.DecodeError as error:
        raise MeuseError(Code.INVALID_JSON, str(error), hint=_INVOICE_HINT) from None


def query_of(request: Request, known: set[str]) -> dict[str, str]:
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise invalid(name, "there is no such parameter", f"Known: {', '.join(sorted(known))}.")
        if name in query:
            raise invalid(name, "the parameter is given twice", "Give it once.")
        query[name] = value
    return query


def tenant_of(query: dict[str, str]) -> str | None:
    """The tenant that is asked for; None is all of them."""
    tenant = query.get("tenant")
    if not tenant:
        raise invalid(
            "tenant", "the tenant is missing", 'Name one; "*" is all, for administrators.'
        )
    return None if tenant == "*" else tenant


def flag(query: dict[str, str], name: str) -> bool:
    value = query.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise invalid(name, f"{value!r} is not a boolean", "Use true or false.")
    return value in ("true", "1")


def bounds(query: dict[str, str], now: int) -> tuple[int, int]:
    """[from, to) in Unix milliseconds; by default the UTC month of now."""
    start, end = parse_period(datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m"))
    if "from" in query:
        start = from_rfc3339(query["from"], "from")
    if "to" in query:
        end = from_rfc3339(query["to"], "to")
    if end <= start:
        raise invalid("to", "the period is empty", "`to` must lie after `from`.")
    return start, end


def as_json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def error_answer(error: MeuseError) -> Response:
    return as_json({"error": error.to_dict()}, error.http_status)


def on_meuse_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, MeuseError):
        raise error
    return error_answer(error)


def on_http_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    codes = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED}
    code = codes.get(status, Code.INVALID_REQUEST if status < 500 else Code.INTERNAL)
    return error_answer(MeuseError(code, f"{request.method} {request.url.path}: {error}"))
