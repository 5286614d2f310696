"""Invoices as billing and their store hand them to each other: records, and the store's size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from meuse.core.nouns import DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something a person must look at. `dedup`: raised twice, it is kept once."""

    kind: str
    detail: Mapping[str, Any]
    dedup: str
    tenant: str = DEFAULT_TENANT


class RollupRow(Protocol):
    """A payer's quantity of one meter on one deployment at one tier under one plan version.

    It is of a window of time that begins at `from_ms`; `first_ms` is its first bucket there.
    """

    @property
    def meter(self) -> str: ...
    @property
    def deployment(self) -> str: ...
    @property
    def plan_version(self) -> str | None: ...
    @property
    def quantity(self) -> int: ...
    @property
    def tier(self) -> str: ...
    @property
    def first_ms(self) -> int: ...
    @property
    def from_ms(self) -> int: ...


@dataclass(frozen=True, slots=True)
class InvoiceDraft:
    """What an invoice says; `final` issues it under the next number of `series`. The store adds
    id, number, status, created. `book` puts it into the books: (books, id, number) → what the
    body says of that; called in the transaction that issues it."""

    currency: str
    total: str
    body: dict[str, Any]
    final: bool
    alarms: tuple[Alarm, ...] = field(default=())
    series: str = "INV"
    due_on: str | None = None
    book: Callable[[Any, str, str], Mapping[str, Any]] | None = None


class Invoice(Protocol):
    """An invoice; `body` is its JSON text as it was issued. A preview has no id."""

    @property
    def id(self) -> str | None: ...
    @property
    def tenant(self) -> str: ...
    @property
    def number(self) -> str | None: ...
    @property
    def status(self) -> str: ...
    @property
    def currency(self) -> str: ...
    @property
    def total(self) -> str: ...
    @property
    def body(self) -> str: ...
    @property
    def start_ms(self) -> int: ...
    @property
    def end_ms(self) -> int: ...
    @property
    def issued_ms(self) -> int | None: ...
    @property
    def due_on(self) -> str | None: ...
    @property
    def voided_ms(self) -> int | None: ...
    @property
    def void_reason(self) -> str | None: ...


class Payment(Protocol):
    """Money that came in for an invoice (`kind` payment), or went back (refund)."""

    @property
    def id(self) -> str: ...
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
    @property
    def created_ms(self) -> int: ...


class CreditNote(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def number(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def amount(self) -> str: ...
    @property
    def body(self) -> str: ...


class Account(Protocol):
    """An invoice and what was settled on it; `next_start_ms`: when the tenant's next invoiced
    period begins."""

    @property
    def invoice(self) -> Invoice: ...
    @property
    def payments(self) -> Sequence[Payment]: ...
    @property
    def credit_notes(self) -> Sequence[CreditNote]: ...
    @property
    def next_start_ms(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class NewPayment:
    kind: str
    adapter: str
    reference: str
    amount: str
    date: str


@dataclass(frozen=True, slots=True)
class NewCredit:
    """`body` lacks id, number and created, which the store adds; `book` as of InvoiceDraft."""

    series: str
    reference: str
    amount: str
    body: dict[str, Any]
    book: Callable[[Any, str, str], Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What is done to an invoice at once, and the status it has then. `book` puts it into the
    books."""

    status: str
    payment: NewPayment | None = None
    credit: NewCredit | None = None
    void_reason: str | None = None
    book: Callable[[Any], None] | None = None


class InvoiceStore(Protocol):
    def put_invoice(
        self,
        tenant: str,
        start_ms: int,
        end_ms: int,
        build: Callable[[Sequence[RollupRow]], InvoiceDraft],
        *,
        windows: Sequence[tuple[int, int]] = (),
        keep: bool = True,
    ) -> tuple[Invoice, bool]:
        """(invoice, whether it is new); `build` runs in the transaction that keeps it.

        It has the rows of `windows`, each by itself; without them those of [start, end).
        Without `keep` nothing is stored, and what is built has neither id nor number.
        """
        ...

    def settle(
        self, tenant: str | None, invoice_id: str, decide: Callable[[Account], Step | None]
    ) -> tuple[Account, Account]:
        """Do what `decide` says of an invoice's account: (before, after), in one transaction."""
        ...

    def late_usage(self, tenant: str | None, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
        """What counts in [start, end) although it is of an earlier, invoiced time."""
        ...

    def get_invoice(self, tenant: str | None, invoice_id: str) -> Invoice: ...

    def account(self, tenant: str | None, invoice_id: str) -> Account: ...

    def list_invoices(self, tenant: str | None) -> Sequence[Invoice]: ...

    def accounts(self, tenant: str | None) -> Sequence[Account]:
        """As `list_invoices`, each with what was settled on it."""
        ...

    def credit_note(self, tenant: str | None, note_id: str) -> CreditNote: ...
