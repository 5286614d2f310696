"""Records that say what a request came to so far: each adds what it has more than the one before.

A long answer is recorded again and again under one id, with a rising `seq` and cumulative
quantities. One row is kept of it, that of the highest `seq`. Knows `usage_entry`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from meuse.store.money_places import Taken
from meuse.store.money_tables import Record

Step = tuple[Record, tuple[Any, ...]]
"""A record, and its values in the order of the columns of `usage_entry`."""

_IDS_PER_QUERY = 10_000


@dataclass(slots=True)
class Advanced:
    """What became of them."""

    taken: list[Taken] = field(default_factory=list)
    added: list[tuple[Any, ...]] = field(default_factory=list)
    changed: list[tuple[Any, ...]] = field(default_factory=list)
    conflicts: list[Step] = field(default_factory=list)
    duplicates: int = 0


@dataclass(slots=True)
class _Kept:
    """`row`: seq, context, ts, quantities."""

    row: tuple[Any, ...]
    quantities: dict[str, int]
    final: bool
    is_new: bool = False
    is_changed: bool = False


def advance(connection: sa.Connection, steps: Sequence[Step], mark: str) -> Advanced:
    """Judge them in their order, and write what is kept of them. A lower number than the kept
    one was taken in with it; the same with other values, a number after the last one, or
    quantities that fall are conflicts. `mark` is the driver's for a value."""
    known = _known(connection, [record.id for record, _ in steps], mark)
    done = Advanced()
    for step in steps:
        record, row = step
        kept = known.get(row[:2])
        if kept is None:
            known[row[:2]] = _Kept(row[2:], record.quantities, record.final, is_new=True)
            done.taken.append(Taken(record, row, record.quantities))
            continue
        if record.seq < kept.row[0] or row[2:] == kept.row:
            done.duplicates += 1
            continue
        before, now = kept.quantities, record.quantities
        falls = any(now.get(meter, -1) < quantity for meter, quantity in before.items())
        if record.seq == kept.row[0] or kept.final or falls:
            done.conflicts.append(step)
            continue
        more = {meter: n - before.get(meter, 0) for meter, n in now.items()}
        done.taken.append(Taken(record, row, more, kept.row[2], before))
        kept.row, kept.quantities, kept.final = row[2:], now, record.final
        kept.is_changed = True
    for key, kept in known.items():
        if kept.is_new:
            done.added.append((*key, *kept.row))
        elif kept.is_changed:
            done.changed.append((*kept.row, *key))
    if done.changed:
        sql = (
            f"UPDATE usage_entry SET seq = {mark}, context = {mark}, ts_ms = {mark}, "  # noqa: S608
            f"quantities = {mark} WHERE id = {mark} AND payer = {mark}"
        )
        connection.exec_driver_sql(sql, done.changed)
    return done


def _known(
    connection: sa.Connection, ids: Sequence[bytes], mark: str
) -> dict[tuple[Any, ...], _Kept]:
    """What is kept under these ids, by (id, payer)."""
    found: dict[tuple[Any, ...], _Kept] = {}
    distinct = list(dict.fromkeys(ids))
    for at in range(0, len(distinct), _IDS_PER_QUERY):
        chunk = tuple(distinct[at : at + _IDS_PER_QUERY])
        sql = (
            "SELECT e.id, e.payer, e.seq, e.context, e.ts_ms, e.quantities, c.final "  # noqa: S608
            "FROM usage_entry e JOIN usage_context c ON c.context = e.context "
            f"WHERE e.id IN ({', '.join([mark] * len(chunk))})"
        )
        for row in connection.exec_driver_sql(sql, chunk):
            found[tuple(row[:2])] = _Kept(tuple(row[2:6]), json.loads(row[5]), bool(row[6]))
    return found
