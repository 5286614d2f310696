"""Queries of the rollup: what was used, by any dimension and interval, and what rating needs.

Every `start_ms` and `end_ms` is [start, end) in Unix milliseconds on a bucket's border.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import BUCKET_MS, day_of, to_rfc3339
from meuse.core.errors import invalid
from meuse.store import money_tables as t
from meuse.store.money_tables import RollupRow

_HOUR_MS = 3_600_000
_DAY_MS = 86_400_000
_WEEK_MS = 7 * _DAY_MS
_MONDAY_MS = 4 * _DAY_MS  # 1970-01-05 was one
_MOST_MONTHS = 600

DIMENSIONS = {
    "model": "deployment", "meter": "meter", "version": "version", "key": "key_id",
    "project": "project_id", "tenant": "tenant_id", "owner": "owner_id",
    "deployment": "deployment", "tier": "tier",
}  # fmt: skip
"""By what usage is grouped, beside `INTERVALS`; the columns of it."""
Key = tuple[str, ...]
Sums = Mapping[Key, int]
"""Quantities by tenant, meter, model, version, tier of usage and plan version ("": none)."""
INTERVALS = ("hour", "day", "week", "month")


def check_bounds(start_ms: int, end_ms: int) -> None:
    for field, bound in (("from", start_ms), ("to", end_ms)):
        if bound % BUCKET_MS:
            raise invalid(
                field,
                f"{to_rfc3339(bound)} is not on a quarter of an hour",
                "Usage is kept per quarter of an hour: use :00, :15, :30 or :45.",
            )


def usage(
    connection: sa.Connection,
    start_ms: int,
    end_ms: int,
    by: Sequence[str],
    where: Mapping[str, str | None],
) -> list[dict[str, Any]]:
    """Quantities grouped and ordered by `by`, always by meter too; `where` by dimension."""
    names = list(dict.fromkeys((*by, "meter")))
    needed = {"meter"} | {DIMENSIONS[name] for name in names if name in DIMENSIONS}
    fine = "hour" in names
    source = _source(needed, start_ms, end_ms, where, fine=fine).subquery().c
    columns = _columns(names, start_ms, end_ms, source)
    query = sa.select(
        *(column.label(name) for name, column in columns.items()),
        sa.func.sum(source.quantity).label("quantity"),
    )
    groups = list(dict.fromkeys(columns.values()))
    with connection.execute(query.group_by(*groups).order_by(*groups)) as result:
        # The driver's own tuples, and then by column: there are thousands of rows, few values of
        # an interval, and nothing to convert.
        found = result.cursor.fetchall()
    *values, quantities = zip(*found, strict=True) if found else ((),) * (len(names) + 1)
    shown = [_shown(name, column, start_ms) for name, column in zip(names, values, strict=True)]
    rows = zip(*shown, map(int, quantities), strict=True)
    return list(map(dict, map(zip, repeat((*names, "quantity")), rows)))


def _shown(name: str, column: Sequence[Any], start_ms: int) -> Sequence[Any]:
    if name not in INTERVALS:
        return column
    texts = {value: told(name, value, start_ms) for value in set(column)}
    return [texts[value] for value in column]


def parts(
    connection: sa.Connection,
    tenant: str,
    start_ms: int,
    end_ms: int,
    by: Sequence[str],
) -> list[tuple[tuple[Any, ...], RollupRow]]:
    """What a payer used by `by` (its values first) and by all that rating looks at."""
    r = t.rollup.c
    columns = list(_columns(by, start_ms, end_ms, r).values())
    key = (r.meter, r.deployment, r.plan_version, r.tier)
    query: sa.Select[Any] = sa.select(
        *columns, *key, sa.func.sum(r.quantity), sa.func.min(r.bucket_ms)
    )
    query = _filtered(query, start_ms, end_ms, {"tenant": tenant})
    groups = list(dict.fromkeys([*columns, *key]))
    found: list[tuple[tuple[Any, ...], RollupRow]] = []
    width = len(columns)
    for row in connection.execute(query.group_by(*groups).order_by(*groups)):
        values = tuple(
            told(name, value, start_ms) for name, value in zip(by, row[:width], strict=True)
        )
        meter, deployment, plan, tier, quantity, first = row[width:]
        kept = RollupRow(meter, deployment, plan or None, int(quantity), tier, first, start_ms)
        found.append((values, kept))
    return found


def rollup_rows(
    connection: sa.Connection, tenant: str, windows: Sequence[tuple[int, int]]
) -> list[RollupRow]:
    """Of each window [start, end) by itself."""
    columns = {"meter", "deployment", "plan_version", "tier"}
    found: list[RollupRow] = []
    for start, end in windows:
        rows = _source(columns, start, end, {"tenant": tenant}, fine=False, first=True)
        source = rows.subquery().c
        key = (source.meter, source.deployment, source.plan_version, source.tier)
        query = sa.select(*key, sa.func.sum(source.quantity), sa.func.min(source.first_ms))
        for meter, deployment, plan, tier, quantity, first in connection.execute(
            query.group_by(*key).order_by(*key)
        ):
            found.append(
                RollupRow(meter, deployment, plan or None, int(quantity), tier, first, start)
            )
    return found


def payers(connection: sa.Connection, start_ms: int, end_ms: int) -> list[str]:
    """Who used anything."""
    query = _filtered(sa.select(t.rollup.c.tenant_id).distinct(), start_ms, end_ms, {})
    return sorted(connection.execute(query).scalars())


def sums(connection: sa.Connection) -> tuple[Sums, Sums]:
    """(of all records, of the whole rollup), by tenant, meter, model, version, tier and plan.

    One statement, which sees one moment. Records of the same caller with the same quantities
    are counted by the database.
    """
    c, e, r = t.contexts.c, t.entries.c, t.rollup.c
    where = ("tenant_id", "deployment", "version", "tier")
    records = (
        sa.select(
            sa.literal("records").label("side"), *(c[name] for name in where),
            sa.func.coalesce(c.plan_version, "").label("plan_version"),
            e.quantities.label("what"), sa.func.count().label("n"),
        )
        .join_from(t.entries, t.contexts, c.context == e.context)
        .group_by(*(c[name] for name in where), c.plan_version, e.quantities)
    )  # fmt: skip
    rollup = sa.select(
        sa.literal("rollup"), *(r[name] for name in where), r.plan_version, r.meter,
        sa.func.sum(r.quantity),
    ).group_by(*(r[name] for name in where), r.plan_version, r.meter)  # fmt: skip
    found: dict[str, Counter[Key]] = {"records": Counter(), "rollup": Counter()}
    for side, tenant, model, version, tier, plan, what, n in connection.execute(
        sa.union_all(records, rollup)
    ):
        quantities = {what: 1} if side == "rollup" else json.loads(what)
        for meter, quantity in quantities.items():
            found[side][tenant, meter, model, version, tier, plan] += quantity * int(n)
    return found["records"], found["rollup"]


def told(name: str, value: Any, start_ms: int) -> Any:
    """A value of a grouping as people read it: days and weeks by their first day."""
    if name == "hour":
        return datetime.fromtimestamp(value * 3600, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if name == "day":
        return day_of(value * _DAY_MS)
    if name == "week":
        return day_of(value * _WEEK_MS + _MONDAY_MS)
    if name == "month":
        return day_of(_months(start_ms, start_ms + 1, value + 1)[value])[:7]
    return value


def _filtered(
    query: sa.Select[Any], start_ms: int, end_ms: int, where: Mapping[str, str | None]
) -> sa.Select[Any]:
    query = query.where(t.rollup.c.bucket_ms >= start_ms, t.rollup.c.bucket_ms < end_ms)
    for name, value in where.items():
        if value is not None:
            query = query.where(t.rollup.c[DIMENSIONS[name]] == value)
    return query


def _source(
    columns: set[str],
    start_ms: int,
    end_ms: int,
    where: Mapping[str, str | None],
    *,
    fine: bool,
    first: bool = False,
) -> sa.Select[Any] | sa.CompoundSelect[Any]:
    """Rows of [start, end) with `bucket_ms`, these columns and `quantity`; with the `first` bucket
    of each as `first_ms`. Whole days are taken
    from the table by day where it has the columns, unless they are to be told apart (`fine`): it
    is a hundredth of the other."""
    wanted = {DIMENSIONS[name]: value for name, value in where.items() if value is not None}

    def part(table: sa.Table, moment: str, low: int, high: int) -> sa.Select[Any]:
        c = table.c
        query: sa.Select[Any] = sa.select(
            c[moment].label("bucket_ms"), *(c[name] for name in sorted(columns)), c.quantity
        )
        if first:
            query = query.add_columns(
                (c.first_ms if "first_ms" in c else c[moment]).label("first_ms")
            )
        same = (c[name] == value for name, value in wanted.items())
        return query.where(c[moment] >= low, c[moment] < high, *same)

    low, high = -(-start_ms // _DAY_MS) * _DAY_MS, end_ms // _DAY_MS * _DAY_MS
    if fine or low >= high or not columns | wanted.keys() <= set(t.daily.c.keys()):
        return part(t.rollup, "bucket_ms", start_ms, end_ms)
    parts = [part(t.daily, "day_ms", low, high)]
    edges = ((start_ms, low), (high, end_ms))
    parts += [part(t.rollup, "bucket_ms", *edge) for edge in edges if edge[0] < edge[1]]
    return parts[0] if len(parts) == 1 else sa.union_all(*parts)


def _columns(
    names: Sequence[str], start_ms: int, end_ms: int, c: Any
) -> dict[str, sa.ColumnElement[Any]]:
    """Of `c`, which has the columns of the rollup that are asked for."""
    bucket = c.bucket_ms
    found: dict[str, sa.ColumnElement[Any]] = {}
    for name in names:
        if name == "hour":
            found[name] = bucket // _HOUR_MS
        elif name == "day":
            found[name] = bucket // _DAY_MS
        elif name == "week":
            found[name] = (bucket - _MONDAY_MS) // _WEEK_MS
        elif name == "month":
            found[name] = _month_of(bucket, start_ms, end_ms)
        elif name in DIMENSIONS:
            found[name] = c[DIMENSIONS[name]]
        else:
            known = ", ".join((*INTERVALS, *DIMENSIONS))
            raise invalid("by", f"{name!r} is not a grouping", f"Use {known}.")
    return found


def _month_of(bucket: Any, start_ms: int, end_ms: int) -> sa.ColumnElement[Any]:
    """The number of its month, from that of `start_ms` (0) on."""
    begins = _months(start_ms, end_ms, _MOST_MONTHS + 1)
    if len(begins) > _MOST_MONTHS:
        raise invalid("from", "the period is too long to be told by month", "Use 50 years.")
    # A case even of a single month: a bare number in GROUP BY would be a column's place.
    ends = [*begins[1:], end_ms]
    return sa.case(*((bucket < end, sa.literal_column(str(n))) for n, end in enumerate(ends)))


def _months(start_ms: int, end_ms: int, most: int) -> list[int]:
    """When the months that [start, end) touches begin, at most so many; of a period of a
    millisecond, so many from there on."""
    first = datetime.fromtimestamp(start_ms // 1000, UTC)
    year, month = first.year, first.month
    begins: list[int] = []
    while len(begins) < most:
        begun = int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000
        if begun >= end_ms and end_ms - start_ms > 1:
            break
        begins.append(begun)
        year, month = year + month // 12, month % 12 + 1
    return begins
