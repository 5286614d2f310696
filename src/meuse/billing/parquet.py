"""Usage records as Parquet files, written and read a few thousand rows at a time.

One column a field and one a meter, so that any tool can read them. Imports pyarrow: for
processes of their own. Knows no database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from meuse.core.nouns import METERS

SHARED = (
    "tenant", "source", "owner", "project", "key", "deployment", "version", "plan_version",
    "tier", "protocol", "status", "lease", "final", "estimated",
)  # fmt: skip
"""In the order in which rows have them."""
SUM_COLUMNS = (
    "tenant", "bucket_ms", "owner", "project", "key", "deployment", "version", "meter", "tier",
    "plan_version",
)  # fmt: skip
"""The key of the rollup."""
_CHUNK = 10_000

Row = tuple[Any, ...]
"""(id, seq, ts_ms, shared fields, quantities by meter)."""

_SCHEMA = pa.schema(
    [("id", pa.binary(16)), ("seq", pa.int32()), ("ts_ms", pa.int64())]
    + [(name, pa.bool_() if name in ("final", "estimated") else pa.string()) for name in SHARED]
    + [(meter, pa.int64()) for meter in METERS]
)
_SUMS = pa.schema(
    [(name, pa.int64() if name == "bucket_ms" else pa.string()) for name in SUM_COLUMNS]
    + [("quantity", pa.int64())]
)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """The records of a part, in their order."""
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        rest = iter(rows)
        while chunk := list(islice(rest, _CHUNK)):
            columns: list[list[Any]] = [
                [row[0] for row in chunk],
                [row[1] for row in chunk],
                [row[2] for row in chunk],
                *([row[3][i] for row in chunk] for i in range(len(SHARED))),
                *([row[4].get(meter) for row in chunk] for meter in METERS),
            ]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))


def read_rows(path: Path) -> Iterator[Row]:
    """The records that `write_rows` wrote, in their order."""
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        for batch in file.iter_batches(_CHUNK):
            columns = [column.to_pylist() for column in batch.columns]
            if "estimated" not in names:  # a part from before that column
                columns.insert(2 + len(SHARED), [False] * batch.num_rows)
            shared = zip(*columns[3 : 3 + len(SHARED)], strict=True)
            meters = zip(*columns[3 + len(SHARED) :], strict=True)
            for id_, seq, ts, one, counts in zip(*columns[:3], shared, meters, strict=True):
                quantities = {m: n for m, n in zip(METERS, counts, strict=True) if n is not None}
                yield id_, seq, ts, one, quantities


def write_sums(path: Path, sums: dict[tuple[Any, ...], int]) -> None:
    """Quantities by the key of the rollup."""
    keys = sorted(sums)
    columns = [[key[i] for key in keys] for i in range(len(SUM_COLUMNS))]
    columns.append([sums[key] for key in keys])
    arrays = [pa.array(c, f.type) for c, f in zip(columns, _SUMS, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=_SUMS), path, compression="zstd")


def read_sums(path: Path) -> dict[tuple[Any, ...], int]:
    columns = [column.to_pylist() for column in pq.read_table(path).columns]
    return {tuple(key): n for *key, n in zip(*columns, strict=True)}


def digest_of(path: Path) -> str:
    """SHA-256 of a file, as blobs are named."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
