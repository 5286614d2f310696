"""Prepaid credit: checks who may see and who may book, then asks the ledger."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse

from meuse.api.context import Body, Parts, requires, tenant_scope
from meuse.core.errors import invalid
from meuse.core.fields import known
from meuse.core.nouns import Principal

router = APIRouter(prefix="/api/wallets", tags=["money"])
Admin = Annotated[Principal, requires("admin")]
Billing = Annotated[Principal, requires("billing")]
Key = Annotated[str | None, Header(alias="idempotency-key")]

GRANT = ("amount", "kind", "priority", "expires", "reference")
HOLD = ("amount", "reference")
REFUND = ("amount", "grant", "reference")


@router.post("", status_code=201)
def open_wallet(parts: Parts, caller: Admin, body: Body) -> JSONResponse:
    """The wallet of {tenant, currency}: made (201), or as it is there (200)."""
    status, answer = parts.ledger.call("POST", "/wallets", body={"tenant": caller.tenant} | body)
    return JSONResponse(answer, status)


@router.get("")
def list_wallets(parts: Parts, caller: Billing, tenant: str | None = None) -> Any:
    """A tenant's wallets; an administrator may name one, or `*` for all."""
    return parts.ledger.call("GET", "/wallets", params={"tenant": _whose(caller, tenant)})[1]


@router.get("/{wallet_id}")
def one_wallet(parts: Parts, caller: Billing, wallet_id: str) -> Any:
    """What is available, held, granted, spent, expired and refunded, and the grants in the order
    in which they are spent. available = granted − spent − held − expired − refunded."""
    return parts.ledger.call("GET", _path(wallet_id), params={"tenant": _seen(caller)})[1]


@router.post("/{wallet_id}/grants", status_code=201)
def grant(
    parts: Parts, caller: Admin, wallet_id: str, body: Body, idempotency_key: Key = None
) -> JSONResponse:
    """Credit {amount, kind: purchased|granted, priority?, expires?, reference}: decimal text in
    the wallet's currency. `purchased` was paid for, `granted` is a gift. Of a lower priority
    (0 first) it is spent earlier. The `reference`, or the header Idempotency-Key, is booked once:
    sent again, the same answers 200 and something else 409."""
    return _book(parts, f"{_path(wallet_id)}/grants", body, idempotency_key, GRANT)


@router.post("/{wallet_id}/refunds", status_code=201)
def refund(
    parts: Parts, caller: Admin, wallet_id: str, body: Body, idempotency_key: Key = None
) -> JSONResponse:
    """Pay back {amount, grant?, reference} of what was purchased and is neither spent, held nor
    expired: of one grant, or of those that would be spent last."""
    return _book(parts, f"{_path(wallet_id)}/refunds", body, idempotency_key, REFUND)


@router.post("/{wallet_id}/holds", status_code=201)
def hold(
    parts: Parts, caller: Admin, wallet_id: str, body: Body, idempotency_key: Key = None
) -> JSONResponse:
    """Set {amount, reference} aside for work under way: 402 where there is not enough. It stays
    held until it is captured or released."""
    return _book(parts, f"{_path(wallet_id)}/holds", body, idempotency_key, HOLD)


@router.get("/{wallet_id}/holds/{hold_id}")
def one_hold(parts: Parts, caller: Billing, wallet_id: str, hold_id: str) -> Any:
    """What was set aside at first (`amount`), and what is `held` of it still, by grant."""
    path = _hold(wallet_id, hold_id)
    return parts.ledger.call("GET", path, params={"tenant": _seen(caller)})[1]


@router.post("/{wallet_id}/holds/{hold_id}/captures", status_code=201)
def capture(
    parts: Parts,
    caller: Admin,
    wallet_id: str,
    hold_id: str,
    body: Body,
    idempotency_key: Key = None,
) -> JSONResponse:
    """Take {amount, reference} of a hold for good: it pays for the next invoice. What is not
    taken stays held."""
    path = f"{_hold(wallet_id, hold_id)}/captures"
    return _book(parts, path, body, idempotency_key, HOLD)


@router.post("/{wallet_id}/holds/{hold_id}/release")
def release(parts: Parts, caller: Admin, wallet_id: str, hold_id: str) -> Any:
    """Give back what a hold still holds; again, nothing more happens."""
    path = f"{_hold(wallet_id, hold_id)}/release"
    return parts.ledger.call("POST", path, body={"tenant": "*"})[1]


@router.get("/{wallet_id}/entries")
def entries(
    parts: Parts,
    caller: Billing,
    wallet_id: str,
    cursor: str | None = None,
    limit: str | None = None,
) -> Any:
    """What was booked, newest first: {items, next}; `next` is the cursor of the following page.
    An entry's legs add up to zero; a debit is positive."""
    params = {"tenant": _seen(caller), "cursor": cursor, "limit": limit}
    return parts.ledger.call("GET", f"{_path(wallet_id)}/entries", params=params)[1]


def _book(
    parts: Parts, path: str, body: dict[str, Any], key: str | None, fields: tuple[str, ...]
) -> JSONResponse:
    known(body, fields)
    if key is not None and body.setdefault("reference", key) != key:
        raise invalid(
            "reference",
            "the header Idempotency-Key says something else",
            "Send one of the two, or the same in both.",
        )
    status, answer = parts.ledger.call("POST", path, body=body | {"tenant": "*"})
    return JSONResponse(answer, status)


def _path(wallet_id: str) -> str:
    return f"/wallets/{quote(wallet_id, safe='')}"


def _hold(wallet_id: str, hold_id: str) -> str:
    return f"{_path(wallet_id)}/holds/{quote(hold_id, safe='')}"


def _whose(caller: Principal, tenant: str | None) -> str:
    if tenant == "*" and "admin" in caller.scopes:
        return "*"
    return tenant_scope(caller, tenant).tenant


def _seen(caller: Principal) -> str:
    """Whose wallets a caller may see."""
    return "*" if "admin" in caller.scopes else caller.tenant
