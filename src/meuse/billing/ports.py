"""What billing needs of others: the journal, the store, tenants. Their whole size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, Protocol

from meuse.billing.invoice_ports import (
    Alarm,
    Invoice,
    InvoiceStore,
    NewPayment,
    RollupRow,
)
from meuse.core.nouns import PlanVersion, Tenant

CursorState = Literal["open", "closed", "quarantined"]


class Batch(Protocol):
    """Whole records with their bytes, and why the read stopped: more, end, tail or corrupt."""

    # Any: billing hands records from the journal to the store and never looks inside.
    @property
    def records(self) -> Sequence[tuple[Any, bytes]]: ...
    @property
    def next_offset(self) -> int: ...
    @property
    def state(self) -> str: ...


class Journal(Protocol):
    """The segments of one host. Methods that name a segment raise OSError."""

    def segments(self) -> list[str]: ...
    def size(self, segment: str) -> int: ...
    def is_released(self, segment: str) -> bool: ...
    def read(self, segment: str, offset: int, max_bytes: int, *, closed: bool) -> Batch: ...
    def remove(self, segment: str) -> None: ...


class Cursor(Protocol):
    @property
    def offset(self) -> int: ...
    @property
    def state(self) -> CursorState: ...
    @property
    def last_ts_ms(self) -> int: ...


class Ingested(Protocol):
    @property
    def new(self) -> int: ...


class UsageSink(Protocol):
    """Where ingest puts records, exactly once."""

    def cursor(self, segment: str) -> Cursor: ...

    def ingest(
        self,
        segment: str,
        records: Sequence[tuple[Any, bytes]],
        *,
        offset: int,
        next_offset: int,
        state: CursorState,
        alarms: Sequence[Alarm] = (),
    ) -> Ingested:
        """Records, sums, cursor and alarms in one transaction."""
        ...


class Postings(Protocol):
    """What is booked in the ledger of invoices: `books` is the ledger inside the transaction
    that keeps the thing, so that neither is without the other. Idempotent by reference.

    `lines` have kind, amount and exact. Amounts are decimals of the currency.
    """

    def post_invoice(
        self,
        books: Any,
        *,
        invoice: str,
        number: str,
        tenant: str,
        currency: str,
        lines: Sequence[Any],
        start_ms: int,
        end_ms: int,
        now_ms: int,
    ) -> Decimal:
        """What a wallet paid of it."""
        ...

    def post_payment(self, books: Any, *, invoice: Invoice, paid: NewPayment, now_ms: int) -> None:
        """Money that came in, or went back to where it came from (`kind` refund)."""
        ...

    def post_credit_note(
        self, books: Any, *, invoice: Invoice, note: str, lines: Sequence[Any], now_ms: int
    ) -> Decimal:
        """What went back to the wallet that had paid it."""
        ...

    def post_void(self, books: Any, *, invoice: Invoice, now_ms: int) -> None: ...


Recount = Callable[[int, int], Iterable[tuple[tuple[str, ...], int, int]]]
"""[start, end) → where the rollup is not what raw records say, wherever these are kept: (tenant,
meter, model, version, tier, plan version), what it says, what they say."""


class BookReader(Protocol):
    """What the ledger has, for comparison with what invoices and wallets say."""

    def standing(self, tenant: str, invoice: str) -> Mapping[str, Decimal] | None:
        """{total, credited, paid, from_wallet, due} of an invoice; None: it is not booked."""
        ...

    def unbalanced(self) -> Sequence[Mapping[str, str]]:
        """What does not add up in itself: entries whose legs are not zero, wallets that show
        another balance than their entries have, …; each with the two numbers."""
        ...


class Payments(Protocol):
    """Where money comes from: outside of the platform. An adapter makes a payment of what it
    is told of one."""

    @property
    def name(self) -> str: ...

    def received(
        self, told: Mapping[str, Any], kind: str, currency: str, now_ms: int
    ) -> NewPayment:
        """A payment that came in, or a refund that went out. Raises `invalid_field`."""
        ...


class LedgerStore(InvoiceStore, Protocol):
    """What the ledger's server reads and writes."""

    def rollup_rows(
        self, tenant: str, start_ms: int, end_ms: int, *, windows: Sequence[tuple[int, int]] = ()
    ) -> Sequence[RollupRow]:
        """What a payer used in [start, end), or in each of `windows`."""
        ...

    def usage(
        self,
        start_ms: int,
        end_ms: int,
        by: Sequence[str],
        *,
        tenant: str | None = None,
        owner: str | None = None,
        project: str | None = None,
    ) -> list[dict[str, Any]]: ...

    def usage_parts(
        self, tenant: str, start_ms: int, end_ms: int, by: Sequence[str]
    ) -> Sequence[tuple[tuple[Any, ...], RollupRow]]:
        """What a payer used, by the values of `by` and by all that rating looks at."""
        ...

    def payers(self, start_ms: int, end_ms: int) -> Sequence[str]:
        """The tenants that used anything."""
        ...

    def raise_alarms(self, alarms: Sequence[Alarm]) -> None: ...

    def sums(self) -> tuple[Mapping[tuple[str, ...], int], Mapping[tuple[str, ...], int]]:
        """(what all records have, what the rollup has) as of one moment, by tenant, meter,
        model, version, tier and plan version."""
        ...

    def invoiced_late(self) -> set[str]:
        """The invoices (ids) for whose period usage came in after they were issued."""
        ...

    def keep_reconciliation(self, differences: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Keep what was found; with id and moment."""
        ...

    def reconciliations(self, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        ...

    def newest_alarms(self, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """(how many alarms there are, the newest of them)."""
        ...


class Plans(Protocol):
    """The part of `core.ports.PlanStore` that rating needs."""

    def plan(self, name: str, version: int | None = None) -> PlanVersion: ...

    def versions(self, name: str) -> Sequence[PlanVersion]:
        """All of one plan, oldest first; none when there is no such plan."""
        ...


class Tenants(Protocol):
    """The part of `core.ports.AccessStore` that says which plan a tenant has."""

    def tenant(self, name: str) -> Tenant: ...

    def plan_changes(self, tenant: str) -> Sequence[tuple[int, str | None]]:
        """Which plan a tenant had from when on, oldest first."""
        ...

    def billing(self, tenant: str) -> Mapping[str, Any] | None:
        """How a tenant is invoiced, as `core.billing.details_of` reads it; None: nobody said."""
        ...
