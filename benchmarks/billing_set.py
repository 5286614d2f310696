"""The benchmark set of the notes, made the same each time: 30 days, 100 tenants, 1,000 keys, 20
models, 10 million records, each Zipf-distributed.

Only what the records add up to is made, by numpy: the rollup and the sums by day, put straight
into an empty database. Half of the models are language models (five meters), half take rows
(three).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.clock import BUCKET_MS
from meuse.store.database import Database

DAYS, TENANTS, KEYS, MODELS, RECORDS = 30, 100, 1_000, 20, 10_000_000
START = 1_793_491_200_000  # 2026-11-01T00:00:00Z
END = START + DAYS * 86_400_000
BUCKETS = DAYS * 96
KEYS_EACH = KEYS // TENANTS
TEXT = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "compute_ms")
ROWS = ("requests", "rows", "compute_ms")
_INDEXES = {"usage_rollup_bucket": "bucket_ms", "usage_rollup_owner": "owner_id, bucket_ms"}
_SEED = 2026
_CHUNK = 20_000
_DAY_MS = 86_400_000
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cells:
    """Distinct (tenant, bucket, key, model) in the order of the table, with sums of each column
    of `quantities` (requests, then four kinds of amounts)."""

    tenant: Ints
    bucket: Ints
    key: Ints
    model: Ints
    sums: Ints  # [cells, 5]


def _zipf(rng: np.random.Generator, ranks: int, size: int) -> Ints:
    """Ranks from 0, each with a chance of 1 / (rank + 1)."""
    chances = 1 / np.arange(1, ranks + 1)
    edges = np.cumsum(chances / chances.sum())
    return np.searchsorted(edges, rng.random(size), side="right").clip(0, ranks - 1)


def cells(records: int = RECORDS) -> Cells:
    """The set. Uses 1.5 GB for ten million."""
    rng = np.random.default_rng(_SEED)
    tenant = _zipf(rng, TENANTS, records)
    key = _zipf(rng, KEYS_EACH, records)
    model = _zipf(rng, MODELS, records)
    hours = 1 + 0.8 * np.sin((np.arange(24) - 9) / 24 * 2 * np.pi)
    edges = np.cumsum(np.repeat(hours, 4) / (hours.sum() * 4))
    quarter = np.searchsorted(edges, rng.random(records), side="right").clip(0, 95)
    bucket = rng.integers(0, DAYS, records) * 96 + quarter
    code = ((tenant * BUCKETS + bucket) * KEYS_EACH + key) * MODELS + model
    order = np.argsort(code, kind="stable")
    code = code[order]
    begins = np.flatnonzero(np.concatenate(([True], code[1:] != code[:-1])))
    amounts = [np.ones(records, np.int64)]
    for mean in (600, 120, 250, 40):
        amounts.append(rng.geometric(1 / mean, records).astype(np.int64))
    sums = np.stack([np.add.reduceat(a[order], begins) for a in amounts], axis=1)
    code = code[begins]
    code, model = np.divmod(code, MODELS)
    code, key = np.divmod(code, KEYS_EACH)
    tenant, bucket = np.divmod(code, BUCKETS)
    return Cells(tenant, bucket, key, model, sums)


def meters_of(model: int) -> tuple[tuple[str, int], ...]:
    """(meter, column of the sums) of a model."""
    names = TEXT if model % 2 == 0 else ROWS
    return tuple(zip(names, range(5), strict=False))


def tenant_name(rank: int) -> str:
    return f"tenant-{rank:03d}"


def rows_of(found: Cells) -> Iterator[tuple[Any, ...]]:
    """Rows of the rollup."""
    meters = [meters_of(model) for model in range(MODELS)]
    columns = (found.tenant, found.bucket, found.key, found.model)
    for at in range(0, len(found.tenant), _CHUNK):
        part = [column[at : at + _CHUNK].tolist() for column in columns]
        sums = found.sums[at : at + _CHUNK].tolist()
        for tenant, bucket, key, model, amounts in zip(*part, sums, strict=True):
            name = tenant_name(tenant)
            head = (
                name, START + bucket * BUCKET_MS, "acme", "default",
                f"k{tenant * KEYS_EACH + key:015d}", f"acme/model-{model:02d}",
                f"model-{model:02d}:1",
            )  # fmt: skip
            for meter, column in meters[model]:
                yield (*head, meter, "standard", "basic:1", amounts[column])


def load(database: Database, records: int) -> dict[str, Any]:
    """Fill an empty, migrated database: {records, rollup_rows, daily_rows, seconds}."""
    begun = time.monotonic()
    rows, days = 0, dict[tuple[Any, ...], tuple[int, int]]()

    def counted() -> Iterator[tuple[Any, ...]]:
        nonlocal rows
        for row in rows_of(cells(records)):
            tenant, bucket, owner, project, _, model, _, meter, tier, plan, n = row
            day = (tenant, bucket - bucket % _DAY_MS, owner, project, model, meter, tier, plan)
            first, sum_ = days.get(day, (bucket, 0))
            days[day] = (min(first, bucket), sum_ + n)
            rows += 1
            yield row

    with database.write() as connection:
        for name in _INDEXES:  # made anew afterwards: rows come in the order of the key alone
            connection.exec_driver_sql(f"DROP INDEX {name}")
        _insert(connection, "usage_rollup", 11, counted())
        for name, columns in _INDEXES.items():
            connection.exec_driver_sql(f"CREATE INDEX {name} ON usage_rollup ({columns})")
        _insert(connection, "usage_daily", 10, ((*key, *n) for key, n in sorted(days.items())))
    with database.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    return {
        "records": records,
        "rollup_rows": rows,
        "daily_rows": len(days),
        "seconds": round(time.monotonic() - begun, 1),
    }


def _insert(connection: Any, table: str, columns: int, rows: Iterator[tuple[Any, ...]]) -> None:
    driver = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * columns)
        driver.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        return
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
