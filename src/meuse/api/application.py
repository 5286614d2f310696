"""The FastAPI application of control: routes put together, errors dressed for HTTP."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meuse.api import (
    access,
    aliases,
    cards,
    dataset_uploads,
    datasets,
    deployments,
    external,
    files,
    invoices,
    jobs,
    limits,
    methods,
    models,
    money,
    openai_batches,
    openai_files,
    openai_fine_tuning,
    plans,
    recipes,
    reports,
    usage_events,
    wallets,
    webhooks,
)
from meuse.api.context import ANY, Control, error_response, requires
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Principal
from meuse.core.version import __version__

log = logging.getLogger(__name__)

_BY_STATUS = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED}


def make_app(control: Control) -> FastAPI:
    """The management API. It listens on a unix socket; gateway workers hand requests over."""
    app = FastAPI(
        title="Meuse",
        version=__version__,
        summary="Models as a service: data, training, compression, serving, metering, billing.",
        description="Every call needs `Authorization: Bearer <key>`.",
        openapi_url=None,  # FastAPI's own route would answer without a key
    )
    app.state.control = control
    for part in (
        dataset_uploads, datasets, files, jobs, models, external, aliases, cards, deployments,
        access, plans, limits, usage_events, money, invoices, wallets, webhooks, recipes, methods,
        reports, openai_files, openai_batches, openai_fine_tuning,
    ):  # fmt: skip
        app.include_router(part.router)

    @app.get("/openapi.json", include_in_schema=False)
    def openapi(caller: Annotated[Principal, requires(ANY)]) -> dict[str, Any]:
        """The description of this API, for any valid key."""
        return app.openapi()

    app.add_exception_handler(MeuseError, _refused)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(_LastResort)
    return app


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MeuseError)
    return error_response(request, error)


async def _unreadable(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body"))
    return error_response(
        request, MeuseError(Code.INVALID_FIELD, str(first["msg"]), field=field or None)
    )


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _BY_STATUS.get(error.status_code, Code.INVALID_REQUEST)
    field = {404: "path", 405: "method"}.get(error.status_code, "body")
    message = f"{request.method} {request.url.path}: {error.detail}"
    response = error_response(
        request, MeuseError(code, message, field=field, hint="See GET /openapi.json.")
    )
    response.headers.update(error.headers or {})  # Allow, beside 405
    return response


class _LastResort:
    """Answers what no handler expected. Starlette's own handler raises the error again after
    its answer, and uvicorn then resets the connection under the gateway's next call."""

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
            log.exception("%s %s failed", scope.get("method"), scope.get("path"))
            if begun:
                raise  # a broken stream must look broken
            error = MeuseError(Code.INTERNAL, "the server failed; the log of control has the cause")
            await error_response(Request(scope), error)(scope, receive, send)
