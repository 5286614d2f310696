"""What one batch of usage records does to the tables, inside the caller's transaction.

Knows the tables of money.db and how records become rows and sums; `MoneyStore` decides when,
and that only one batch at a time is taken in.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from meuse.core.clock import BUCKET_MS, to_rfc3339
from meuse.core.errors import Code, MeuseError
from meuse.core.ids import new_id
from meuse.core.nouns import DEFAULT_PROJECT
from meuse.store import money_places
from meuse.store import money_tables as t
from meuse.store.money_contexts import Contexts
from meuse.store.money_places import Place, Taken
from meuse.store.money_steps import Advanced, advance
from meuse.store.money_tables import Alarm, Cursor, Ingested, Record

_log = logging.getLogger(__name__)

_IDS_PER_QUERY = 10_000  # SQLite binds at most 32,766 values
_DAY_MS = 86_400_000


def _add(table: sa.Table) -> str:
    keys = ", ".join(c.name for c in table.primary_key)
    return (
        f"ON CONFLICT ({keys}) DO UPDATE SET quantity = {table.name}.quantity + excluded.quantity"
    )


_ADD = _add(t.rollup)
_ADD_DAILY = _add(t.daily) + (
    ", first_ms = CASE WHEN excluded.first_ms < usage_daily.first_ms "
    "THEN excluded.first_ms ELSE usage_daily.first_ms END"
)

_ASKED_AGAIN = ("gateway", "batch")
"""Source and tier of requests whose ids follow from what they ask: the first answer counts."""

_ARRAYS: dict[type[Any], str] = {
    sa.LargeBinary: "bytea", sa.BigInteger: "bigint", sa.Integer: "integer", sa.Text: "text",
}  # fmt: skip
"""Postgres' names of the types of columns that are filled by many rows."""

_COPIED = 500
"""More rows than this are copied."""
_UNIQUE = "23505"  # the SQLSTATE of a key that is there already

_New = tuple[Record, tuple[Any, ...]]
_to_text = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class _Alarm:
    kind: str
    tenant: str
    detail: Mapping[str, Any]
    dedup: str


def move_cursor(connection: sa.Connection, segment: str, offset: int, to: Cursor, now: int) -> None:
    """Set the cursor of a segment. Raises `conflict` when it does not stand at `offset`."""
    mark = _mark(connection)
    moved = connection.exec_driver_sql(
        f'UPDATE journal_cursor SET "offset" = {mark}, state = {mark}, updated_ms = {mark}, '  # noqa: S608
        f"last_ts_ms = CASE WHEN last_ts_ms < {mark} THEN {mark} ELSE last_ts_ms END "
        f"WHERE segment = {mark} AND \"offset\" = {mark} AND state = 'open'",
        (to.offset, to.state, now, to.last_ts_ms, to.last_ts_ms, segment, offset),
    )
    if moved.rowcount == 1:
        return
    c = t.cursors.c
    found = connection.execute(sa.select(t.cursors).where(c.segment == segment)).one_or_none()
    at, state = (0, "open") if found is None else (found.offset, found.state)
    if at != offset or (state != "open" and to.state != "quarantined"):
        raise MeuseError(
            Code.CONFLICT,
            f"the cursor of {segment} stands at {at} ({state}), not at {offset}",
            hint="Another ledger reads this journal: run one.",
        )
    values: dict[str, Any] = {"offset": to.offset, "state": to.state, "updated_ms": now}
    if found is None:
        values |= {"segment": segment, "last_ts_ms": to.last_ts_ms}
        connection.execute(sa.insert(t.cursors).values(values))
    else:
        values["last_ts_ms"] = max(to.last_ts_ms, found.last_ts_ms)
        connection.execute(sa.update(t.cursors).where(c.segment == segment).values(values))


