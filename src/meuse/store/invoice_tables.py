"""The tables of invoices, and the records that go in and come out of them.

Columns as `Invoices` uses them; what makes them (types, keys, guards) is the migrations'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from meuse.store.money_tables import Alarm, metadata, texts


class InvoiceDraft(Protocol):
    """What an invoice shall say. `final` issues it, under the next number of `series`; `body`
    lacks id, number, status, created. `book` is called with the books, its id and its number
    in the transaction that issues it; what it returns is said in the body too."""

    @property
    def currency(self) -> str: ...
    @property
    def total(self) -> str: ...
    @property
    def body(self) -> Mapping[str, Any]: ...
    @property
    def final(self) -> bool: ...
    @property
    def series(self) -> str: ...
    @property
    def due_on(self) -> str | None: ...
    @property
    def alarms(self) -> Sequence[Alarm]: ...
    @property
    def book(self) -> Callable[[Any, str, str], Mapping[str, Any]] | None: ...


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice. `body` is its JSON as it was issued, the same text for ever; what became of
    it since (`status`, `void_reason`) stands beside it.

    `id` is None for one that is not kept.
    """

    id: str | None
    tenant: str
    number: str | None
    status: str
    currency: str
    total: str
    body: str
    start_ms: int
    end_ms: int
    issued_ms: int | None = None
    due_on: str | None = None
    voided_ms: int | None = None
    void_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Payment:
    """Money that came in for an invoice, or went back (`kind` refund), as `adapter` says; `date`
    is YYYY-MM-DD."""

    id: str
    invoice: str
    kind: str
    adapter: str
    reference: str
    amount: str
    currency: str
    date: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class CreditNote:
    """What an invoice is credited with; `body` is its JSON as it was issued."""

    id: str
    invoice: str
    tenant: str
    number: str
    reference: str
    amount: str
    currency: str
    body: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class Account:
    """An invoice with all that was settled on it, oldest first. `next_start_ms`: when the
    tenant's next period begins that is invoiced after this one (None: there is none)."""

    invoice: Invoice
    payments: tuple[Payment, ...] = ()
    credit_notes: tuple[CreditNote, ...] = ()
    next_start_ms: int | None = None


class NewPayment(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def adapter(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def amount(self) -> str: ...
    @property
    def date(self) -> str: ...


class NewCredit(Protocol):
    """`body` lacks id, number, created; the number is the next of `series`. `book` as of an
    `InvoiceDraft`."""

    @property
    def series(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def amount(self) -> str: ...
    @property
    def body(self) -> Mapping[str, Any]: ...
    @property
    def book(self) -> Callable[[Any, str, str], Mapping[str, Any]] | None: ...


class Step(Protocol):
    """What is done to an invoice at once; `status` is what it has then. `book` is called with
    the books in the same transaction."""

    @property
    def status(self) -> str: ...
    @property
    def payment(self) -> NewPayment | None: ...
    @property
    def credit(self) -> NewCredit | None: ...
    @property
    def void_reason(self) -> str | None: ...
    @property
    def book(self) -> Callable[[Any], None] | None: ...


OpenBooks = Callable[[sa.Connection], Any]
"""The ledger inside a transaction. Any: the store hands it to who books, and never looks in."""


invoices = sa.Table(
    "invoice",
    metadata,
    *texts("id", primary_key=True),
    *texts("tenant_id", "project_id", "number"),
    sa.Column("period_start_ms", sa.BigInteger),
    sa.Column("period_end_ms", sa.BigInteger),
    *texts("status", "currency", "total", "body"),
    sa.Column("created_ms", sa.BigInteger),
    sa.Column("updated_ms", sa.BigInteger),
    sa.Column("issued_ms", sa.BigInteger),
    *texts("due_on"),
    sa.Column("voided_ms", sa.BigInteger),
    *texts("void_reason"),
)
payments = sa.Table(
    "payment",
    metadata,
    *texts("id", primary_key=True),
    *texts("tenant_id", "project_id", "invoice_id", "kind", "adapter", "reference", "amount"),
    *texts("currency", "date"),
    sa.Column("created_ms", sa.BigInteger),
)
credit_notes = sa.Table(
    "credit_note",
    metadata,
    *texts("id", primary_key=True),
    *texts("tenant_id", "project_id", "invoice_id", "number", "reference", "amount"),
    *texts("currency", "body"),
    sa.Column("created_ms", sa.BigInteger),
)
counters = sa.Table(
    "invoice_counter",
    metadata,
    *texts("series", primary_key=True),
    sa.Column("last", sa.BigInteger),
)
