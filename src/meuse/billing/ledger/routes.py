"""Wallets on the ledger's own server: decode, call, encode.

Control is the only client and has authorised the call. `tenant` is mandatory; "*" is all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from meuse.billing.ledger import wallets
from meuse.billing.ledger.balance import (
    entry_body,
    grant_body,
    hold_body,
    spendable,
    wallet_body,
)
from meuse.billing.ledger.books import Books, LedgerBooks
from meuse.billing.ledger.credit import state_of
from meuse.billing.ledger.wallets import Terms
from meuse.billing.ports import Tenants
from meuse.core.clock import Clock, from_rfc3339, now_ms
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.fields import choice, integer, known
from meuse.core.ledger import GRANT_KINDS, Wallet, own_reference
from meuse.core.micros import parse_money
from meuse.core.money import check_currency

_PAGE = 100
_MOST_PAGE = 1000
_MOST_PRIORITY = 1_000_000
_LONGEST = 200


def wallet_routes(ledger: LedgerBooks, tenants: Tenants, clock: Clock = now_ms) -> list[Route]:
    """`POST GET /wallets`, `GET /wallets/{id}`, `POST /wallets/{id}/grants`, `/refunds`,
    `GET /wallets/{id}/entries`, `GET /wallets/spendable`, and those of holds."""

    def open_one(body: Mapping[str, Any], _request: Request) -> Response:
        known(body, ("tenant", "currency"))
        tenant, currency = _owner(body), check_currency(body.get("currency"))
        tenants.tenant(tenant)
        with ledger.books() as books:
            wallet, new = wallets.open_wallet(books, tenant, currency, clock())
            return _json(wallet_body(state_of(books, wallet), clock()), 201 if new else 200)

    def grant(asked: Mapping[str, Any], request: Request) -> Response:
        known(asked, ("tenant", "amount", "kind", "priority", "expires", "reference"))
        terms, reference = _terms(asked), _reference(asked)
        with ledger.books() as books:
            wallet = _wallet(books, request, asked)
            amount = parse_money(asked.get("amount"), "amount", wallet.currency)
            made, new = wallets.top_up(books, wallet, amount, terms, reference, clock())
            state = state_of(books, wallet)
        body = grant_body(state, made, clock()) | {"wallet": wallet_body(state, clock())}
        return _json(body, 201 if new else 200)

    def refund(asked: Mapping[str, Any], request: Request) -> Response:
        known(asked, ("tenant", "amount", "grant", "reference"))
        reference, of = _reference(asked), asked.get("grant")
        if of is not None and not isinstance(of, str):
            raise invalid("grant", f"{of!r} is not a grant", "Name one of the wallet's grants.")
        with ledger.books() as books:
            wallet = _wallet(books, request, asked)
            amount = parse_money(asked.get("amount"), "amount", wallet.currency)
            made, new = wallets.refund(books, wallet, amount, reference, clock(), grant=of)
            state = state_of(books, wallet)
        return _json(
            entry_body(made) | {"wallet": wallet_body(state, clock())}, 201 if new else 200
        )

    def list_all(request: Request) -> Response:
        wallets_of = ledger.list_wallets(_asked(request))  # not beside the connection of `glance`
        with ledger.glance() as books:
            found = [wallet_body(state_of(books, wallet), clock()) for wallet in wallets_of]
        return _json({"items": found})

    def one(request: Request) -> Response:
        tenant = _asked(request)
        with ledger.glance() as books:
            wallet = books.wallet_by_id(request.path_params["id"], tenant)
            return _json(wallet_body(state_of(books, wallet), clock()))

    def entries(request: Request) -> Response:
        tenant = _asked(request, "limit", "cursor")
        limit = integer("limit", request.query_params.get("limit", _PAGE), 1, _MOST_PAGE)
        cursor = request.query_params.get("cursor")
        before = None if cursor is None else integer("cursor", cursor, 1, 2**62)
        with ledger.glance() as books:
            wallet = books.wallet_by_id(request.path_params["id"], tenant)
        found = ledger.list_entries(wallet, before, limit + 1)
        more = len(found) > limit
        items = [entry_body(posted) for posted in found[:limit]]
        return _json({"items": items, "next": str(found[limit - 1].seq) if more else None})

    def budgets(request: Request) -> Response:
        return _json({"items": spendable(ledger, _asked(request), clock())})

    return [
        Route("/wallets", _posting(open_one), methods=["POST"]),
        Route("/wallets", list_all, methods=["GET"]),
        Route("/wallets/spendable", budgets, methods=["GET"]),
        Route("/wallets/{id}", one, methods=["GET"]),
        Route("/wallets/{id}/grants", _posting(grant), methods=["POST"]),
        Route("/wallets/{id}/refunds", _posting(refund), methods=["POST"]),
        Route("/wallets/{id}/entries", entries, methods=["GET"]),
        *_hold_routes(ledger, clock),
    ]


def _hold_routes(ledger: LedgerBooks, clock: Clock) -> list[Route]:
    """`POST /wallets/{id}/holds`, `GET /wallets/{id}/holds/{hold}`, and below that `POST
    /captures` and `/release`."""

    def answer(books: Books, wallet: Wallet, hold_id: str, status: int) -> Response:
        held = wallets.get_hold(books, wallet, hold_id)
        body = hold_body(held, wallet) | {"wallet": wallet_body(state_of(books, wallet), clock())}
        return _json(body, status)

    def hold(asked: Mapping[str, Any], request: Request) -> Response:
        known(asked, ("tenant", "amount", "reference"))
        reference = _reference(asked)
        with ledger.books() as books:
            wallet = _wallet(books, request, asked)
            amount = parse_money(asked.get("amount"), "amount", wallet.currency)
            status = _status(books, wallet, reference)
            made = wallets.hold(books, wallet, amount, reference, clock())
            return answer(books, wallet, made.id, status)

    def capture(asked: Mapping[str, Any], request: Request) -> Response:
        known(asked, ("tenant", "amount", "reference"))
        reference, hold_id = _reference(asked), request.path_params["hold"]
        with ledger.books() as books:
            wallet = _wallet(books, request, asked)
            amount = parse_money(asked.get("amount"), "amount", wallet.currency)
            status = _status(books, wallet, reference)
            wallets.capture(books, wallet, hold_id, amount, reference, clock())
            return answer(books, wallet, hold_id, status)

    def release(asked: Mapping[str, Any], request: Request) -> Response:
        known(asked, ("tenant",))
        hold_id = request.path_params["hold"]
        with ledger.books() as books:
            wallet = _wallet(books, request, asked)
            wallets.release(books, wallet, hold_id, clock())
            return answer(books, wallet, hold_id, 200)

    def one(request: Request) -> Response:
        tenant = _asked(request)
        with ledger.glance() as books:
            wallet = books.wallet_by_id(request.path_params["id"], tenant)
            return answer(books, wallet, request.path_params["hold"], 200)

    path = "/wallets/{id}/holds"
    return [
        Route(path, _posting(hold), methods=["POST"]),
        Route(path + "/{hold}", one, methods=["GET"]),
        Route(path + "/{hold}/captures", _posting(capture), methods=["POST"]),
        Route(path + "/{hold}/release", _posting(release), methods=["POST"]),
    ]


def _posting(handle: Any) -> Any:
    async def endpoint(request: Request) -> Response:
        body = _decode(await request.body())
        return await run_in_threadpool(handle, body, request)

    return endpoint


def _status(books: Books, wallet: Wallet, reference: str) -> int:
    """Of what is booked under a reference: 201, or 200 where it was before."""
    return 201 if books.posted(wallet.tenant, own_reference(wallet, reference)) is None else 200


def _wallet(books: Books, request: Request, body: Mapping[str, Any]) -> Wallet:
    tenant = body.get("tenant")
    return books.wallet_by_id(request.path_params["id"], None if tenant == "*" else _owner(body))


def _owner(body: Mapping[str, Any]) -> str:
    tenant = body.get("tenant")
    if not isinstance(tenant, str) or tenant == "*":
        raise invalid("tenant", "a wallet has one tenant", "Name the tenant whose credit it is.")
    return tenant


def _terms(body: Mapping[str, Any]) -> Terms:
    kind = choice("kind", body.get("kind", "purchased"), GRANT_KINDS)
    priority = integer("priority", body.get("priority", 0), 0, _MOST_PRIORITY)
    expires = body.get("expires")
    if expires is not None and not isinstance(expires, str):
        raise invalid("expires", f"{expires!r} is not a date", "Use RFC 3339, as text.")
    moment = None if expires is None else from_rfc3339(expires, "expires")
    return Terms("granted" if kind == "granted" else "purchased", priority, moment)


def _reference(body: Mapping[str, Any]) -> str:
    reference = body.get("reference")
    if reference is None:
        raise invalid(
            "reference",
            "money is booked under a reference",
            "Send one (or the header Idempotency-Key): what is sent again with it is booked once.",
        )
    if (
        not isinstance(reference, str)
        or not 1 <= len(reference) <= _LONGEST
        or not reference.isprintable()
    ):
        raise invalid(
            "reference",
            f"{reference!r} is not a reference",
            f"Use 1 to {_LONGEST} printable characters, such as the number of the payment.",
        )
    return reference


def _asked(request: Request, *more: str) -> str | None:
    """The tenant that is asked for; None is all of them."""
    query = request.query_params
    known(query, ("tenant", *more))
    tenant = query.get("tenant")
    if not tenant:
        raise invalid(
            "tenant", "the tenant is missing", 'Name one; "*" is all, for administrators.'
        )
    return None if tenant == "*" else tenant


def _decode(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise MeuseError(Code.INVALID_JSON, str(error), field="body") from None
    if not isinstance(found, dict):
        raise MeuseError(Code.INVALID_JSON, "the body is not a JSON object", field="body")
    return found


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
