"""What billing needs of others: the journal, the store, tenants. Their whole size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from meuse.core.nouns import DEFAULT_TENANT, PlanVersion, Tenant

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


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something a person must look at. `dedup`: raised twice, it is kept once."""

    kind: str
    detail: Mapping[str, Any]
    dedup: str
    tenant: str = DEFAULT_TENANT


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
    """What an invoice says; `final` issues it. The store adds id, number, status, created."""

    currency: str
    total: str
    body: dict[str, Any]
    final: bool
    alarms: tuple[Alarm, ...] = field(default=())


class Invoice(Protocol):
    """An invoice; `body` is its JSON text, unchanging once issued. A preview has no id."""

    @property
    def id(self) -> str | None: ...
    @property
    def status(self) -> str: ...
    @property
    def body(self) -> str: ...


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

    def get_invoice(self, tenant: str | None, invoice_id: str) -> Invoice: ...

    def list_invoices(self, tenant: str | None) -> Sequence[Invoice]: ...

    def late_usage(self, tenant: str | None, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
        """What counts in [start, end) although it is of an earlier, invoiced time."""
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