def add_records(
    connection: sa.Connection,
    batch: Sequence[tuple[Record, bytes]],
    contexts: Contexts,
    now_ms: int,
    ahead_ms: int | None = None,
) -> tuple[Ingested, list[Alarm], dict[int, Place]]:
    """Keep and add up the records that are new; alarms for conflicts and late ones, and where
    those count that do not in their own bucket (`money_places`), by `id()` of the record.

    The caller holds the turn: what is not there now is not there when it is inserted. Were
    that ever wrong, the primary key makes the whole transaction fail rather than count twice.
    """
    rows = _rows(connection, batch, contexts)
    new = [(r, row) for r, row in rows if r.final and not r.seq]
    conflicts: list[Alarm] = []
    duplicates = 0
    try:
        # Records that come twice are rare: rather than look for each, see what the key says.
        with connection.begin_nested():
            _insert_many(connection, t.entries, [row for _, row in new])
    except sa.exc.IntegrityError:
        new, conflicts, duplicates = _sift(connection, new)
        _insert_many(connection, t.entries, [row for _, row in new])
    steps = Advanced()
    if len(new) + duplicates + len(conflicts) < len(rows):
        parts = [(r, row) for r, row in rows if r.seq or not r.final]
        steps = advance(connection, parts, _mark(connection))
        _insert_many(connection, t.entries, steps.added)
        conflicts += [_conflict(record, row) for record, row in steps.conflicts]
    taken = [record for record, _ in new] + [one.record for one in steps.taken]
    moved, invoiced = money_places.places(connection, taken, now_ms, ahead_ms)
    _add_up(connection, new, steps.taken, moved)
    added = (Taken(r, row, r.quantities) for r, row in new if moved)
    money_places.keep(connection, [*added, *steps.taken], moved, _mark(connection))
    late = [*_late(taken, invoiced, moved), *_ahead(taken, moved, now_ms)]
    duplicates += steps.duplicates
    done = Ingested(len(taken), duplicates, len(conflicts), len(invoiced))
    return done, [*conflicts, *late], moved


def _rows(
    connection: sa.Connection, batch: Sequence[tuple[Record, bytes]], contexts: Contexts
) -> list[_New]:
    """Each record with its values in the order of the columns of `usage_entry`."""
    new: list[_New] = []
    number, to_text = contexts.number, _to_text
    for r, _ in batch:
        context, payer = number(connection, r)
        new.append((r, (r.id, payer, r.seq, context, r.ts, to_text(r.quantities).decode())))
    return new


def _add_up(
    connection: sa.Connection,
    new: Sequence[_New],
    steps: Iterable[Taken],
    moved: Mapping[int, Place],
) -> None:
    """Of `new` records all that they say, of others what is `more` than before."""
    # By context and bucket first: two numbers where the key of the table has ten columns.
    heads: dict[tuple[int, int], tuple[Record, dict[str, int]]] = {}
    for r, row in new:
        if moved and id(r) in moved:
            continue
        head = row[3], r.ts // BUCKET_MS
        found = heads.get(head)
        if found is None:
            heads[head] = r, dict(r.quantities)
            continue
        sums = found[1]
        for meter, quantity in r.quantities.items():
            if meter in sums:
                sums[meter] += quantity
            else:
                sums[meter] = quantity
    others: list[tuple[Record, tuple[Any, ...], Mapping[str, int]]] = [
        (r, row, r.quantities) for r, row in new if moved and id(r) in moved
    ]
    others += [(one.record, one.row, one.more) for one in steps]
    for r, row, quantities in others:
        head = row[3], money_places.bucket_of(r, moved) // BUCKET_MS
        sums = heads.setdefault(head, (r, {}))[1]
        for meter, quantity in quantities.items():
            if quantity:
                sums[meter] = sums.get(meter, 0) + quantity
    rows: dict[tuple[Any, ...], int] = {}
    for (_, bucket), (r, sums) in heads.items():
        plan = r.plan_version or ""
        start = (r.tenant, bucket * BUCKET_MS, r.owner, r.project, r.key, r.deployment, r.version)
        for meter, quantity in sums.items():
            key = (*start, meter, r.tier, plan)
            rows[key] = rows.get(key, 0) + quantity
    # Sorted: rows of one payer lie together in the table.
    _insert_many(connection, t.rollup, [(*key, rows[key]) for key in sorted(rows)], _ADD)
    _insert_many(connection, t.daily, _by_day(rows), _ADD_DAILY)


