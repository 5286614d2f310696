"""Raw records on their way out of money.db, and what was counted of them.

A part of the archive is a range of ids (which begin with their time) of one UTC day, of records
that are older than a moment. It is first written elsewhere, then named here (`putting`), then
the records are deleted and it is `done`, in one transaction that reads them again and compares
the digest: what changed meanwhile stays. Knows no file format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import Clock, day_of, now_ms
from meuse.core.nouns import METERS
from meuse.store import money_tables as t
from meuse.store.database import Database
from meuse.store.turns import take_turn

DAY_MS = 86_400_000
PART_RECORDS = 100_000
_CHUNK = 2_000
SHARED = (
    "tenant_id", "source", "owner_id", "project_id", "key_id", "deployment", "version",
    "plan_version", "tier", "protocol", "status", "lease", "final", "estimated",
)  # fmt: skip

Raw = tuple[Any, ...]
"""(id, seq, ts_ms, shared columns in the order of `SHARED`, quantities by meter)."""
Sums = dict[tuple[Any, ...], int]
"""Quantities by the key of the rollup, in the order of its columns."""


@dataclass(frozen=True, slots=True)
class Span:
    """The records of ids in [first, until) whose time lies before `before_ms`."""

    day: str
    part: int
    first: bytes
    until: bytes
    before_ms: int


@dataclass(frozen=True, slots=True)
class Part:
    """A part as it was written: how many records, what they are (`digest`), and the digests of
    the blobs that hold them and their sums."""

    span: Span
    records: int
    min_ts_ms: int
    max_ts_ms: int
    digest: str
    blob: str
    sums: str
    bytes: int


class UsageArchive:
    """In the same `Database` as `MoneyStore`."""

    def __init__(self, database: Database, clock: Clock = now_ms) -> None:
        self._database = database
        self._clock = clock

    def next_span(self, before_ms: int, most: int = PART_RECORDS) -> Span | None:
        """The oldest records before a moment that are not archived; None: there are none."""
        e, a = t.entries.c, t.archive.c
        old = (e.ts_ms < before_ms, e.id < _id_at(before_ms))
        with self._database.read() as connection:
            first = connection.execute(
                sa.select(e.id).where(*old).order_by(e.id).limit(1)
            ).scalar_one_or_none()
            if first is None:
                return None
            first = bytes(first)
            start = int.from_bytes(first[:6], "big") // DAY_MS * DAY_MS
            until = min(_id_at(start + DAY_MS), _id_at(before_ms))
            cut = connection.execute(
                sa.select(e.id)
                .where(e.id >= first, e.id < until, e.ts_ms < before_ms)
                .order_by(e.id)
                .offset(most)
                .limit(1)
            ).scalar_one_or_none()
            day = day_of(start)
            last = connection.execute(sa.select(sa.func.max(a.part)).where(a.day == day)).scalar()
        if cut is not None and bytes(cut) > first:
            until = bytes(cut)
        return Span(day, 1 if last is None else last + 1, first, until, before_ms)

    def rows(self, span: Span) -> Iterator[Raw]:
        """Its records by id and payer."""
        with self._database.read() as connection:
            yield from _rows(connection, _where(span))

    def begin(self, part: Part) -> None:
        """Name a part whose blobs are about to be put."""
        with self._database.write() as connection:
            values = _values(part) | {"state": "putting", "created_ms": self._clock()}
            connection.execute(sa.insert(t.archive).values(values))

    def finish(self, part: Part) -> bool:
        """Delete its records from the database, now that its blobs hold them. False: they are
        not the same any more, and nothing is changed."""
        with self._database.write() as connection:
            take_turn(connection)
            digest, count = Digest(), 0
            for row in _rows(connection, _where(part.span)):
                digest.add(row)
                count += 1
            mine = (t.archive.c.day == part.span.day, t.archive.c.part == part.span.part)
            if (count, digest.hex()) != (part.records, part.digest):
                return False
            connection.execute(sa.delete(t.entries).where(*_where(part.span)))
            connection.execute(sa.update(t.archive).where(*mine).values(state="done"))
        return True

    def forget(self, part: Part) -> None:
        """Of a part that was begun: its blobs are gone, its records are here."""
        a = t.archive.c
        with self._database.write() as connection:
            connection.execute(
                sa.delete(t.archive).where(
                    a.day == part.span.day, a.part == part.span.part, a.state == "putting"
                )
            )

    def parts(self, state: str = "done", start_ms: int = 0, end_ms: int = 2**62) -> list[Part]:
        """Those with records of [start, end), oldest first."""
        with self._database.read() as connection:
            return _parts(connection, state, start_ms, end_ms)

    def summary(self) -> dict[str, Any]:
        """{parts, records, bytes, through: the last day}, of what is done."""
        a = t.archive.c
        query = sa.select(
            sa.func.count(), sa.func.sum(a.records), sa.func.sum(a.bytes), sa.func.max(a.day)
        ).where(a.state == "done")
        with self._database.read() as connection:
            parts, records, size, day = connection.execute(query).one()
        return {"parts": parts, "records": int(records or 0), "bytes": int(size or 0),
                "through": day}  # fmt: skip

    def recount(self, start_ms: int, end_ms: int, read: Callable[[Part], Iterable[Raw]]) -> Recount:
        """What raw records say of the buckets of [start, end), beside what the rollup says.

        `read` gives the records of a part of the archive. All else is read as of one moment.
        """
        sums: Sums = {}
        counted = 0
        with self._database.snapshot() as connection:
            moved = _elsewhere(connection, start_ms, end_ms)
            for part in _parts(connection, "done", start_ms, end_ms):
                counted += _add(sums, read(part), moved, start_ms, end_ms)
            e = t.entries.c
            span = (e.ts_ms >= start_ms, e.ts_ms < end_ms)
            in_db = _add(sums, _rows(connection, span), moved, start_ms, end_ms)
            _add_moved(sums, connection, start_ms, end_ms)
            r = t.rollup.c
            query = sa.select(t.rollup).where(r.bucket_ms >= start_ms, r.bucket_ms < end_ms)
            rollup = {tuple(row[:-1]): int(row[-1]) for row in _stream(connection, query)}
            days = _days(connection, start_ms, end_ms)
        by_day: Sums = {}
        for (tenant, bucket, owner, project, _, model, _, meter, tier, plan), n in rollup.items():
            day = (tenant, bucket - bucket % DAY_MS, owner, project, model, meter, tier, plan)
            if start_ms <= day[1] and day[1] + DAY_MS <= end_ms:
                by_day[day] = by_day.get(day, 0) + n
        daily = sum(days.get(k, 0) != by_day.get(k, 0) for k in days.keys() | by_day.keys())
        differences = [
            (key, rollup.get(key, 0), sums.get(key, 0))
            for key in sorted(rollup.keys() | sums.keys())
            if rollup.get(key, 0) != sums.get(key, 0)
        ]
        return Recount(counted, in_db, len(rollup), tuple(differences), daily)


@dataclass(frozen=True, slots=True)
class Recount:
    """`differences`: (key of the rollup, what it says, what the records say). `daily`: how many
    rows of the sums by day are not those of the rollup."""

    archived: int
    in_database: int
    rollup_rows: int
    differences: tuple[tuple[tuple[Any, ...], int, int], ...]
    daily: int = 0


class Digest:
    """Of records in their order, the same whether they come from the database or a file."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, row: Raw) -> None:
        id_, seq, ts, shared, quantities = row
        listed = [quantities.get(meter) for meter in METERS]
        if not shared[-1]:
            shared = shared[:-1]  # parts from before `estimated` keep their digests
        line = json.dumps([id_.hex(), seq, ts, shared, listed], ensure_ascii=False)
        self._hash.update(line.encode() + b"\n")

    def hex(self) -> str:
        return self._hash.hexdigest()


