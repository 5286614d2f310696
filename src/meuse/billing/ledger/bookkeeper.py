"""Books what becomes of invoices, in the transaction in which it does.

Knows what an invoice's body says, and no SQL: how to come from a transaction to the books is
given to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic, Protocol, TypeVar

from meuse.billing.ledger import postings
from meuse.billing.ledger.books import Books, Invoice
from meuse.billing.ledger.postings import Issue, Standing
from meuse.core.clock import Clock, now_ms, parse_period

T = TypeVar("T")


class Payment(Protocol):
    @property
    def adapter(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def amount(self) -> str: ...


class CreditNote(Protocol):
    """`body` is its JSON; the amounts of its `lines` are what is taken off, above zero."""

    @property
    def id(self) -> str: ...
    @property
    def body(self) -> str: ...


@dataclass(frozen=True, slots=True)
class BodyLine:
    """A line as a body has it."""

    kind: str
    amount: str
    exact: Decimal


class Bookkeeper(Generic[T]):
    """Tells the ledger; `open` makes books of a transaction. Each call may be repeated."""

    def __init__(self, open: Callable[[T], Books], clock: Clock = now_ms) -> None:
        self._open = open
        self._clock = clock

    def post_invoice(self, transaction: T, invoice: Invoice) -> Standing:
        """Book it and have the tenant's wallet pay for it as far as it can."""
        return postings.post_invoice(self._open(transaction), issue_of(invoice), self._clock())

    def post_payment(self, transaction: T, invoice: Invoice, payment: Payment) -> Standing:
        return postings.post_payment(
            self._open(transaction),
            tenant=invoice.tenant,
            currency=invoice.currency,
            invoice=str(invoice.id),
            amount=payment.amount,
            reference=f"{payment.adapter}/{payment.reference}",
            method=payment.adapter,
            now_ms=self._clock(),
        )[1]

    def post_credit_note(self, transaction: T, invoice: Invoice, note: CreditNote) -> Standing:
        return postings.post_credit_note(
            self._open(transaction),
            tenant=invoice.tenant,
            currency=invoice.currency,
            note=note.id,
            invoice=str(invoice.id),
            lines=lines_of(json.loads(note.body)),
            now_ms=self._clock(),
        )

    def post_void(self, transaction: T, invoice: Invoice) -> Standing:
        return postings.post_void(
            self._open(transaction),
            tenant=invoice.tenant,
            currency=invoice.currency,
            invoice=str(invoice.id),
            now_ms=self._clock(),
        )


def issue_of(invoice: Invoice) -> Issue:
    """What is to be booked of an issued invoice."""
    body = json.loads(invoice.body)
    start, end = parse_period(body["period"])
    return Issue(
        str(invoice.id),
        str(invoice.number),
        invoice.tenant,
        invoice.currency,
        lines_of(body),
        start,
        end,
    )


def lines_of(body: dict[str, Any]) -> Sequence[BodyLine]:
    """Lines without `exact` (of an older platform, of credit notes) are exact as they are."""
    return [
        BodyLine(
            line.get("kind", "usage"), line["amount"], Decimal(line.get("exact", line["amount"]))
        )
        for line in body["lines"]
    ]