def _by_day(rows: Mapping[tuple[Any, ...], int]) -> list[tuple[Any, ...]]:
    """Rows of the table by day that rows of the rollup add up to."""
    days: dict[tuple[Any, ...], list[int]] = {}
    for (tenant, bucket, owner, project, _, deployment, _, meter, tier, plan), n in rows.items():
        day = (tenant, bucket - bucket % _DAY_MS, owner, project, deployment, meter, tier, plan)
        found_day = days.get(day)
        if found_day is None:
            days[day] = [bucket, n]
        else:
            found_day[0] = min(found_day[0], bucket)
            found_day[1] += n
    return [(*key, *days[key]) for key in sorted(days)]


def _insert_many(
    connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]], tail: str = ""
) -> None:
    """INSERT rows with a value for each column, in their order.

    Straight to the driver: SQLAlchemy's own binding of each row costs three times the insert.
    Postgres is sent columns rather than rows: one statement, however many rows there are.
    """
    if len(rows) > _COPIED and not tail and connection.dialect.name != "sqlite":
        _copy(connection, table, rows)
    elif rows and connection.dialect.name != "sqlite":
        arrays = ", ".join(f"%s::{_ARRAYS[type(column.type)]}[]" for column in table.c)
        columns = ", ".join(table.c.keys())
        sql = f"INSERT INTO {table.name} ({columns}) SELECT * FROM unnest({arrays}) {tail}"  # noqa: S608
        connection.exec_driver_sql(sql, tuple([list(column) for column in zip(*rows, strict=True)]))
    elif rows:
        columns = ", ".join(table.c.keys())
        marks = ", ".join([_mark(connection)] * len(table.c))
        sql = f"INSERT INTO {table.name} ({columns}) VALUES ({marks}) {tail}"  # noqa: S608
        connection.exec_driver_sql(sql, list(rows))


def _copy(connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Postgres' own way to take in many rows. Raises `IntegrityError` as an INSERT would."""
    driver: Any = connection.connection.driver_connection
    types = [_ARRAYS[type(column.type)] for column in table.c]
    sql = f"COPY {table.name} ({', '.join(table.c.keys())}) FROM STDIN (FORMAT BINARY)"
    try:
        with driver.cursor() as cursor, cursor.copy(sql) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)
    except Exception as error:
        if getattr(error, "sqlstate", None) == _UNIQUE:
            raise sa.exc.IntegrityError(sql, None, error) from error
        raise


def _mark(connection: sa.Connection) -> str:
    return "?" if connection.dialect.name == "sqlite" else "%s"


def _sift(connection: sa.Connection, batch: Sequence[_New]) -> tuple[list[_New], list[Alarm], int]:
    """(new records, an alarm per conflict, number of duplicates).

    Equal values are equal bytes: a record has one encoding, and the order of its quantities
    is kept. A line of a batch whose answer was lost is asked again, and may come to other
    quantities: it is no conflict, and not counted.
    """
    known = _known(connection, [record.id for record, _ in batch])
    new: list[_New] = []
    conflicts: list[Alarm] = []
    duplicates = 0
    for record, row in batch:
        key, values = row[:2], row[2:]
        if key not in known:
            known[key] = values
            new.append((record, row))
        elif known[key] == values or (record.source, record.tier) == _ASKED_AGAIN:
            duplicates += 1
        else:
            conflicts.append(_conflict(record, row))
    return new, conflicts, duplicates