def sums_of(rows: Iterable[Raw]) -> Sums:
    """By the bucket of each record's own time."""
    sums: Sums = {}
    _add(sums, rows, {}, 0, 2**62)
    return sums


def _add(
    sums: Sums,
    rows: Iterable[Raw],
    moved: dict[tuple[Any, ...], dict[str, int]],
    start_ms: int,
    end_ms: int,
) -> int:
    n = 0
    for id_, _, ts, shared, quantities in rows:
        if not start_ms <= ts < end_ms:
            continue
        n += 1
        away = moved.get((id_, shared[0], shared[1]), {}) if moved else {}
        head = _head(shared, ts)
        for meter, quantity in quantities.items():
            if rest := quantity - away.get(meter, 0):
                key = (*head, meter, shared[8], shared[7] or "")
                sums[key] = sums.get(key, 0) + rest
    return n


def _head(shared: Raw, ms: int) -> tuple[Any, ...]:
    """The key of the rollup up to the version."""
    bucket = ms - ms % 900_000
    return shared[0], bucket, shared[2], shared[3], shared[4], shared[5], shared[6]


def _elsewhere(
    connection: sa.Connection, start_ms: int, end_ms: int
) -> dict[tuple[Any, ...], dict[str, int]]:
    """By record (id, tenant, source) what of it counts elsewhere, of those whose own time is
    near [start, end): an answer lasts an hour at most."""
    e, c = t.elsewhere.c, t.contexts.c
    query = (
        sa.select(e.id, c.tenant_id, c.source, e.meter, e.quantity)
        .join_from(t.elsewhere, t.contexts, c.context == e.context)
        .where(e.own_ms >= start_ms - DAY_MS, e.own_ms < end_ms + DAY_MS)
    )
    found: dict[tuple[Any, ...], dict[str, int]] = {}
    for id_, tenant, source, meter, quantity in _stream(connection, query):
        mine = found.setdefault((bytes(id_), tenant, source), {})
        mine[meter] = mine.get(meter, 0) + int(quantity)
    return found


