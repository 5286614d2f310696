"""Invoices, payments and credit notes in money.db. `MoneyStore` has this as a part.

Knows when rows change and how numbers are given; what they say is for the caller to decide,
inside the transaction that keeps it. All writers take turns (`take_turn`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import Clock, now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.ids import new_id
from meuse.core.nouns import DEFAULT_PROJECT
from meuse.core.states import InvoiceStatus
from meuse.store import invoice_tables as i
from meuse.store import money_usage
from meuse.store.database import Database
from meuse.store.invoice_tables import (
    Account,
    CreditNote,
    Invoice,
    InvoiceDraft,
    NewCredit,
    NewPayment,
    OpenBooks,
    Payment,
    Step,
)
from meuse.store.money_ingest import raise_alarms, tell, to_json
from meuse.store.money_tables import RollupRow
from meuse.store.money_usage import check_bounds
from meuse.store.turns import take_turn

FINAL = ("issued", "paid")


class Invoices:
    """Invoices in one `Database` that was migrated to the branch "money"."""

    def __init__(self, database: Database, clock: Clock = now_ms, books: OpenBooks | None = None):
        self._database = database
        self._clock = clock
        self._books = books

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
        """Make the invoice of a period; (invoice, whether it is new).

        An issued one is returned as it is; a draft keeps its id and is built again. `build`
        sees the rollup of [start, end), or of each of `windows`, inside the same transaction:
        no usage slips in between reading and issuing. A final one gets the next number of its
        series, without gaps, and is in the books; one that comes to nothing is paid. Raises
        `conflict` when an issued invoice of another period covers a part of this one, and what
        `build` raises. Without `keep` nothing is written, and what is built is a draft without
        an id.
        """
        check_bounds(start_ms, end_ms)
        with self._database.write() as connection:
            take_turn(connection)
            old = _same_or_overlapping(connection, tenant, start_ms, end_ms)
            if old is not None and old.status != "draft":
                return old, False
            rows = money_usage.rollup_rows(connection, tenant, windows or [(start_ms, end_ms)])
            draft = build(rows)
            now = self._clock()
            if not keep:
                return _preview(tenant, (start_ms, end_ms), draft, now), False
            fresh = raise_alarms(connection, draft.alarms, now)
            row = self._row(connection, tenant, (start_ms, end_ms), draft, now, old)
            if old is None:
                connection.execute(sa.insert(i.invoices).values(row))
            else:
                known = i.invoices.c.id == old.id
                connection.execute(sa.update(i.invoices).where(known).values(row))
            kept = _invoice(_one(connection, None, row["id"]))
        tell(fresh)
        return kept, old is None

    def settle(
        self, tenant: str | None, invoice_id: str, decide: Callable[[Account], Step | None]
    ) -> tuple[Account, Account]:
        """Do to an invoice what `decide` says of its account: (before, after).

        All in one transaction, the books too; None changes nothing. Raises `not_found`, and
        what `decide` raises.
        """
        with self._database.write() as connection:
            take_turn(connection)
            before = _account(connection, _one(connection, tenant, invoice_id))
            step = decide(before)
            if step is None:
                return before, before
            now = self._clock()
            if step.payment is not None:
                _pay(connection, before.invoice, step.payment, now)
            if step.credit is not None:
                self._credit(connection, before.invoice, step.credit, now)
            if step.book is not None and self._books is not None:
                step.book(self._books(connection))
            _move(connection, before.invoice, step, now)
            after = _account(connection, _one(connection, tenant, invoice_id))
        return before, after

    def _row(
        self,
        connection: sa.Connection,
        tenant: str,
        period: tuple[int, int],
        draft: InvoiceDraft,
        now: int,
        old: Invoice | None,
    ) -> dict[str, Any]:
        id_ = new_id("inv") if old is None else str(old.id)
        number = _next_number(connection, draft.series) if draft.final else None
        booked: Mapping[str, Any] = {}
        if number is not None and draft.book is not None and self._books is not None:
            booked = draft.book(self._books(connection), id_, number)
        status = InvoiceStatus.DRAFT
        if number is not None:
            due = Decimal(draft.total) - Decimal(booked.get("from_wallet", "0"))
            status = InvoiceStatus.ISSUED if due else InvoiceStatus.PAID
        created = now
        if old is not None:
            known = i.invoices.c.id == old.id
            query = sa.select(i.invoices.c.created_ms).where(known)
            created = connection.execute(query).scalar_one()
        body = _body({"id": id_, "number": number, "status": str(status)}, draft, created, booked)
        return {
            "id": id_,
            "tenant_id": tenant,
            "project_id": DEFAULT_PROJECT,
            "number": number,
            "period_start_ms": period[0],
            "period_end_ms": period[1],
            "status": str(status),
            "currency": draft.currency,
            "total": draft.total,
            "body": body,
            "created_ms": created,
            "updated_ms": now,
            "issued_ms": None if number is None else now,
            "due_on": None if number is None else draft.due_on,
        }

    def _credit(
        self, connection: sa.Connection, invoice: Invoice, new: NewCredit, now: int
    ) -> None:
        id_, number = new_id("crn"), _next_number(connection, new.series)
        booked: Mapping[str, Any] = {}
        if new.book is not None and self._books is not None:
            booked = new.book(self._books(connection), id_, number)
        body = {"id": id_, "number": number, **new.body, **booked, "created": to_rfc3339(now)}
        row = {
            "id": id_,
            "number": number,
            "reference": new.reference or id_,
            "amount": new.amount,
            "currency": invoice.currency,
            "body": to_json(body),
            "created_ms": now,
        }
        connection.execute(sa.insert(i.credit_notes).values(row | _owner(invoice)))

    def get_invoice(self, tenant: str | None, invoice_id: str) -> Invoice:
        """By its id or number. Raises `not_found`, also for another tenant's invoice; tenant
        None sees all."""
        with self._database.read() as connection:
            return _invoice(_one(connection, tenant, invoice_id))

    def account(self, tenant: str | None, invoice_id: str) -> Account:
        """As `get_invoice`, with what was settled on it."""
        with self._database.read() as connection:
            return _account(connection, _one(connection, tenant, invoice_id))

    def list_invoices(self, tenant: str | None) -> list[Invoice]:
        """Newest period first; tenant None sees all."""
        query = _of_tenant(sa.select(i.invoices), i.invoices, tenant)
        query = query.order_by(i.invoices.c.period_start_ms.desc(), i.invoices.c.id)
        with self._database.read() as connection:
            return [_invoice(row) for row in connection.execute(query)]

    def accounts(self, tenant: str | None) -> list[Account]:
        """As `list_invoices`, each with what was settled on it."""
        queries = [
            _of_tenant(sa.select(table), table, tenant).order_by(table.c.created_ms, table.c.id)
            for table in (i.payments, i.credit_notes)
        ]
        with self._database.read() as connection:
            paid, credited = (connection.execute(query).all() for query in queries)
        by_invoice: dict[str, tuple[list[Payment], list[CreditNote]]] = {}
        for row in paid:
            by_invoice.setdefault(row.invoice_id, ([], []))[0].append(_payment(row))
        for row in credited:
            by_invoice.setdefault(row.invoice_id, ([], []))[1].append(_note(row))
        found = []
        for invoice in self.list_invoices(tenant):
            mine, notes = by_invoice.get(str(invoice.id), ((), ()))
            found.append(Account(invoice, tuple(mine), tuple(notes)))
        return found

    def credit_note(self, tenant: str | None, note_id: str) -> CreditNote:
        """By its id or number. Raises `not_found`."""
        c = i.credit_notes.c
        if "\0" in note_id:
            raise not_found("credit_note", note_id)
        query = sa.select(i.credit_notes).where(sa.or_(c.id == note_id, c.number == note_id))
        with self._database.read() as connection:
            row = connection.execute(_of_tenant(query, i.credit_notes, tenant)).one_or_none()
        if row is None:
            raise not_found("credit_note", note_id)
        return _note(row)


def _pay(connection: sa.Connection, invoice: Invoice, new: NewPayment, now: int) -> None:
    row = {
        "id": new_id("pay"),
        "kind": new.kind,
        "adapter": new.adapter,
        "reference": new.reference,
        "amount": new.amount,
        "currency": invoice.currency,
        "date": new.date,
        "created_ms": now,
    }
    connection.execute(sa.insert(i.payments).values(row | _owner(invoice)))


def _move(connection: sa.Connection, invoice: Invoice, step: Step, now: int) -> None:
    if step.status == invoice.status:
        return
    change: dict[str, Any] = {"status": step.status, "updated_ms": now}
    if step.void_reason is not None:
        change |= {"void_reason": step.void_reason, "voided_ms": now}
    where = i.invoices.c.id == invoice.id
    connection.execute(sa.update(i.invoices).where(where).values(change))


def _same_or_overlapping(
    connection: sa.Connection, tenant: str, start_ms: int, end_ms: int
) -> Invoice | None:
    """The invoice of exactly this period. Raises `conflict` for an issued one across it."""
    c = i.invoices.c
    query = sa.select(i.invoices).where(
        c.tenant_id == tenant,
        c.period_start_ms < end_ms,
        c.period_end_ms > start_ms,
        c.status != "void",
    )
    same = None
    for row in connection.execute(query):
        if (row.period_start_ms, row.period_end_ms) == (start_ms, end_ms):
            same = _invoice(row)
        elif row.status in FINAL:
            raise MeuseError(
                Code.CONFLICT,
                f"invoice {row.number} covers {to_rfc3339(row.period_start_ms)} to "
                f"{to_rfc3339(row.period_end_ms)}, a part of this period",
                field="period",
                hint="Use a period that no issued invoice covers: usage is billed once.",
            )
    return same


def _next_number(connection: sa.Connection, series: str) -> str:
    """`INV-2026-000001`, … Taken with what bears it in one transaction: no gaps."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    c = i.counters.c
    statement = insert(i.counters).values(series=series, last=1)
    counted = statement.on_conflict_do_update(
        index_elements=["series"], set_={"last": c.last + 1}
    ).returning(c.last)
    return f"{series}-{connection.execute(counted).scalar_one():06d}"


