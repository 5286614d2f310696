"""Usage of outside services, the journal's state and the recount: checked, then the ledger's."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from meuse.api.context import MAX_JSON, Body, Parts, error_response, requires
from meuse.api.ledger import RECOUNT_S
from meuse.core.errors import Code, MeuseError
from meuse.core.fields import known
from meuse.core.nouns import Principal

router = APIRouter(prefix="/api/usage", tags=["money"])
Reporter = Annotated[Principal, requires("usage:write")]
Admin = Annotated[Principal, requires("admin")]

SINGLE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


async def _raw(request: Request) -> bytes:
    raw = b""
    async for piece in request.stream():
        raw += piece
        if len(raw) > MAX_JSON:
            raise MeuseError(
                Code.TOO_LARGE,
                f"the body has more than {MAX_JSON} bytes",
                field="body",
                hint="Send several batches: what was sent already is recognised by its ids.",
            )
    return raw


@router.post("/events")
def report_usage(
    request: Request, parts: Parts, caller: Reporter, raw: Annotated[bytes, Depends(_raw)]
) -> JSONResponse:
    """Report usage of a service elsewhere as CloudEvents 1.0: one, or a batch of up to 1,000.

    `data` is {model, quantities: {meter: integer}, project?, version?, tier?}; the tenant of the
    key pays, or for an administrator the `subject`. (tenant, source, id) counts once in 45 days;
    all of a request is taken, or nothing. Usage of a period that is invoiced is billed in the
    open one, and listed as `late`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (SINGLE, BATCH):
        raise MeuseError(
            Code.UNSUPPORTED_MEDIA_TYPE,
            f"{kind or 'no content type'!r} is not read here",
            field="content-type",
            hint=f"Send {SINGLE}, or a JSON array of events as {BATCH}.",
        )
    params = {
        "tenant": caller.tenant,
        "project": caller.project,
        "key": caller.key,
        "all": "1" if "admin" in caller.scopes else "0",
        "batched": "1" if kind == BATCH else "0",
    }
    status, answer = parts.ledger.send("/events", params, raw)
    if status < 400:
        return JSONResponse(answer, status)
    more = {name: value for name, value in answer.items() if name != "error"}
    return error_response(request, MeuseError.from_dict(answer["error"]), **more)


@router.get("/journal")
def journal(parts: Parts, _: Admin) -> Any:
    """How usage stands on its way into the books: segments, what is quarantined, each worker's
    mode, lag and last fsync, the archive."""
    return parts.ledger.call("GET", "/journal")[1]


@router.post("/recount")
def recount(parts: Parts, _: Admin, body: Body) -> Any:
    """Count raw records of {from, to} again, those of the archive too, and compare with what
    usage and invoices are made from. `differences` must be empty."""
    known(body, ("from", "to"))
    asked = {name: str(value) for name, value in body.items()}
    return parts.ledger.call("POST", "/recount", body=asked, timeout_s=RECOUNT_S)[1]
