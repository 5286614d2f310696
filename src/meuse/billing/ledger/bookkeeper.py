"""What invoices call when they are issued, paid, credited or void: amounts in and out as decimals.

Each call is given the books of the transaction that changes the invoice, and may be repeated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from meuse.billing.ledger import postings
from meuse.billing.ledger.books import Books, Invoice, LedgerBooks
from meuse.billing.ledger.postings import Issue, Line, Standing
from meuse.core.clock import parse_period
from meuse.core.micros import from_micros


class Paid(Protocol):
    """Money that came in by an adapter, or went back by it (`kind` refund)."""

    @property
    def kind(self) -> str: ...
    @property
    def adapter(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def amount(self) -> str: ...


@dataclass(frozen=True, slots=True)
class BodyLine:
    """A line as a body has it."""

    kind: str
    amount: str
    exact: Decimal


class Bookkeeper:
    """Books what becomes of invoices (`billing.ports.Postings`)."""

    def post_invoice(
        self,
        books: Books,
        *,
        invoice: str,
        number: str,
        tenant: str,
        currency: str,
        lines: Sequence[Line],
        start_ms: int,
        end_ms: int,
        now_ms: int,
    ) -> Decimal:
        """What the tenant's wallet has paid of it."""
        issue = Issue(invoice, number, tenant, currency, lines, start_ms, end_ms)
        return from_micros(postings.post_invoice(books, issue, now_ms).from_wallet)

    def post_payment(self, books: Books, *, invoice: Invoice, paid: Paid, now_ms: int) -> None:
        """Raises `invalid_field` beyond what is due, or was paid too much."""
        reference = f"{paid.adapter}/{paid.reference}"
        about = _about(invoice)
        if paid.kind == "refund":
            postings.post_repayment(
                books, **about, amount=paid.amount, reference=reference, now_ms=now_ms
            )
        else:
            postings.post_payment(
                books,
                **about,
                amount=paid.amount,
                reference=reference,
                method=paid.adapter,
                now_ms=now_ms,
            )

    def post_credit_note(
        self, books: Books, *, invoice: Invoice, note: str, lines: Sequence[Line], now_ms: int
    ) -> Decimal:
        """What went back to the wallet; amounts of `lines` are what is taken off."""
        about = _about(invoice)
        before = postings.standing(books, invoice.tenant, about["invoice"])
        after = postings.post_credit_note(books, **about, note=note, lines=lines, now_ms=now_ms)
        return from_micros(before.from_wallet - after.from_wallet)

    def post_void(self, books: Books, *, invoice: Invoice, now_ms: int) -> None:
        """What the wallet paid goes back to it."""
        postings.post_void(books, **_about(invoice), now_ms=now_ms)


@dataclass(frozen=True, slots=True)
class BookReader:
    """What the ledger has, for comparison with what invoices and wallets say."""

    ledger: LedgerBooks

    def standing(self, tenant: str, invoice: str) -> Mapping[str, Decimal] | None:
        """{total, credited, paid, from_wallet, due} of an invoice; None: it is not booked."""
        with self.ledger.glance() as books:
            if not books.about(tenant, invoice):
                return None
            return figures(postings.standing(books, tenant, invoice))

    def unbalanced(self) -> Sequence[Mapping[str, str]]:
        """What does not add up in itself; `found` is what is kept, `expected` what it should be."""
        return [
            {name: str(value) for name, value in difference.items()}
            for difference in self.ledger.differences()
        ]


def figures(standing: Standing) -> dict[str, Decimal]:
    """In the currency."""
    names = ("total", "credited", "paid", "from_wallet", "due")
    return {name: from_micros(getattr(standing, name)) for name in names}


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
    """Lines without `exact`, of an older platform, are exact as they are."""
    return [
        BodyLine(
            line.get("kind", "usage"), line["amount"], Decimal(line.get("exact", line["amount"]))
        )
        for line in body["lines"]
    ]


def _about(invoice: Invoice) -> dict[str, str]:
    return {
        "tenant": invoice.tenant,
        "currency": invoice.currency,
        "invoice": str(invoice.id),
    }
