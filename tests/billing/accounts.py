"""Invoices and what was settled on them, for tests; every argument has a plain default."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from billing.make_usage import DAY
from meuse.billing.invoice_ports import Step
from meuse.core.errors import MeuseError

MONTH_END = DAY + 30 * 86_400_000


@dataclass(frozen=True)
class Invoice:
    id: str | None = "inv-1"
    tenant: str = "acme"
    number: str | None = "INV-2026-000001"
    status: str = "issued"
    currency: str = "EUR"
    total: str = "121.00"
    body: str = json.dumps({"tenant": "acme", "currency": "EUR", "net": "100.00", "tax": "21.00",
                            "taxes": [{"name": "VAT", "percent": "21"}], "lines": [],
                            "customer": {"name": "Acme"}})  # fmt: skip
    start_ms: int = DAY
    end_ms: int = MONTH_END
    issued_ms: int | None = MONTH_END
    due_on: str | None = "2026-12-31"
    voided_ms: int | None = None
    void_reason: str | None = None


@dataclass(frozen=True)
class Payment:
    id: str
    kind: str
    adapter: str
    reference: str
    amount: str
    date: str
    created_ms: int = MONTH_END


@dataclass(frozen=True)
class Note:
    id: str
    tenant: str
    number: str
    reference: str
    amount: str
    body: str


@dataclass(frozen=True)
class Account:
    invoice: Invoice = Invoice()
    payments: tuple[Payment, ...] = ()
    credit_notes: tuple[Note, ...] = ()
    next_start_ms: int | None = None


def after(account: Account, step: Step | None) -> Account:
    """As the store does it."""
    if step is None:
        return account
    if step.payment is not None:
        new = step.payment
        paid = Payment(f"pay-{len(account.payments)}", new.kind, new.adapter, new.reference,
                       new.amount, new.date)  # fmt: skip
        account = replace(account, payments=(*account.payments, paid))
    if step.credit is not None:
        made = step.credit
        n = len(account.credit_notes) + 1
        note = Note(f"crn-{n}", "acme", f"{made.series}-{n:06d}", made.reference or f"crn-{n}",
                    made.amount, json.dumps(made.body))  # fmt: skip
        account = replace(account, credit_notes=(*account.credit_notes, note))
    return replace(account, invoice=replace(account.invoice, status=step.status))


class Ledger:
    """Postings in memory; a wallet that pays what it can, once."""

    def __init__(self, wallet: str = "0", fails: bool = False) -> None:
        self.wallet = Decimal(wallet)
        self.told: list[tuple[str, Any]] = []
        self.fails = fails

    def post_invoice(self, books: Any, **told: Any) -> Decimal:
        if self.fails:
            raise MeuseError.from_dict({"code": "conflict", "message": "the books are closed"})
        self.told.append(("invoice", (books, told["invoice"], told["number"])))
        total = sum((Decimal(line.amount) for line in told["lines"]), Decimal(0))
        return min(self.wallet, total)

    def post_payment(self, books: Any, *, invoice: Any, paid: Any, now_ms: int) -> None:
        self.told.append((paid.kind, paid.amount))

    def post_credit_note(
        self, books: Any, *, invoice: Any, note: str, lines: Any, now_ms: int
    ) -> Decimal:
        self.told.append(("credit", [(line.kind, line.amount) for line in lines]))
        return self.wallet

    def post_void(self, books: Any, *, invoice: Any, now_ms: int) -> None:
        self.told.append(("void", invoice.number))
