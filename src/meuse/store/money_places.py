"""Usage that counts in another bucket than that of its record's time, each with the reason.

`late`: an issued invoice covers its time, and so does one the rest of its month: no invoice is
left that would say it, so it counts now, in the open period, and its own time is kept. (Where a
later part of the month is still open, that one bills it: what it says is the month's sum less
what was invoiced.) `future`: a clock was wrong; it counts now rather than in a year. `split`: one
record of a long answer is kept, whose parts came in different buckets.

So the rollup follows from what is kept: a record counts in its time's bucket, but for what is
here. Knows `usage_elsewhere` and which periods are invoiced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import BUCKET_MS, bucket_start, month_end
from meuse.store import money_tables as t
from meuse.store.invoice_tables import invoices
from meuse.store.money_tables import Record

INVOICED = ("issued", "paid")
_IDS_PER_QUERY = 10_000

Key = tuple[Any, ...]
"""(id, payer) of a record."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record counts, and why not in its own bucket. `invoice`: the row that covers its
    time, of a late one."""

    bucket_ms: int
    reason: str
    invoice: Any = None


@dataclass(frozen=True, slots=True)
class Taken:
    """A record that was taken in: what it adds, and what was kept under its id before."""

    record: Record
    row: tuple[Any, ...]
    more: Mapping[str, int]
    before_ts: int | None = None
    before: Mapping[str, int] | None = None


def places(
    connection: sa.Connection, records: Sequence[Record], now_ms: int, ahead_ms: int | None
) -> tuple[dict[int, Place], dict[int, sa.Row[Any]]]:
    """(where records count that do not in their own bucket, the invoices of those that are late,
    moved or not), both by `id()` of the record. A record more than `ahead_ms` ahead of `now_ms`
    is of the future; None: none is."""
    if not records:
        return {}, {}
    stamps = [record.ts for record in records]
    found: dict[int, Place] = {}
    if ahead_ms is not None and max(stamps) > now_ms + ahead_ms:
        here, last = bucket_start(now_ms), now_ms + ahead_ms
        found = {id(r): Place(here, "future") for r in records if r.ts > last}
    i = invoices.c
    query = sa.select(i.id, i.tenant_id, i.number, i.period_start_ms, i.period_end_ms).where(
        i.status.in_(INVOICED), i.period_end_ms > min(stamps)
    )
    by_tenant: dict[str, list[Any]] = {}
    for row in connection.execute(query):
        by_tenant.setdefault(row.tenant_id, []).append(row)
    late: dict[int, sa.Row[Any]] = {}
    if not by_tenant:
        return found, late
    for record in records:
        issued = by_tenant.get(record.tenant)
        if issued is None:
            continue
        covering = next((row for row in issued if _has(row, record.ts)), None)
        if covering is None:
            continue
        late[id(record)] = covering
        if any(_has(row, month_end(record.ts) - 1) for row in issued):
            found[id(record)] = Place(bucket_start(now_ms), "late", covering)
    return found, late


def bucket_of(record: Record, moved: Mapping[int, Place]) -> int:
    place = moved.get(id(record))
    return bucket_start(record.ts) if place is None else place.bucket_ms


def keep(
    connection: sa.Connection, taken: Iterable[Taken], moved: Mapping[int, Place], mark: str
) -> None:
    """Write down what counts elsewhere of records that were taken in, in their order."""
    odd = [
        one
        for one in taken
        if id(one.record) in moved
        or (one.before_ts is not None and one.before_ts // BUCKET_MS != one.record.ts // BUCKET_MS)
    ]
    if not odd:
        return
    counted = _kept(connection, [one.row[0] for one in odd], mark)
    rows: dict[tuple[Any, ...], list[Any]] = {}

    def put(one: Taken, bucket: int, meter: str, quantity: int, own: int, reason: str) -> None:
        if not quantity:
            return
        key = (*one.row[:2], bucket, meter)
        if key in rows:
            rows[key][0] += quantity
        else:
            rows[key] = [quantity, one.row[3], own, reason]
        mine = counted.setdefault(one.row[:2], {})
        mine[meter] = mine.get(meter, 0) + quantity

    for one in odd:
        if one.before_ts is not None and one.before_ts // BUCKET_MS != one.record.ts // BUCKET_MS:
            # What counted with the record that was kept stays in that one's bucket.
            elsewhere = dict(counted.get(one.row[:2], {}))
            for meter, quantity in (one.before or {}).items():
                rest = quantity - elsewhere.get(meter, 0)
                put(one, bucket_start(one.before_ts), meter, rest, one.before_ts, "split")
        place = moved.get(id(one.record))
        if place is not None:
            for meter, quantity in one.more.items():
                put(one, place.bucket_ms, meter, quantity, one.record.ts, place.reason)
    columns = "id, payer, bucket_ms, meter, quantity, context, own_ms, reason"
    sql = (
        f"INSERT INTO usage_elsewhere ({columns}) VALUES ({', '.join([mark] * 8)}) "  # noqa: S608
        "ON CONFLICT (id, payer, bucket_ms, meter) "
        "DO UPDATE SET quantity = usage_elsewhere.quantity + excluded.quantity"
    )
    if rows:
        connection.exec_driver_sql(sql, [(*key, *values) for key, values in rows.items()])


def late_rows(
    connection: sa.Connection, tenant: str | None, start_ms: int, end_ms: int
) -> list[dict[str, Any]]:
    """What counts in [start, end) although it is of an earlier time: {tenant, own_ms (its
    bucket), deployment, meter, tier, plan_version, quantity}."""
    e, c = t.elsewhere.c, t.contexts.c
    own = e.own_ms - e.own_ms % BUCKET_MS
    what = (
        c.tenant_id.label("tenant"), own.label("own_ms"), c.deployment, e.meter, c.tier,
        c.plan_version,
    )  # fmt: skip
    query = (
        sa.select(*what, sa.func.sum(e.quantity).label("quantity"))
        .join_from(t.elsewhere, t.contexts, c.context == e.context)
        .where(e.reason == "late", e.bucket_ms >= start_ms, e.bucket_ms < end_ms)
    )
    if tenant is not None:
        query = query.where(c.tenant_id == tenant)
    columns = [c.tenant_id, own, c.deployment, e.meter, c.tier, c.plan_version]
    found = connection.execute(query.group_by(*columns).order_by(*columns)).mappings()
    return [dict(row) | {"quantity": int(row["quantity"])} for row in found]


def _kept(connection: sa.Connection, ids: Sequence[bytes], mark: str) -> dict[Key, dict[str, int]]:
    """What counts elsewhere already, by record and meter."""
    found: dict[Key, dict[str, int]] = {}
    distinct = list(dict.fromkeys(ids))
    for at in range(0, len(distinct), _IDS_PER_QUERY):
        chunk = tuple(distinct[at : at + _IDS_PER_QUERY])
        sql = (
            "SELECT id, payer, meter, sum(quantity) FROM usage_elsewhere "  # noqa: S608
            f"WHERE id IN ({', '.join([mark] * len(chunk))}) GROUP BY id, payer, meter"
        )
        for row in connection.exec_driver_sql(sql, chunk):
            found.setdefault((bytes(row[0]), row[1]), {})[row[2]] = int(row[3])
    return found


def _has(row: sa.Row[Any], moment_ms: int) -> bool:
    return bool(row.period_start_ms <= moment_ms < row.period_end_ms)
