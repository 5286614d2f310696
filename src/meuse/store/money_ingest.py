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

from meuse.core.clock import bucket_start
from meuse.core.errors import Code, MeuseError
from meuse.core.ids import new_id
from meuse.core.nouns import DEFAULT_PROJECT
from meuse.store import money_tables as t
from meuse.store.money_tables import Alarm, Cursor, Ingested, Record

_log = logging.getLogger(__name__)

_IDS_PER_QUERY = 10_000  # SQLite binds at most 32,766 values
_ADD = (
    f"ON CONFLICT ({', '.join(c.name for c in t.rollup.primary_key)}) "
    "DO UPDATE SET quantity = usage_rollup.quantity + excluded.quantity"
)


@dataclass(frozen=True, slots=True)
class _Alarm:
    kind: str
    tenant: str
    detail: Mapping[str, Any]
    dedup: str


def move_cursor(connection: sa.Connection, segment: str, offset: int, to: Cursor, now: int) -> None:
    """Set the cursor of a segment. Raises `conflict` when it does not stand at `offset`."""
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
    connection: sa.Connection, batch: Sequence[tuple[Record, bytes]]
) -> tuple[Ingested, list[Alarm]]:
    """Keep and add up the records that are new; alarms for conflicts and late ones.

    The caller holds the turn: what is not there now is not there when it is inserted. Were
    that ever wrong, the primary key makes the whole transaction fail rather than count twice.
    """
    new, conflicts, duplicates = _sift(connection, batch)
    late = _late(connection, new)
    if new:
        _insert_many(connection, t.records, [_record_row(r, digest) for r, digest in new])
        _add_up(connection, [record for record, _ in new])
    n_late = sum(alarm.detail["n"] for alarm in late)
    return Ingested(len(new), duplicates, len(conflicts), n_late), [*conflicts, *late]


def _add_up(connection: sa.Connection, new: Iterable[Record]) -> None:
    sums: dict[tuple[str | int, ...], int] = {}
    for r in new:
        plan, bucket = r.plan_version or "", bucket_start(r.ts)
        head = (r.tenant, bucket, r.owner, r.project, r.key, r.deployment, r.version)
        for meter, quantity in r.quantities.items():
            key = (*head, meter, r.tier, plan)
            sums[key] = sums.get(key, 0) + quantity
    # Sorted: rows of one payer lie together in the table.
    _insert_many(connection, t.rollup, [(*key, sums[key]) for key in sorted(sums)], _ADD)


def _insert_many(
    connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]], tail: str = ""
) -> None:
    """INSERT rows with a value for each column, in their order.

    Straight to the driver: SQLAlchemy's own binding of each row costs three times the insert.
    """
    if rows:
        columns = ", ".join(table.c.keys())
        marks = ", ".join([_mark(connection)] * len(table.c))
        sql = f"INSERT INTO {table.name} ({columns}) VALUES ({marks}) {tail}"  # noqa: S608
        connection.exec_driver_sql(sql, list(rows))


def _mark(connection: sa.Connection) -> str:
    return "?" if connection.dialect.name == "sqlite" else "%s"


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()


def _sift(
    connection: sa.Connection, batch: Sequence[tuple[Record, bytes]]
) -> tuple[list[tuple[Record, bytes]], list[Alarm], int]:
    """(new records with their digests, an alarm per conflict, number of duplicates)."""
    known = _known(connection, [record.id for record, _ in batch])
    new: list[tuple[Record, bytes]] = []
    conflicts: list[Alarm] = []
    duplicates = 0
    for record, payload in batch:
        key, digest = (record.id, record.tenant, record.source), _digest(payload)
        if key not in known:
            known[key] = digest
            new.append((record, digest))
        elif known[key] == digest:
            duplicates += 1
        else:
            conflicts.append(_conflict(record, digest))
    return new, conflicts, duplicates


def _known(connection: sa.Connection, ids: Sequence[bytes]) -> dict[tuple[bytes, str, str], bytes]:
    """The digests of kept records with these ids, by (id, tenant, source)."""
    known: dict[tuple[bytes, str, str], bytes] = {}
    for at in range(0, len(ids), _IDS_PER_QUERY):
        chunk = tuple(ids[at : at + _IDS_PER_QUERY])
        marks = ", ".join([_mark(connection)] * len(chunk))
        sql = f"SELECT id, tenant_id, source, digest FROM usage_record WHERE id IN ({marks})"  # noqa: S608
        for row_id, tenant, source, digest in connection.exec_driver_sql(sql, chunk):
            known[row_id, tenant, source] = digest
    return known


def _conflict(record: Record, digest: bytes) -> Alarm:
    detail = {
        "id": record.id.hex(),
        "source": record.source,
        "deployment": record.deployment,
        "quantities": record.quantities,
    }
    dedup = f"conflict:{record.tenant}:{record.source}:{record.id.hex()}:{digest.hex()}"
    return _Alarm("usage_conflict", record.tenant, detail, dedup)


def _late(connection: sa.Connection, new: Sequence[tuple[Record, bytes]]) -> list[Alarm]:
    """One alarm per issued invoice that comes too early for some of these records."""
    if not new:
        return []
    i = t.invoices.c
    query = sa.select(i.id, i.tenant_id, i.number, i.period_start_ms, i.period_end_ms).where(
        i.status == "issued", i.period_end_ms > min(record.ts for record, _ in new)
    )
    found: list[Alarm] = []
    for row in connection.execute(query):
        late = [
            record
            for record, _ in new
            if record.tenant == row.tenant_id
            and row.period_start_ms <= record.ts < row.period_end_ms
        ]
        if late:
            first = min(record.id for record in late).hex()
            detail = {"invoice": row.id, "number": row.number, "n": len(late), "first": first}
            found.append(_Alarm("late_usage", row.tenant_id, detail, f"late:{row.id}:{first}"))
    return found


def _record_row(r: Record, digest: bytes) -> tuple[Any, ...]:
    """Values in the order of the columns of `usage_record`."""
    quantities = msgspec.json.encode(r.quantities).decode()
    return (
        r.id, r.tenant, r.source, r.seq, r.final, r.owner, r.project, r.key, r.deployment,
        r.version, r.plan_version, r.tier, r.protocol, r.status, r.ts, r.lease, quantities,
        digest,
    )  # fmt: skip


def raise_alarms(connection: sa.Connection, raised: Iterable[Alarm], now: int) -> list[Alarm]:
    """Keep alarms; one that was raised before stays as it is. Returns the new ones.

    The caller holds the turn, and tells of the new ones (`tell`) once they are committed.
    """
    by_dedup = {alarm.dedup: alarm for alarm in raised}
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