def _known(
    connection: sa.Connection, ids: Sequence[bytes]
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """The values of kept records with these ids, by (id, payer)."""
    columns = ", ".join(t.entries.c.keys())
    known: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for at in range(0, len(ids), _IDS_PER_QUERY):
        chunk = tuple(ids[at : at + _IDS_PER_QUERY])
        marks = ", ".join([_mark(connection)] * len(chunk))
        sql = f"SELECT {columns} FROM usage_entry WHERE id IN ({marks})"  # noqa: S608
        for row in connection.exec_driver_sql(sql, chunk):
            known[tuple(row[:2])] = tuple(row[2:])
    return known


def _conflict(record: Record, row: tuple[Any, ...]) -> Alarm:
    content = hashlib.blake2b(repr(row).encode(), digest_size=16).hexdigest()
    detail = {
        "id": record.id.hex(),
        "source": record.source,
        "deployment": record.deployment,
        "quantities": record.quantities,
    }
    dedup = f"conflict:{record.tenant}:{record.source}:{record.id.hex()}:{content}"
    return _Alarm("usage_conflict", record.tenant, detail, dedup)


def _late(
    taken: Iterable[Record], invoiced: Mapping[int, sa.Row[Any]], moved: Mapping[int, Place]
) -> list[Alarm]:
    """One alarm per issued invoice that comes too early for some of these records."""
    if not invoiced:
        return []
    late: dict[str, list[Record]] = {}
    rows: dict[str, sa.Row[Any]] = {}
    for record in taken:
        row = invoiced.get(id(record))
        if row is not None:
            rows[row.id] = row
            late.setdefault(row.id, []).append(record)
    found: list[Alarm] = []
    for invoice, records in late.items():
        first, row = min(record.id for record in records).hex(), rows[invoice]
        detail = {"invoice": invoice, "number": row.number, "n": len(records), "first": first}
        places = {moved[id(record)].bucket_ms for record in records if id(record) in moved}
        if places:
            detail["billed_in"] = to_rfc3339(min(places))
        found.append(_Alarm("late_usage", row.tenant_id, detail, f"late:{invoice}:{first}"))
    return found


def _ahead(taken: Iterable[Record], moved: Mapping[int, Place], now_ms: int) -> list[Alarm]:
    """One alarm per tenant with records from the future: some clock is wrong."""
    found: dict[str, list[Record]] = {}
    for record in taken if moved else ():
        place = moved.get(id(record))
        if place is not None and place.reason == "future":
            found.setdefault(record.tenant, []).append(record)
    alarms: list[Alarm] = []
    for tenant, records in found.items():
        first = min(record.id for record in records).hex()
        ahead = max(record.ts for record in records) - now_ms
        detail = {"n": len(records), "first": first, "ahead_s": ahead // 1000}
        alarms.append(_Alarm("usage_from_the_future", tenant, detail, f"future:{first}"))
    return alarms


def raise_alarms(connection: sa.Connection, raised: Iterable[Alarm], now: int) -> list[Alarm]:
    """Keep alarms; one that was raised before stays as it is. Returns the new ones.

    The caller holds the turn, and tells of the new ones (`tell`) once they are committed.
    """
    by_dedup = {alarm.dedup: alarm for alarm in raised}
    if not by_dedup:
        return []
    known: set[str] = set()
    dedups = list(by_dedup)
    for at in range(0, len(dedups), _IDS_PER_QUERY):
        chunk = dedups[at : at + _IDS_PER_QUERY]
        query = sa.select(t.alarms.c.dedup).where(t.alarms.c.dedup.in_(chunk))
        known.update(connection.execute(query).scalars())
    new = [alarm for dedup, alarm in by_dedup.items() if dedup not in known]
    rows = [
        (new_id("alarm"), a.tenant, DEFAULT_PROJECT, now, a.kind, to_json(a.detail), a.dedup)
        for a in new
    ]
    _insert_many(connection, t.alarms, rows)
    return new


def tell(alarms: Iterable[Alarm]) -> None:
    """Write alarms to the log, where someone looks."""
    for alarm in alarms:
        _log.error("alarm %s of tenant %s: %s", alarm.kind, alarm.tenant, to_json(alarm.detail))


def to_json(value: Any) -> str:
    """JSON text without spaces, keys in the order given."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
