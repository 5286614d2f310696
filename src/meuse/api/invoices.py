"""Invoices and credit notes: checks who may do what, then asks the ledger.

Only an administrator issues, takes payments, credits or makes void: a tenant's key sees its own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from meuse.api.context import Body, Control, Parts, requires, tenant_scope
from meuse.api.plans import checked_period
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.fields import known
from meuse.core.nouns import Principal

router = APIRouter(prefix="/api", tags=["money"])
Billing = Annotated[Principal, requires("billing")]
Format = Literal["json", "html", "csv", "pdf"]

_FORMATS: dict[str, Format] = {
    "application/json": "json",
    "text/html": "html",
    "text/csv": "csv",
    "application/pdf": "pdf",
}
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {} for kind in _FORMATS}},
}
_HEADERS = {
    # No script and nothing from elsewhere, whatever stands in an invoice.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "vary": "accept",
}


@router.post("/invoices", status_code=201)
def make_invoice(parts: Parts, caller: Billing, body: Body) -> JSONResponse:
    """An invoice for {tenant, period: "2026-11" | {from, to}}; an open period gives a draft.

    Only an administrator issues: for others it is a preview, of which nothing is kept. A draft
    is rated anew each time; with `unrated_as`, a plan version ("basic:2"), an administrator has
    usage without a price rated by that. After its end a period is a draft until the grace for
    late records is over, unless an administrator says `issue_now`.
    """
    known(body, ("tenant", "period", "unrated_as", "issue_now"))
    tenant = body.get("tenant")
    if tenant is not None and not isinstance(tenant, str):
        raise invalid("tenant", f"{tenant!r} is not a tenant")
    who = tenant_scope(caller, tenant).tenant
    admin = "admin" in caller.scopes
    asked = {"tenant": who, "period": checked_period(body.get("period")), "issue": admin}
    status, answer = parts.ledger.call("POST", "/invoices", body=asked | _how(body, admin))
    return JSONResponse(answer, status)


@router.get("/invoices")
def list_invoices(
    parts: Parts, caller: Billing, tenant: str | None = None, status: str | None = None
) -> Any:
    """Newest period first; `status`: draft, issued, paid or void. An administrator may name a
    tenant, or `*` for all."""
    everyone = tenant == "*" and "admin" in caller.scopes
    who = "*" if everyone else tenant_scope(caller, tenant).tenant
    return parts.ledger.call("GET", "/invoices", params={"tenant": who, "status": status})[1]


@router.get("/invoices/{invoice_id}", responses=_CONTENT)
def one_invoice(
    request: Request,
    parts: Parts,
    caller: Billing,
    invoice_id: str,
    tenant: str | None = None,
    format: Format | None = None,
) -> Response:
    """An invoice by its id or number. JSON, or by `Accept` or `format` a page, its lines as CSV,
    or PDF."""
    return _shown(request, parts, _theirs(caller, tenant), _path("invoices", invoice_id), format)


@router.get("/credit-notes/{note_id}", responses=_CONTENT)
def one_credit_note(
    request: Request,
    parts: Parts,
    caller: Billing,
    note_id: str,
    tenant: str | None = None,
    format: Format | None = None,
) -> Response:
    """A credit note by its id or number, as an invoice is shown."""
    return _shown(request, parts, _theirs(caller, tenant), _path("credit-notes", note_id), format)


@router.post("/invoices/{invoice_id}/issue")
def issue(parts: Parts, caller: Billing, invoice_id: str, body: Body) -> Any:
    """Issue a draft: {issue_now?, unrated_as?}. Administrators."""
    known(body, ("unrated_as", "issue_now"))
    _administrator(caller)
    return _done(parts, invoice_id, "issue", _how(body, True))


@router.post("/invoices/{invoice_id}/payments", status_code=201)
def pay(parts: Parts, caller: Billing, invoice_id: str, body: Body) -> JSONResponse:
    """Tell of a payment: {amount, reference, date?: YYYY-MM-DD}. Told twice under one reference,
    it counts once. In parts, but never more than is due. Administrators."""
    _administrator(caller)
    return _done(parts, invoice_id, "payments", body)


@router.post("/invoices/{invoice_id}/refunds", status_code=201)
def pay_back(parts: Parts, caller: Billing, invoice_id: str, body: Body) -> JSONResponse:
    """Tell of money that went back: {amount, reference, date?}, of what was paid and credited.
    Administrators."""
    _administrator(caller)
    return _done(parts, invoice_id, "refunds", body)


@router.post("/invoices/{invoice_id}/credit-notes", status_code=201)
def credit(parts: Parts, caller: Billing, invoice_id: str, body: Body) -> JSONResponse:
    """Credit an invoice: {reason, amount?, reference?}; without an amount all that is left of it,
    never more. Told twice under one reference, it counts once. Administrators."""
    _administrator(caller)
    return _done(parts, invoice_id, "credit-notes", body)


@router.post("/invoices/{invoice_id}/void")
def void(parts: Parts, caller: Billing, invoice_id: str, body: Body) -> JSONResponse:
    """Take back an invoice on which nothing was paid or credited: {reason}. Its number stays, its
    period can be invoiced again. Administrators."""
    _administrator(caller)
    return _done(parts, invoice_id, "void", body)


def _done(parts: Control, invoice_id: str, what: str, body: dict[str, Any]) -> JSONResponse:
    path = f"{_path('invoices', invoice_id)}/{what}"
    status, answer = parts.ledger.call("POST", path, params={"tenant": "*"}, body=body)
    return JSONResponse(answer, status)


def _shown(
    request: Request, parts: Control, tenant: str, path: str, format: Format | None
) -> Response:
    chosen = format or _accepted(request.headers.get("accept", ""))
    params = {"tenant": tenant, "format": chosen}
    content, headers = parts.ledger.document(path, params)
    return Response(content, headers=_HEADERS | headers)


def _theirs(caller: Principal, tenant: str | None) -> str:
    """Whose documents may be shown: an administrator finds those of all tenants by id."""
    if tenant is None and "admin" in caller.scopes:
        return "*"
    return tenant_scope(caller, tenant).tenant


def _path(kind: str, name: str) -> str:
    return f"/{kind}/{quote(name, safe='')}"


def _administrator(caller: Principal) -> None:
    if "admin" not in caller.scopes:
        raise MeuseError(
            Code.FORBIDDEN,
            "only an administrator changes invoices",
            field="scope",
            hint="A key with the scope `billing` sees its tenant's.",
        )


def _how(body: dict[str, Any], admin: bool) -> dict[str, Any]:
    """How it is made, as an administrator says it."""
    said: dict[str, Any] = {}
    for name, kind, told in (
        ("unrated_as", str, 'Name a plan version, such as "basic:2".'),
        ("issue_now", bool, "Use true or false."),
    ):
        value = body.get(name)
        if value is None:
            continue
        if not admin:
            raise MeuseError(Code.FORBIDDEN, f"only an administrator says {name}", field=name)
        if not isinstance(value, kind):
            raise invalid(name, f"{value!r} cannot be", told)
        said[name] = value
    return said


def _accepted(header: str) -> Format:
    """The best of what the header names (by q, then by order); JSON when it names none."""
    best, chosen = 0.0, _FORMATS["application/json"]
    for part in header.split(","):
        kind, _, parameters = part.partition(";")
        name = _FORMATS.get(kind.strip().lower())
        if name is None:
            continue
        try:
            quality = float(parameters.replace(" ", "").partition("q=")[2] or 1)
        except ValueError:
            quality = 0.0
        if quality > best:
            best, chosen = quality, name
    return chosen
