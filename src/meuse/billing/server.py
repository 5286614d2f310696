"""The ledger's own HTTP API on a unix socket, and the loop that keeps ingesting.

Control is its only client and has authorised the call: this server checks shapes, not keys.
`tenant` is mandatory everywhere; "*" is the administrator's view of all tenants.
"""

from __future__ import annotations

import gc
import logging
import socket as sockets
import threading
from collections.abc import Callable, Sequence
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

from meuse.billing import invoice_calls
from meuse.billing.desk import Desk
from meuse.billing.ingest import Ingester
from meuse.billing.invoices import DEFAULT, preview_plan
from meuse.billing.keeping import Keeping, routes, standing
from meuse.billing.ports import BookReader, LedgerStore, Plans, Postings, Recount, Tenants
from meuse.billing.reports import month_forecast, owed, usage_costs
from meuse.billing.terms import Terms
from meuse.billing.wire import (
    as_json,
    bounds,
    decode,
    error_answer,
    flag,
    on_http_error,
    on_meuse_error,
    query_of,
    tenant_of,
)
from meuse.core.clock import Clock, now_ms, parse_period, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid

_log = logging.getLogger(__name__)
T = TypeVar("T")

_MAX_BACKOFF_S = 5.0
_GC_THRESHOLDS = (20_000, 20, 50)
"""A batch is thousands of objects that reference counts free: look for cycles less often."""
_NEWEST_ALARMS = 5
KEEP_ALIVE_S = 75
"""Longer than any client keeps an idle connection, so that it is the client who closes it."""
_USAGE = {"from", "to", "by", "tenant", "owner", "project", "fresh", "cost"}
_KEPT_RECONCILIATIONS = 30


class _Reconcile(msgspec.Struct, forbid_unknown_fields=True):
    period: str | dict[str, str] | None = None


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
    postings: Postings | None = None,
    more: Sequence[Route] = (),
    *,
    terms: Terms = DEFAULT,
    books: BookReader | None = None,
    recount: Recount | None = None,
    font: str = "",
    keeping: Keeping | None = None,
) -> ASGIApp:
    """`GET /usage`, `GET /forecast`, `POST /what-if`, `POST /reconciliations`, `GET /health`, the
    calls of `invoice_calls`, the routes of `keeping`, and `more`.

    `postings` books invoices in the ledger that the store opens, `books` reads it; `recount`
    counts raw records that are not all in the store; `font` is for PDF.
    """
    desk = Desk(
        store=store, ingester=ingester, plans=plans, tenants=access, terms=terms,
        postings=postings, books=books, recount=recount, font=font, clock=clock,
    )  # fmt: skip

    def usage(request: Request) -> Response:
        query = query_of(request, _USAGE)
        start, end = bounds(query, clock())
        by = [name.strip() for name in query.get("by", "day,model,meter").split(",")]
        tenant, fresh = tenant_of(query), flag(query, "fresh")
        if fresh:
            ingester.run_once()
        # Read before the rows: they may hold more than is claimed, never less.
        complete_to = ingester.complete_to_ms
        where = {"owner": query.get("owner"), "project": query.get("project")}
        told: dict[str, Any] = {
            "complete_to": to_rfc3339(complete_to) if complete_to else None,
            "from": to_rfc3339(start),
            "to": to_rfc3339(end),
        }
        late = [] if any(where.values()) else store.late_usage(tenant, start, end)
        told |= {"late": late} if late else {}
        if not flag(query, "cost"):
            return as_json({"rows": store.usage(start, end, by, tenant=tenant, **where), **told})
        who = store.payers(start, end) if tenant is None else [tenant]
        rows = usage_costs(store, plans, who, start, end, by, where)
        if tenant is not None and not any(where.values()):
            told["owed"] = owed(store, plans, access, tenant, start, end)
        return as_json({"rows": rows, **told})

    async def new_what_if(request: Request) -> Response:
        wanted = decode(await request.body(), _WhatIf)

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
            return as_json(body | {"complete_to": to_rfc3339(complete_to)})

        return await run_in_threadpool(make)

    def get_forecast(request: Request) -> Response:
        tenant = tenant_of(query_of(request, {"tenant"}))
        if tenant is None:
            raise invalid("tenant", "a forecast has one tenant", "Name the tenant that pays.")
        ingester.run_once()
        return as_json(month_forecast(store, plans, access, tenant, clock()))

    def get_reconciliations(request: Request) -> Response:
        query_of(request, set())
        return as_json({"items": store.reconciliations(_KEPT_RECONCILIATIONS)})

    async def new_reconciliation(request: Request) -> Response:
        wanted = decode(await request.body() or b"{}", _Reconcile)

        def make() -> Response:
            ingester.run_once()
            bounds = (None, None) if wanted.period is None else parse_period(wanted.period)
            return as_json(desk.reconciler.run(*bounds), 201)

        return await run_in_threadpool(make)

    def health(_request: Request) -> Response:
        complete_to = ingester.complete_to_ms
        count, newest = store.newest_alarms(_NEWEST_ALARMS)
        return as_json(
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
            *invoice_calls.routes(desk),
            Route("/forecast", get_forecast, methods=["GET"]),
            Route("/reconciliations", new_reconciliation, methods=["POST"]),
            Route("/reconciliations", get_reconciliations, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            *more,
            *(routes(keeping) if keeping is not None else ()),
        ],
        exception_handlers={
            MeuseError: on_meuse_error,
            HTTPException: on_http_error,
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
            await error_answer(error)(scope, receive, send)
