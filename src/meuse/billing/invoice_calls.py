"""The ledger's calls about invoices: made, issued, shown, paid, credited, void.

Control has authorised the call: these check shapes, not keys.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from meuse.billing.desk import Desk
from meuse.billing.documents import render
from meuse.billing.invoice_ports import Account
from meuse.billing.settling import credit, pay, void
from meuse.billing.views import brief, credit_view, invoice_view, payment_view
from meuse.billing.wire import as_json, decode, query_of, tenant_of
from meuse.core.errors import invalid
from meuse.core.fields import choice, known
from meuse.core.states import InvoiceStatus


class _NewInvoice(msgspec.Struct, forbid_unknown_fields=True):
    tenant: str
    period: str | dict[str, str]
    issue: bool = True
    issue_now: bool = False
    unrated_as: str | None = None


class _Issue(msgspec.Struct, forbid_unknown_fields=True):
    issue_now: bool = False
    unrated_as: str | None = None


Body = dict[str, Any]
_Do = Callable[[str | None, str, Body], Response]


def routes(desk: Desk) -> list[Route]:
    """`/invoices…` and `/credit-notes…`, each with the query parameter `tenant`."""

    def call(path: str, do: Callable[[Desk, str | None, str, Body], Response]) -> Route:
        async def endpoint(request: Request) -> Response:
            body = decode(await request.body() or b"{}", Body)
            tenant = tenant_of(query_of(request, {"tenant"}))
            return await run_in_threadpool(do, desk, tenant, request.path_params["id"], body)

        return Route(path, endpoint, methods=["POST"])

    return [
        Route("/invoices", partial(_new, desk), methods=["POST"]),
        Route("/invoices", partial(_list, desk), methods=["GET"]),
        Route("/invoices/{id}", partial(_one, desk), methods=["GET"]),
        call("/invoices/{id}/issue", _issue),
        call("/invoices/{id}/payments", partial(_pay, "payment")),
        call("/invoices/{id}/refunds", partial(_pay, "refund")),
        call("/invoices/{id}/credit-notes", _credit),
        call("/invoices/{id}/void", _void),
        Route("/credit-notes/{id}", partial(_note, desk), methods=["GET"]),
    ]


async def _new(desk: Desk, request: Request) -> Response:
    wanted = decode(await request.body(), _NewInvoice)
    if wanted.tenant == "*":
        raise invalid("tenant", "an invoice has one tenant", "Name the tenant that pays.")

    def make() -> Response:
        account, new = desk.invoice(
            wanted.tenant,
            wanted.period,
            issue=wanted.issue,
            issue_now=wanted.issue_now,
            unrated_as=wanted.unrated_as,
        )
        return _shown(desk, account, 201 if new else 200)

    return await run_in_threadpool(make)


def _list(desk: Desk, request: Request) -> Response:
    query = query_of(request, {"tenant", "status"})
    tenant = tenant_of(query)
    status = query.get("status")
    if status is not None:
        status = choice("status", status, [str(one) for one in InvoiceStatus])
    now = desk.clock()
    found = [
        invoice_view(account, now)
        for account in desk.store.accounts(tenant)
        if status in (None, account.invoice.status)
    ]
    return as_json({"invoices": found})


def _one(desk: Desk, request: Request) -> Response:
    query = query_of(request, {"tenant", "format"})
    account = desk.store.account(tenant_of(query), request.path_params["id"])
    return _document(desk, "invoice", invoice_view(account, desk.clock()), query)


def _note(desk: Desk, request: Request) -> Response:
    query = query_of(request, {"tenant", "format"})
    note = desk.store.credit_note(tenant_of(query), request.path_params["id"])
    return _document(desk, "credit_note", credit_view(note), query)


def _issue(desk: Desk, tenant: str | None, invoice_id: str, body: Body) -> Response:
    wanted = msgspec.convert(_checked(body, ("issue_now", "unrated_as")), _Issue)
    account = desk.issue(
        tenant, invoice_id, issue_now=wanted.issue_now, unrated_as=wanted.unrated_as
    )
    return _shown(desk, account, 200)


def _pay(kind: str, desk: Desk, tenant: str | None, invoice_id: str, body: Body) -> Response:
    now = desk.clock()
    currency = desk.store.get_invoice(tenant, invoice_id).currency
    paid = desk.payments.received(body, kind, currency, now)
    account, new = desk.settle(
        tenant, invoice_id, lambda account: pay(account, paid, desk.postings, now)
    )
    (kept,) = [
        one
        for one in account.payments
        if (one.adapter, one.reference) == (paid.adapter, paid.reference)
    ]
    answer = {kind: payment_view(kept), "invoice": brief(account, now)}
    return as_json(answer, 201 if new else 200)


def _credit(desk: Desk, tenant: str | None, invoice_id: str, body: Body) -> Response:
    known(body, ("amount", "reason", "reference"))
    now = desk.clock()
    account, new = desk.settle(
        tenant,
        invoice_id,
        lambda account: credit(account, body, desk.terms, desk.postings, now),
    )
    notes = account.credit_notes
    note = notes[-1] if new else next(n for n in notes if n.reference == body["reference"].strip())
    answer = {"credit_note": credit_view(note), "invoice": brief(account, now)}
    return as_json(answer, 201 if new else 200)


def _void(desk: Desk, tenant: str | None, invoice_id: str, body: Body) -> Response:
    known(body, ("reason",))
    now = desk.clock()
    account, _ = desk.settle(
        tenant, invoice_id, lambda account: void(account, body.get("reason"), desk.postings, now)
    )
    return _shown(desk, account, 200)


def _checked(body: Body, fields: tuple[str, ...]) -> Body:
    known(body, fields)
    for name, kind, told in (
        ("issue_now", bool, "Use true or false."),
        ("unrated_as", str, 'Name a plan version, such as "basic:2".'),
    ):
        value = body.get(name)
        if value is not None and not isinstance(value, kind):
            raise invalid(name, f"{value!r} cannot be", told)
    return {name: value for name, value in body.items() if value is not None}


def _shown(desk: Desk, account: Account, status: int) -> Response:
    return as_json(invoice_view(account, desk.clock()), status)


def _document(desk: Desk, kind: str, view: Body, query: dict[str, str]) -> Response:
    wanted = choice("format", query.get("format", "json"), ("json", "html", "csv", "pdf"))
    if wanted == "json":
        return as_json(view)
    made = render(kind, view, wanted, desk.font)
    name = f'{"inline" if wanted == "html" else "attachment"}; filename="{made.name}"'
    return Response(made.content, media_type=made.media, headers={"content-disposition": name})
