"""What was used under the subjects of a budget: sums of the rollup, and records where a period
begins within a bucket. Knows tables of money.db; what a budget makes of it is not its business."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import BUCKET_MS, Clock, bucket_start, now_ms
from meuse.core.nouns import Limit
from meuse.store import money_tables as t
from meuse.store.database import Database
from meuse.store.money_tables import RollupRow

_DAY_MS = 86_400_000
KEPT_MS = 6 * _DAY_MS
"""Records that are younger than this are surely there; what began before is counted by whole
buckets, which may be a little more."""


class BudgetUsage:
    """Reads one `Database` that was migrated to the branch "money"."""

    def __init__(self, database: Database, clock: Clock = now_ms) -> None:
        self._database = database
        self._clock = clock

    def __call__(self, limit: Limit, start_ms: int, end_ms: int) -> list[RollupRow]:
        """What matches the subjects of a limit and was recorded in [start, end), by meter,
        deployment, plan version and tier. The end is that of its bucket, unless the start lies
        in the same one."""
        sums: Counter[tuple[str, str, str | None, str]] = Counter()
        with self._database.read() as connection:
            whole = bucket_start(start_ms)
            if whole < start_ms and start_ms > self._clock() - KEPT_MS:
                whole += BUCKET_MS
                for key, quantity in _records(connection, limit, start_ms, min(whole, end_ms)):
                    sums[key] += quantity
            for key, quantity in _buckets(connection, limit, whole, end_ms):
                sums[key] += quantity
        return [
            RollupRow(meter, deployment, plan, quantity, tier, start_ms, start_ms)
            for (meter, deployment, plan, tier), quantity in sorted(sums.items(), key=repr)
        ]


_Sum = tuple[tuple[str, str, str | None, str], int]


def _records(connection: sa.Connection, limit: Limit, start_ms: int, end_ms: int) -> Iterator[_Sum]:
    r = t.records.c
    # Ids begin with the time when a request was admitted, at most hours before its record.
    floor = max(start_ms - _DAY_MS, 0).to_bytes(6, "big") + bytes(10)
    query = sa.select(r.deployment, r.plan_version, r.tier, r.quantities).where(
        r.id >= floor, r.ts_ms >= start_ms, r.ts_ms < end_ms, *_about(r, limit)
    )
    for deployment, plan, tier, quantities in connection.execute(query):
        for meter, quantity in json.loads(quantities).items():
            yield (meter, deployment, plan or None, tier), quantity


def _buckets(connection: sa.Connection, limit: Limit, start_ms: int, end_ms: int) -> Iterator[_Sum]:
    r = t.rollup.c
    key = (r.meter, r.deployment, r.plan_version, r.tier)
    query = sa.select(*key, sa.func.sum(r.quantity)).where(
        r.bucket_ms >= start_ms, r.bucket_ms < end_ms, *_about(r, limit)
    )
    for meter, deployment, plan, tier, quantity in connection.execute(query.group_by(*key)):
        yield (meter, deployment, plan or None, tier), int(quantity)


def _about(columns: Any, limit: Limit) -> list[sa.ColumnElement[bool]]:
    """Usage that matches every subject that a limit names."""
    named = {
        "tenant_id": limit.tenant, "project_id": limit.project, "key_id": limit.key,
        "deployment": limit.model,
    }  # fmt: skip
    return [columns[name] == value for name, value in named.items() if value is not None]
