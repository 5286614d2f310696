"""What a wallet shows, and what a budget may count on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meuse.billing.ledger.books import LedgerBooks
from meuse.billing.ledger.credit import State, in_order, state_of, total
from meuse.billing.ledger.wallets import Hold
from meuse.core.clock import to_rfc3339
from meuse.core.ledger import Grant, Posted, Wallet, class_of, shown_reference
from meuse.core.micros import money_text


@dataclass(frozen=True, slots=True)
class Spendable:
    """Credit that is neither spent, held nor expired, in millionths of the currency, and what
    was captured of holds: the next invoice is paid from that first.

    Invoices are paid from it when they are issued: usage outside of the periods `invoiced`
    ([from, to) in Unix ms, ascending) is not taken off yet.
    """

    tenant: str
    currency: str
    available: int
    invoiced: Sequence[tuple[int, int]]


def spendable(ledger: LedgerBooks, tenant: str | None, now_ms: int) -> list[Spendable]:
    """Of each wallet of a tenant, or of all (None); both figures of one moment."""
    found = []
    for wallet in ledger.list_wallets(tenant):
        with ledger.glance() as books:
            left = state_of(books, wallet).available(now_ms)
            balances = books.balances(wallet.tenant, wallet.currency)
            left -= sum(n for name, n in balances.items() if class_of(name) == "captured")
            invoiced = books.invoiced(wallet.tenant)
        found.append(Spendable(wallet.tenant, wallet.currency, left, invoiced))
    return found


def wallet_body(state: State, now_ms: int) -> dict[str, Any]:
    """A wallet as JSON. available = granted − spent − held − expired − refunded."""
    wallet = state.wallet

    def text(micros: int) -> str:
        return money_text(micros, wallet.currency)

    return {
        "id": wallet.id,
        "tenant": wallet.tenant,
        "currency": wallet.currency,
        "available": text(state.available(now_ms)),
        "held": text(state.in_holds),
        "granted": text(state.granted),
        "spent": text(state.spent),
        "expired": text(state.expired(now_ms)),
        "refunded": text(state.refunded),
        "paid_in": text(state.paid_in),
        "grants": [grant_body(state, grant, now_ms) for grant in in_order(state.grants)],
        "created": to_rfc3339(wallet.created_ms),
    }


def grant_body(state: State, grant: Grant, now_ms: int) -> dict[str, Any]:
    """A grant as JSON; what has expired has nothing left."""
    currency, expired = state.wallet.currency, grant.has_expired(now_ms)
    return {
        "id": grant.id,
        "kind": grant.kind,
        "amount": money_text(grant.amount, currency),
        "left": money_text(0 if expired else state.left[grant.id], currency),
        "held": money_text(state.held[grant.id], currency),
        "priority": grant.priority,
        "expires": None if grant.expires_ms is None else to_rfc3339(grant.expires_ms),
        "expired": expired,
        "reference": grant.reference,
        "created": to_rfc3339(grant.created_ms),
    }


def hold_body(hold: Hold, wallet: Wallet) -> dict[str, Any]:
    """A hold as JSON: what was set aside at first, and what is of it still, by grant."""
    currency = wallet.currency
    return {
        "id": hold.id,
        "amount": money_text(hold.amount, currency),
        "held": money_text(total(hold.parts), currency),
        "parts": [
            {"grant": grant, "held": money_text(amount, currency)} for grant, amount in hold.parts
        ],
    }


def entry_body(posted: Posted) -> dict[str, Any]:
    """An entry as JSON. `amount` is what it changed of the credit that can be spent; of a leg, a
    debit is positive."""
    entry = posted.entry
    moved = -sum(leg.amount for leg in entry.legs if class_of(leg.account) == "credit")
    return {
        "id": posted.id,
        "kind": entry.kind,
        "reference": shown_reference(entry),
        "subject": entry.subject,
        "currency": entry.currency,
        "amount": money_text(moved, entry.currency),
        "legs": [
            {"account": leg.account, "amount": money_text(leg.amount, entry.currency)}
            for leg in entry.legs
        ],
        "effective": to_rfc3339(entry.effective_ms),
        "created": to_rfc3339(posted.created_ms),
    }
