"""The ledger's own HTTP API on a unix socket, and the loop that keeps ingesting.

Control is its only client and has authorised the call: this server checks shapes, not keys.
`tenant` is mandatory everywhere; "*" is the administrator's view of all tenants.
"""

from __future__ import annotations

import gc
import logging
import socket as sockets
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meuse.billing.ingest import Ingester
from meuse.billing.invoices import make_invoice, preview_plan
from meuse.billing.keeping import Keeping, routes, standing
from meuse.billing.ports import LedgerStore, Plans, Tenants
from meuse.core.clock import Clock, from_rfc3339, now_ms, parse_period, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid

_log = logging.getLogger(__name__)
T = TypeVar("T")

_MAX_BACKOFF_S = 5.0
_GC_THRESHOLDS = (20_000, 20, 50)
"""A batch is thousands of objects that reference counts free: look for cycles less often."""
_NEWEST_ALARMS = 5
KEEP_ALIVE_S = 75
"""Longer than any client keeps an idle connection, so that it is the client who closes it."""
_USAGE = {"from", "to", "by", "tenant", "owner", "project", "fresh"}


class _NewInvoice(msgspec.Struct, forbid_unknown_fields=True):
    tenant: str
    period: str | dict[str, str]
    issue: bool = True
    unrated_as: str | None = None


class _WhatIf(msgspec.Struct, forbid_unknown_fields=True):
    tenant: str
    plan: str
    period: str | dict[str, str]


def make_app(
    store: LedgerStore,
    ingester: Ingester,
    plans: Plans,
    access: Tenants,
    clock: Clock = now_ms,
    keeping: Keeping | None = None,
) -> ASGIApp:
    """`GET /usage`, `POST /what-if`, `POST /invoices`, `GET /invoices[/{id}]`, `GET /health`,
    and the routes of `keeping`."""

    def usage(request: Request) -> Response:
        query = _query(request, _USAGE)
        start, end = _bounds(query, clock())
        by = [name.strip() for name in query.get("by", "day,model,meter").split(",")]
        tenant, fresh = _tenant(query), _flag(query, "fresh")
        if fresh:
            ingester.run_once()
        # Read before the rows: they may hold more than is claimed, never less.
        complete_to = ingester.complete_to_ms
        owner, project = query.get("owner"), query.get("project")
        rows = store.usage(start, end, by, tenant=tenant, owner=owner, project=project)
        late = store.late_usage(tenant, start, end) if owner is None and project is None else []
        return _json(
            {
                "rows": rows,
                "complete_to": to_rfc3339(complete_to) if complete_to else None,
                "from": to_rfc3339(start),
                "to": to_rfc3339(end),
                **({"late": late} if late else {}),
            }
        )

    async def new_invoice(request: Request) -> Response:
        wanted = _decode(await request.body(), _NewInvoice)
        if wanted.tenant == "*":
            raise invalid("tenant", "an invoice has one tenant", "Name the tenant that pays.")

        def make() -> Response:
            progress = ingester.run_once()
            invoice, new = make_invoice(
                store,
                plans,
                access,
                tenant=wanted.tenant,
                period=wanted.period,
                issue=wanted.issue,
                unrated_as=wanted.unrated_as,
                complete_to_ms=progress.complete_to_ms,
                clock=clock,
            )
            return _text(invoice.body, 201 if new else 200)

        return await run_in_threadpool(make)

    async def new_what_if(request: Request) -> Response:
        wanted = _decode(await request.body(), _WhatIf)

        def make() -> Response:
            complete_to = ingester.run_once().complete_to_ms
            body = preview_plan(
                store,
                plans,
                access,
                tenant=wanted.tenant,
                period=wanted.period,
                plan=wanted.plan,
            )
            return _json(body | {"complete_to": to_rfc3339(complete_to)})

        return await run_in_threadpool(make)

    def list_invoices(request: Request) -> Response:
        found = store.list_invoices(_tenant(_query(request, {"tenant"})))
        return _text('{"invoices":[' + ",".join(invoice.body for invoice in found) + "]}")

    def get_invoice(request: Request) -> Response:
        tenant = _tenant(_query(request, {"tenant"}))
        return _text(store.get_invoice(tenant, request.path_params["id"]).body)

    def health(_request: Request) -> Response:
        complete_to = ingester.complete_to_ms
        count, newest = store.newest_alarms(_NEWEST_ALARMS)
        return _json(
            {
                "status": "ok",
                "complete_to": to_rfc3339(complete_to) if complete_to else None,
                "alarms": {"count": count, "newest": newest},
                **({} if keeping is None else {"journal": standing(keeping)}),
            }
        )

    return Starlette(
        routes=[
            Route("/usage", usage, methods=["GET"]),
            Route("/what-if", new_what_if, methods=["POST"]),
            Route("/invoices", new_invoice, methods=["POST"]),
            Route("/invoices", list_invoices, methods=["GET"]),
            Route("/invoices/{id}", get_invoice, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            *(routes(keeping) if keeping is not None else ()),
        ],
        exception_handlers={
            MeuseError: _on_meuse_error,
            HTTPException: _on_http_error,
        },
        middleware=[Middleware(_LastResort)],
    )


class _Server(uvicorn.Server):
    """uvicorn that says when it answers."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        self._started()


def run(
    app: ASGIApp,
    ingester: Ingester,
    socket: Path,
    interval_s: float = 0.25,
    stop: threading.Event | None = None,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serve on a unix socket (0600) and ingest every `interval_s` until `stop` is set.

    `started` is called once it answers.

    Call it in the main thread: uvicorn then ends on SIGTERM and SIGINT too, and raises them
    again for the caller's handlers afterwards. Raises OSError when the socket cannot be bound.
    """
    stop = stop or threading.Event()
    tune_gc()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config, started)
    listener = _bind(socket)

    def ingest() -> None:
        _keep_ingesting(ingester, interval_s, stop)
        server.should_exit = True

    thread = threading.Thread(target=ingest, name="ingest", daemon=True)
    thread.start()
    try:
        server.run(sockets=[listener])
    finally:
        stop.set()
        thread.join()
        listener.close()
        socket.unlink(missing_ok=True)


