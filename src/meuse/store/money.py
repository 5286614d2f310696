"""money.db: usage records, their rollup, journal cursors, alarms and invoices.

The only place that knows SQL about money; knows no price and no file. All writers that matter
for exactness (ingest, invoices) take turns: `Database.write` on SQLite, an advisory lock held
to the end of the transaction on Postgres.

Usage is kept per bucket of a quarter of an hour (`core.clock.BUCKET_MS`). Every `start_ms` and
`end_ms` of a query is [start, end) in Unix milliseconds and lies on a bucket's border.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import BUCKET_MS, Clock, day_of, now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid, not_found
from meuse.core.ids import new_id
from meuse.core.nouns import DEFAULT_PROJECT
from meuse.store import money_tables as t
from meuse.store.database import Database
from meuse.store.money_contexts import Contexts
from meuse.store.money_ingest import add_records, move_cursor, raise_alarms, tell, to_json
from meuse.store.money_places import late_rows
from meuse.store.money_tables import (
    Alarm,
    Cursor,
    CursorState,
    Ingested,
    Invoice,
    InvoiceDraft,
    Record,
    RollupRow,
)
from meuse.store.money_turn import take_turn

_DAY_MS = 86_400_000

_COLUMNS = {
    "model": "deployment", "meter": "meter", "version": "version", "key": "key_id",
    "project": "project_id", "tenant": "tenant_id", "owner": "owner_id",
    "deployment": "deployment", "tier": "tier",
}  # fmt: skip
"""By what usage is grouped, beside `day`; the columns of it."""
_BY = ("day", *_COLUMNS)


class MoneyStore:
    """Usage and invoices in one `Database` that was migrated to the branch "money".

    A record that is more than `ahead_ms` ahead of the clock counts now, with an alarm (None:
    whatever its time says).
    """

    def __init__(
        self, database: Database, clock: Clock = now_ms, *, ahead_ms: int | None = None
    ) -> None:
        self._database = database
        self._clock = clock
        self._ahead_ms = ahead_ms
        self._contexts: dict[tuple[Any, ...], tuple[int, int]] = {}

    # --- ingest ---

    def cursor(self, segment: str) -> Cursor:
        """How far a segment is in; offset 0 and open for one never seen."""
        query = sa.select(t.cursors.c.offset, t.cursors.c.state, t.cursors.c.last_ts_ms)
        with self._database.read() as connection:
            row = connection.execute(query.where(t.cursors.c.segment == segment)).one_or_none()
        return Cursor(0, "open", 0) if row is None else Cursor(*row)

    def ingest(
        self,
        segment: str,
        records: Sequence[tuple[Record, bytes]],
        *,
        offset: int,
        next_offset: int,
        state: CursorState,
        alarms: Sequence[Alarm] = (),
    ) -> Ingested:
        """Take records (each with its bytes) and move the cursor, all in one transaction.

        A record that is there already with the same bytes is passed over; with other bytes it
        is a conflict: an alarm, never counted. Of several of one request with a rising `seq`
        each adds what it has more than the one before (`money_steps`). Raises `conflict` when
        the cursor does not stand at `offset` any more.
        """
        now = self._clock()
        latest = max([record.ts for record, _ in records], default=0)
        moved = Cursor(next_offset, state, latest)
        contexts = Contexts(self._contexts)
        with self._database.write() as connection:
            take_turn(connection)
            move_cursor(connection, segment, offset, moved, now)
            done, raised, _ = add_records(connection, records, contexts, now, self._ahead_ms)
            fresh = raise_alarms(connection, (*alarms, *raised), now)
        contexts.keep()
        tell(fresh)
        return done

    # --- usage ---

    def usage(
        self,
        start_ms: int,
        end_ms: int,
        by: Sequence[str],
        *,
        tenant: str | None = None,
        owner: str | None = None,
        project: str | None = None,
    ) -> list[dict[str, Any]]:
        """Quantities over whole buckets, grouped and ordered by `by` (names of `_BY`).

        Rows always carry `meter`: quantities of different units never add up. None for
        tenant (the payer), owner or project takes all.
        """
        _check_bounds(start_ms, end_ms)
        names = list(dict.fromkeys((*by, "meter")))
        for name in names:
            if name not in _BY:
                raise invalid("by", f"{name!r} is not a grouping", f"Use {', '.join(_BY)}.")
        wanted = {"tenant_id": tenant, "owner_id": owner, "project_id": project}
        source = _source(
            {"meter"} | {_COLUMNS[name] for name in names if name != "day"},
            start_ms, end_ms, {name: value for name, value in wanted.items() if value is not None},
        ).subquery()  # fmt: skip
        named: dict[str, sa.ColumnElement[Any]] = {
            name: source.c[column] for name, column in _COLUMNS.items() if column in source.c
        }
        named["day"] = source.c.bucket_ms // _DAY_MS
        columns = [named[name].label(name) for name in names]
        query = sa.select(*columns, sa.func.sum(source.c.quantity).label("quantity"))
        groups = list(dict.fromkeys(named[name] for name in names))
        with self._database.read() as connection:
            found = connection.execute(query.group_by(*groups).order_by(*groups)).all()
        rows = [dict(zip((*names, "quantity"), row, strict=True)) for row in found]
        days: dict[int, str] = {}
        for row in rows:
            row["quantity"] = int(row["quantity"])
            if "day" in row:
                number = row["day"]
                if number not in days:
                    days[number] = day_of(number * _DAY_MS)
                row["day"] = days[number]
        return rows

    def late_usage(self, tenant: str | None, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
        """What counts in [start, end) although it is of an earlier, invoiced time: {tenant,
        from (of its own quarter of an hour), model, meter, tier, plan, quantity}."""
        with self._database.read() as connection:
            return [
                {
                    "tenant": row["tenant"],
                    "from": to_rfc3339(row["own_ms"]),
                    "model": row["deployment"],
                    "meter": row["meter"],
                    "tier": row["tier"],
                    "plan": row["plan_version"],
                    "quantity": row["quantity"],
                }
                for row in late_rows(connection, tenant, start_ms, end_ms)
            ]

    def raise_alarm(self, *raised: Alarm) -> None:
        """Keep alarms that belong to no batch and no invoice, and tell of the new ones."""
        with self._database.write() as connection:
            take_turn(connection)
            fresh = raise_alarms(connection, raised, self._clock())
        tell(fresh)

    def rollup_rows(
        self, tenant: str, start_ms: int, end_ms: int, *, windows: Sequence[tuple[int, int]] = ()
    ) -> list[RollupRow]:
        """What a payer used in [start, end), or in each of `windows`, for rating."""
        _check_bounds(start_ms, end_ms)
        with self._database.read() as connection:
            return _rollup_rows(connection, tenant, windows or [(start_ms, end_ms)])

    # --- invoices and alarms ---

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
        no usage slips in between reading and issuing. A final one gets the next number,
        without gaps. Raises `conflict` when an issued invoice of another period covers a part
        of this one, and what `build` raises. Without `keep` nothing is written, and what is
        built is a draft without an id.
        """
        _check_bounds(start_ms, end_ms)
        with self._database.write() as connection:
            take_turn(connection)
            old = _same_or_overlapping(connection, tenant, start_ms, end_ms)
            if old is not None and old.status == "issued":
                return _invoice(old), False
            rows = _rollup_rows(connection, tenant, windows or [(start_ms, end_ms)])
            draft = build(rows)
            now = self._clock()
            if not keep:
                return _preview(tenant, draft, now), False
            fresh = raise_alarms(connection, draft.alarms, now)
            number = _next_number(connection) if draft.final else None
            created = now if old is None else old.created_ms
            row = {
                "id": new_id("inv") if old is None else old.id,
                "tenant_id": tenant,
                "project_id": DEFAULT_PROJECT,
                "number": number,
                "period_start_ms": start_ms,
                "period_end_ms": end_ms,
                "status": "issued" if draft.final else "draft",
                "currency": draft.currency,
                "total": draft.total,
                "created_ms": created,
                "updated_ms": now,
            }
            head = {name: row[name] for name in ("id", "number", "status")}
            row["body"] = _body(head, draft, created)
            if old is None:
                connection.execute(sa.insert(t.invoices).values(row))
            else:
                connection.execute(
                    sa.update(t.invoices).where(t.invoices.c.id == old.id).values(row)
                )
            kept = connection.execute(
                sa.select(t.invoices).where(t.invoices.c.id == row["id"])
            ).one()
        tell(fresh)
        return _invoice(kept), old is None

    def get_invoice(self, tenant: str | None, invoice_id: str) -> Invoice:
        """Raises `not_found`, also for another tenant's invoice; tenant None sees all."""
        query = sa.select(t.invoices).where(t.invoices.c.id == invoice_id)
        if tenant is not None:
            query = query.where(t.invoices.c.tenant_id == tenant)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise not_found("invoice", invoice_id)
        return _invoice(row)

    def list_invoices(self, tenant: str | None) -> list[Invoice]:
        """Newest period first; tenant None sees all."""
        query = sa.select(t.invoices)
        if tenant is not None:
            query = query.where(t.invoices.c.tenant_id == tenant)
        query = query.order_by(t.invoices.c.period_start_ms.desc(), t.invoices.c.id)
        with self._database.read() as connection:
            return [_invoice(row) for row in connection.execute(query)]

    def alarms(self) -> list[dict[str, Any]]:
        """All alarms, oldest first: {id, ts_ms, kind, tenant, detail}."""
        query = sa.select(t.alarms).order_by(t.alarms.c.ts_ms, t.alarms.c.id)
        with self._database.read() as connection:
            return [_alarm(row) for row in connection.execute(query)]

    def newest_alarms(self, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """(how many alarms there are, the newest of them as in `alarms`, newest first)."""
        a = t.alarms.c
        query = sa.select(t.alarms).order_by(a.ts_ms.desc(), a.id.desc()).limit(limit)
        with self._database.read() as connection:
            count = connection.execute(sa.select(sa.func.count()).select_from(t.alarms))
            newest = [_alarm(row) for row in connection.execute(query)]
            return count.scalar_one(), newest


def _check_bounds(start_ms: int, end_ms: int) -> None:
    for field, bound in (("from", start_ms), ("to", end_ms)):
        if bound % BUCKET_MS:
            raise invalid(
                field,
                f"{to_rfc3339(bound)} is not on a quarter of an hour",
                "Usage is kept per quarter of an hour: use :00, :15, :30 or :45.",
            )


def _source(
    columns: set[str], start_ms: int, end_ms: int, wanted: Mapping[str, str], *, first: bool = False
) -> sa.Select[Any] | sa.CompoundSelect[Any]:
    """Rows of [start, end) with `bucket_ms`, these columns and `quantity`; with the `first`
    bucket of each as `first_ms`. Whole days are taken from the table by day where it has the
    columns: it is a hundredth of the other."""

    def part(table: sa.Table, moment: str, low: int, high: int) -> sa.Select[Any]:
        c = table.c
        query = sa.select(
            c[moment].label("bucket_ms"), *(c[name] for name in sorted(columns)), c.quantity
        )
        if first:
            query = query.add_columns(
                (c.first_ms if "first_ms" in c else c[moment]).label("first_ms")
            )
        same = (c[name] == value for name, value in wanted.items())
        return query.where(c[moment] >= low, c[moment] < high, *same)

    low, high = -(-start_ms // _DAY_MS) * _DAY_MS, end_ms // _DAY_MS * _DAY_MS
    if low >= high or not columns <= set(t.daily.c.keys()):
        return part(t.rollup, "bucket_ms", start_ms, end_ms)
    parts = [part(t.daily, "day_ms", low, high)]
    edges = ((start_ms, low), (high, end_ms))
    parts += [part(t.rollup, "bucket_ms", *edge) for edge in edges if edge[0] < edge[1]]
    return parts[0] if len(parts) == 1 else sa.union_all(*parts)


def _rollup_rows(
    connection: sa.Connection, tenant: str, windows: Sequence[tuple[int, int]]
) -> list[RollupRow]:
    """Of each window [start, end) by itself."""
    found: list[RollupRow] = []
    for start, end in windows:
        columns = {"meter", "deployment", "plan_version", "tier"}
        source = _source(columns, start, end, {"tenant_id": tenant}, first=True).subquery().c
        key = (source.meter, source.deployment, source.plan_version, source.tier)
        query = sa.select(*key, sa.func.sum(source.quantity), sa.func.min(source.first_ms))
        for meter, deployment, plan, tier, quantity, first in connection.execute(
            query.group_by(*key).order_by(*key)
        ):
            found.append(
                RollupRow(meter, deployment, plan or None, int(quantity), tier, first, start)
            )
    return found


def _same_or_overlapping(
    connection: sa.Connection, tenant: str, start_ms: int, end_ms: int
) -> sa.Row[Any] | None:
    """The invoice of exactly this period. Raises `conflict` for an issued one across it."""
    i = t.invoices.c
    query = sa.select(t.invoices).where(
        i.tenant_id == tenant, i.period_start_ms < end_ms, i.period_end_ms > start_ms
    )
    same = None
    for row in connection.execute(query):
        if (row.period_start_ms, row.period_end_ms) == (start_ms, end_ms):
            same = row
        elif row.status == "issued":
            raise MeuseError(
                Code.CONFLICT,
                f"invoice {row.number} covers {to_rfc3339(row.period_start_ms)} to "
                f"{to_rfc3339(row.period_end_ms)}, a part of this period",
                field="period",
                hint="Use a period that no issued invoice covers: usage is billed once.",
            )
    return same


def _next_number(connection: sa.Connection) -> str:
    """`INV-000001`, … Taken with the invoice in one transaction: no gaps."""
    c = t.counters.c
    statement = sa.update(t.counters).where(c.series == "default").values(last=c.last + 1)
    return f"INV-{connection.execute(statement.returning(c.last)).scalar_one():06d}"


def _body(head: Mapping[str, Any], draft: InvoiceDraft, created: int) -> str:
    return to_json({**head, **draft.body, "created": to_rfc3339(created)})


def _preview(tenant: str, draft: InvoiceDraft, now: int) -> Invoice:
    body = _body({"id": None, "number": None, "status": "draft"}, draft, now)
    return Invoice(None, tenant, None, "draft", draft.currency, draft.total, body)


def _alarm(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "ts_ms": row.ts_ms,
        "kind": row.kind,
        "tenant": row.tenant_id,
        "detail": json.loads(row.detail),
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
    )
