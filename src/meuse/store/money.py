"""money.db: usage records, their rollup, journal cursors, alarms and invoices.

The only place that knows SQL about money; knows no price and no file. All writers that matter
for exactness (ingest, invoices) take turns: `Database.write` on SQLite, an advisory lock held
to the end of the transaction on Postgres.

Usage is kept per bucket of a quarter of an hour (`core.clock.BUCKET_MS`). Every `start_ms` and
`end_ms` of a query is [start, end) in Unix milliseconds and lies on a bucket's border.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import Clock, now_ms, to_rfc3339
from meuse.core.ids import new_id
from meuse.store import money_tables as t
from meuse.store import money_usage
from meuse.store.database import Database
from meuse.store.invoice_tables import OpenBooks
from meuse.store.invoices import Invoices
from meuse.store.money_contexts import Contexts
from meuse.store.money_ingest import add_records, move_cursor, raise_alarms, tell, to_json
from meuse.store.money_places import late_rows
from meuse.store.money_tables import Alarm, Cursor, CursorState, Ingested, Record, RollupRow
from meuse.store.money_usage import Sums, check_bounds
from meuse.store.turns import take_turn


class MoneyStore(Invoices):
    """Usage, and as its parent has them invoices, in one `Database` that was migrated to the
    branch "money".

    A record that is more than `ahead_ms` ahead of the clock counts now, with an alarm (None:
    whatever its time says).
    """

    def __init__(
        self,
        database: Database,
        clock: Clock = now_ms,
        books: OpenBooks | None = None,
        *,
        ahead_ms: int | None = None,
    ) -> None:
        super().__init__(database, clock, books)
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
        """Quantities over whole buckets, grouped and ordered by `by`.

        Rows always carry `meter`: quantities of different units never add up. None for
        tenant (the payer), owner or project takes all. Raises `invalid_field` for a grouping
        that is none of `money_usage.INTERVALS` and `DIMENSIONS`.
        """
        check_bounds(start_ms, end_ms)
        where = {"tenant": tenant, "owner": owner, "project": project}
        with self._database.read() as connection:
            return money_usage.usage(connection, start_ms, end_ms, by, where)

    def usage_parts(
        self, tenant: str, start_ms: int, end_ms: int, by: Sequence[str]
    ) -> list[tuple[tuple[Any, ...], RollupRow]]:
        """What a payer used, by the values of `by` and by all that rating looks at."""
        check_bounds(start_ms, end_ms)
        with self._database.read() as connection:
            return money_usage.parts(connection, tenant, start_ms, end_ms, by)

    def payers(self, start_ms: int, end_ms: int) -> list[str]:
        """The tenants that used anything."""
        with self._database.read() as connection:
            return money_usage.payers(connection, start_ms, end_ms)

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
        check_bounds(start_ms, end_ms)
        with self._database.read() as connection:
            return money_usage.rollup_rows(connection, tenant, windows or [(start_ms, end_ms)])

    # --- alarms ---

    def raise_alarms(self, alarms: Sequence[Alarm]) -> None:
        """Keep alarms that were not raised before, and write them to the log."""
        with self._database.write() as connection:
            take_turn(connection)
            fresh = raise_alarms(connection, alarms, self._clock())
        tell(fresh)

    def alarms(self) -> list[dict[str, Any]]:
        """All alarms, oldest first: {id, ts_ms, kind, tenant, detail}."""
        query = sa.select(t.alarms).order_by(t.alarms.c.ts_ms, t.alarms.c.id)
        with self._database.read() as connection:
            return [_alarm(row) for row in connection.execute(query)]

    # --- reconciliations ---

    def sums(self) -> tuple[Sums, Sums]:
        """(what all records have, what the rollup has) as of one moment."""
        with self._database.read() as connection:
            return money_usage.sums(connection)

    def invoiced_late(self) -> set[str]:
        """The invoices for whose period usage came in after they were issued."""
        query = sa.select(t.alarms.c.detail).where(t.alarms.c.kind == "late_usage")
        with self._database.read() as connection:
            found = [json.loads(detail) for detail in connection.execute(query).scalars()]
        return {detail["invoice"] for detail in found if "invoice" in detail}

    def keep_reconciliation(self, differences: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Keep what was found; it gets an id and the moment."""
        now = self._clock()
        kept = {"id": new_id("rec"), "at": to_rfc3339(now), **body}
        row = {
            "id": kept["id"],
            "ts_ms": now,
            "differences": differences,
            "body": to_json(kept),
        }
        with self._database.write() as connection:
            connection.execute(sa.insert(t.reconciliations).values(row))
        return kept

    def reconciliations(self, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        c = t.reconciliations.c
        query = sa.select(c.body).order_by(c.ts_ms.desc(), c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return [json.loads(body) for body in connection.execute(query).scalars()]

    def newest_alarms(self, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """(how many alarms there are, the newest of them as in `alarms`, newest first)."""
        a = t.alarms.c
        query = sa.select(t.alarms).order_by(a.ts_ms.desc(), a.id.desc()).limit(limit)
        with self._database.read() as connection:
            count = connection.execute(sa.select(sa.func.count()).select_from(t.alarms))
            newest = [_alarm(row) for row in connection.execute(query)]
            return count.scalar_one(), newest


def _alarm(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "ts_ms": row.ts_ms,
        "kind": row.kind,
        "tenant": row.tenant_id,
        "detail": json.loads(row.detail),
    }