def tune_gc() -> None:
    """What is loaded now stays; collections need not walk it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _keep_ingesting(ingester: Ingester, interval_s: float, stop: threading.Event) -> None:
    """Passes until `stop` and one more, for what was journaled since the one before it.

    A failure is logged and tried again, later each time.
    """
    failures = 0
    pause = 0.0
    while not stop.wait(pause):
        try:
            ingester.run_once()
        except Exception:
            failures += 1
            pause = min(interval_s * 2**failures, _MAX_BACKOFF_S)
            _log.exception("ingest failed (%d in a row), again in %.1f s", failures, pause)
        else:
            failures, pause = 0, interval_s
    try:
        ingester.run_once()
    except Exception:
        _log.exception("the last ingest failed; the next ledger goes on from there")


def _bind(path: Path) -> sockets.socket:
    """Our own bind: uvicorn would make the socket open to everyone."""
    path.unlink(missing_ok=True)  # of a ledger that was killed; two are kept apart by their parent
    listener = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        listener.close()
        raise
    return listener


# --- decode and encode ---

_INVOICE_HINT = (
    'Send {"tenant": "acme", "period": "2026-11"}, or "period": {"from": …, "to": …} in RFC 3339.'
)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise MeuseError(Code.INVALID_REQUEST, str(error), hint=_INVOICE_HINT) from None
    except msgspec.DecodeError as error:
        raise MeuseError(Code.INVALID_JSON, str(error), hint=_INVOICE_HINT) from None


def _query(request: Request, known: set[str]) -> dict[str, str]:
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise invalid(name, "there is no such parameter", f"Known: {', '.join(sorted(known))}.")
        if name in query:
            raise invalid(name, "the parameter is given twice", "Give it once.")
        query[name] = value
    return query


def _tenant(query: dict[str, str]) -> str | None:
    """The tenant that is asked for; None is all of them."""
    tenant = query.get("tenant")
    if not tenant:
        raise invalid(
            "tenant", "the tenant is missing", 'Name one; "*" is all, for administrators.'
        )
    return None if tenant == "*" else tenant


def _flag(query: dict[str, str], name: str) -> bool:
    value = query.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise invalid(name, f"{value!r} is not a boolean", "Use true or false.")
    return value in ("true", "1")


def _bounds(query: dict[str, str], now: int) -> tuple[int, int]:
    """[from, to) in Unix milliseconds; by default the UTC month of now."""
    start, end = parse_period(datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m"))
    if "from" in query:
        start = from_rfc3339(query["from"], "from")
    if "to" in query:
        end = from_rfc3339(query["to"], "to")
    if end <= start:
        raise invalid("to", "the period is empty", "`to` must lie after `from`.")
    return start, end


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def _text(body: str, status: int = 200) -> Response:
    """JSON as it is kept: an issued invoice is the same bytes each time."""
    return Response(body, status, media_type="application/json")


def _error(error: MeuseError) -> Response:
    return _json({"error": error.to_dict()}, error.http_status)


def _on_meuse_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, MeuseError):
        raise error
    return _error(error)


def _on_http_error(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    codes = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED}
    code = codes.get(status, Code.INVALID_REQUEST if status < 500 else Code.INTERNAL)
    return _error(MeuseError(code, f"{request.method} {request.url.path}: {error}"))


class _LastResort:
    """Answers what no handler expected. Starlette's own handler raises the error again after
    its answer, and uvicorn then resets the connection under the client's next call."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            _log.exception("%s %s failed", scope.get("method"), scope.get("path"))
            if begun:
                raise  # a broken answer must look broken
            error = MeuseError(Code.INTERNAL, "the ledger failed; its log says why")
            await _error(error)(scope, receive, send)