def _body(
    head: Mapping[str, Any], draft: InvoiceDraft, created: int, booked: Mapping[str, Any]
) -> str:
    return to_json({**head, **draft.body, **booked, "created": to_rfc3339(created)})


def _preview(tenant: str, period: tuple[int, int], draft: InvoiceDraft, now: int) -> Invoice:
    body = _body({"id": None, "number": None, "status": "draft"}, draft, now, {})
    return Invoice(None, tenant, None, "draft", draft.currency, draft.total, body, *period)


def _one(connection: sa.Connection, tenant: str | None, invoice_id: str) -> sa.Row[Any]:
    c = i.invoices.c
    if "\0" in invoice_id:  # Postgres takes it in no text
        raise not_found("invoice", invoice_id)
    query = sa.select(i.invoices).where(sa.or_(c.id == invoice_id, c.number == invoice_id))
    row = connection.execute(_of_tenant(query, i.invoices, tenant)).one_or_none()
    if row is None:
        raise not_found("invoice", invoice_id)
    return row


def _account(connection: sa.Connection, row: sa.Row[Any]) -> Account:
    def mine(table: sa.Table) -> Iterable[sa.Row[Any]]:
        query = sa.select(table).where(table.c.invoice_id == row.id)
        return connection.execute(query.order_by(table.c.created_ms, table.c.id))

    c = i.invoices.c
    after = sa.select(sa.func.min(c.period_start_ms)).where(
        c.tenant_id == row.tenant_id, c.period_start_ms >= row.period_end_ms, c.status.in_(FINAL)
    )
    return Account(
        _invoice(row),
        tuple(_payment(found) for found in mine(i.payments)),
        tuple(_note(found) for found in mine(i.credit_notes)),
        connection.execute(after).scalar_one(),
    )


