"""An invoice as it is shown: what it said when it was issued, and what became of it since."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from meuse.billing.invoice_ports import Account, CreditNote, Payment
from meuse.billing.lines import amount_text
from meuse.billing.settling import figures
from meuse.billing.terms import date_of
from meuse.core.clock import to_rfc3339


def invoice_view(account: Account, now_ms: int) -> dict[str, Any]:
    """The JSON of an invoice. Of a draft, it is as it was made; of others also {paid, credited,
    due, overdue, payments, credit_notes, void?}: `due` below zero is to be paid back."""
    invoice = account.invoice
    body: dict[str, Any] = json.loads(invoice.body)
    body["status"] = invoice.status
    # Lines of invoices that were issued before there were plans with tiers say less.
    body["lines"] = [{"kind": "usage", "tier": "", **line} for line in body["lines"]]
    if invoice.status == "draft":
        return body
    body |= brief(account, now_ms)
    body["payments"] = [payment_view(one) for one in account.payments]
    body["credit_notes"] = [
        {"id": note.id, "number": note.number, "amount": note.amount,
         "reason": json.loads(note.body)["reason"]}
        for note in account.credit_notes
    ]  # fmt: skip
    if invoice.voided_ms is not None:
        body["void"] = {"reason": invoice.void_reason, "at": to_rfc3339(invoice.voided_ms)}
    return body


def brief(account: Account, now_ms: int) -> dict[str, Any]:
    """What is to be done about it: id, number, status and sums."""
    invoice, sums = account.invoice, figures(account)
    is_void = invoice.status == "void"
    due = Decimal(0) if is_void else sums.due
    late = invoice.due_on is not None and invoice.due_on < date_of(now_ms)
    told = {
        name: amount_text(amount, invoice.currency)
        for name, amount in (
            ("total", sums.total), ("paid", sums.paid), ("credited", sums.credited),
            ("due", due),
        )
    }  # fmt: skip
    wallet = Decimal(0) if is_void else sums.wallet
    if wallet or "from_wallet" in json.loads(invoice.body):
        told["from_wallet"] = amount_text(wallet, invoice.currency)
    head = {"id": invoice.id, "number": invoice.number, "status": invoice.status}
    return {**head, "currency": invoice.currency, **told, "overdue": late and due > 0}


def payment_view(payment: Payment) -> dict[str, Any]:
    return {
        "id": payment.id,
        "kind": payment.kind,
        "adapter": payment.adapter,
        "reference": payment.reference,
        "amount": payment.amount,
        "date": payment.date,
        "created": to_rfc3339(payment.created_ms),
    }


def credit_view(note: CreditNote) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(note.body)
    return body