def _add_moved(sums: Sums, connection: sa.Connection, start_ms: int, end_ms: int) -> None:
    """What counts in [start, end) of records whose own buckets are others."""
    e, c = t.elsewhere.c, t.contexts.c
    shared = [c[name] for name in SHARED]
    query = (
        sa.select(e.bucket_ms, e.meter, e.quantity, *shared)
        .join_from(t.elsewhere, t.contexts, c.context == e.context)
        .where(e.bucket_ms >= start_ms, e.bucket_ms < end_ms)
    )
    for bucket, meter, quantity, *rest in _stream(connection, query):
        key = (*_head(tuple(rest), bucket), meter, rest[8], rest[7] or "")
        sums[key] = sums.get(key, 0) + int(quantity)


def _days(connection: sa.Connection, start_ms: int, end_ms: int) -> Sums:
    """The sums by day of the whole days in [start, end)."""
    d = t.daily.c
    query = sa.select(t.daily).where(d.day_ms >= start_ms, d.day_ms <= end_ms - DAY_MS)
    return {tuple(row[:-2]): int(row[-1]) for row in _stream(connection, query)}


def _rows(connection: sa.Connection, where: Iterable[Any]) -> Iterator[Raw]:
    e, c = t.entries.c, t.contexts.c
    shared = [c[name] for name in SHARED]
    query = (
        sa.select(e.id, e.seq, e.ts_ms, e.quantities, *shared)
        .join_from(t.entries, t.contexts, c.context == e.context)
        .where(*where)
        .order_by(e.id, e.payer)
    )
    for id_, seq, ts, quantities, *rest in _stream(connection, query):
        rest[-2:] = map(bool, rest[-2:])
        yield bytes(id_), seq, ts, tuple(rest), json.loads(quantities)


def _stream(connection: sa.Connection, query: Any) -> Iterator[Any]:
    """Rows a few at a time, however many there are."""
    with connection.execute(query, execution_options={"yield_per": _CHUNK}) as found:
        yield from found


def _parts(connection: sa.Connection, state: str, start_ms: int, end_ms: int) -> list[Part]:
    a = t.archive.c
    query = (
        sa.select(t.archive)
        .where(a.state == state, a.min_ts_ms < end_ms, a.max_ts_ms >= start_ms)
        .order_by(a.day, a.part)
    )
    return [_part(row) for row in connection.execute(query)]


def _where(span: Span) -> tuple[Any, ...]:
    e = t.entries.c
    return e.id >= span.first, e.id < span.until, e.ts_ms < span.before_ms


def _id_at(ms: int) -> bytes:
    """The least id of a moment."""
    return ms.to_bytes(6, "big") + bytes(10)


def _values(part: Part) -> dict[str, Any]:
    values = asdict(part)
    span: dict[str, Any] = values.pop("span")
    return span | values


def _part(row: Any) -> Part:
    span = Span(row.day, row.part, bytes(row.first), bytes(row.until), row.before_ms)
    return Part(
        span, row.records, row.min_ts_ms, row.max_ts_ms, row.digest, row.blob, row.sums, row.bytes
    )