def _of_tenant(query: sa.Select[Any], table: sa.Table, tenant: str | None) -> sa.Select[Any]:
    return query if tenant is None else query.where(table.c.tenant_id == tenant)


def _owner(invoice: Invoice) -> dict[str, Any]:
    return {
        "tenant_id": invoice.tenant,
        "project_id": DEFAULT_PROJECT,
        "invoice_id": invoice.id,
    }


def _invoice(row: sa.Row[Any]) -> Invoice:
    return Invoice(
        id=row.id,
        tenant=row.tenant_id,
        number=row.number,
        status=row.status,
        currency=row.currency,
        total=row.total,
        body=row.body,
        start_ms=row.period_start_ms,
        end_ms=row.period_end_ms,
        issued_ms=row.issued_ms,
        due_on=row.due_on,
        voided_ms=row.voided_ms,
        void_reason=row.void_reason,
    )


def _payment(row: sa.Row[Any]) -> Payment:
    return Payment(
        row.id, row.invoice_id, row.kind, row.adapter, row.reference, row.amount, row.currency,
        row.date, row.created_ms,
    )  # fmt: skip


def _note(row: sa.Row[Any]) -> CreditNote:
    return CreditNote(
        row.id, row.invoice_id, row.tenant_id, row.number, row.reference, row.amount,
        row.currency, row.body, row.created_ms,
    )  # fmt: skip
