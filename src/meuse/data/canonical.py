"""The canonical file of a dataset version: Parquet in row groups, compressed by zstd.

Columns are int64, float64, string, or images: `binary` (encoded as they were uploaded) or
`fixed_size_binary` (raw pixels in C order, when the shape is one for all rows). Missing is
null. The schema's metadata carries the columns as JSON, and where rows stand in the upload.
Knows pyarrow; knows nothing of the formats that were uploaded.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from meuse.core.nouns import Column
from meuse.data.faults import bad_data

GROUP_BYTES = 16 << 20
"""A row group is written when it holds this much in memory, or 4 KiB a column if that is more."""
_TYPES = {"integer": pa.int64(), "float": pa.float64(), "string": pa.string()}
Batch = Sequence["pa.Array[Any]"]


@dataclass(frozen=True, slots=True)
class Field:
    """A column to be written; `pixels` (height, width, channels) says that images are raw."""

    name: str
    kind: str
    pixels: tuple[int, int, int] | None = None

    @property
    def type(self) -> pa.DataType:
        if self.kind != "image":
            return _TYPES[self.kind]
        if self.pixels is None:
            return pa.binary()
        height, width, channels = self.pixels
        return pa.binary(height * width * channels)


@dataclass(frozen=True, slots=True)
class Places:
    """Where row i stands in the upload: `unit` and i + the last offset at or before it."""

    unit: str = "row"
    runs: tuple[tuple[int, int], ...] = ((0, 1),)

    def __call__(self, row: int) -> str:
        at = bisect_right(self.runs, (row, 1 << 62)) - 1
        return f"{self.unit} {row + self.runs[at][1]}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader of a format found: fields, and batches with one array for each.

    `shapes` and `places` are asked when all batches have been read. `warnings` tells what
    was accepted but may not be meant.
    """

    fields: tuple[Field, ...]
    batches: Iterable[Batch]
    shapes: Callable[[str], tuple[int, ...]] = lambda name: ()
    places: Callable[[], Places] = Places
    warnings: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Written:
    rows: int
    columns: tuple[Column, ...]


def write(reading: Reading, out: Path) -> Written:
    """Write what was read to `out`. Raises `invalid_data` when there is no row."""
    with _Writer(out, reading.fields) as writer:
        for batch in reading.batches:
            writer.add(batch)
        return writer.finish(reading.shapes, reading.places)


class _Writer:
    """Gathers batches into row groups; memory is one group, whatever the file's size."""

    def __init__(self, out: Path, fields: tuple[Field, ...]) -> None:
        self._fields = fields
        self._schema = pa.schema([pa.field(f.name, f.type) for f in fields])
        self._limit = max(GROUP_BYTES, 4096 * len(fields))
        self._held: list[pa.RecordBatch] = []
        self._bytes = 0
        self._rows = 0
        self._missing = [0] * len(fields)
        texts = [f.name for f in fields if f.kind == "string"]
        self._parquet = pq.ParquetWriter(
            out, self._schema, compression="zstd", compression_level=1, use_dictionary=texts
        )

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._parquet.close()

    def add(self, batch: Batch) -> None:
        record = pa.RecordBatch.from_arrays(list(batch), schema=self._schema)
        for index, array in enumerate(batch):
            self._missing[index] += array.null_count
        self._held.append(record)
        self._rows += len(record)
        self._bytes += record.nbytes
        if self._bytes >= self._limit:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._held, self._schema)
        self._parquet.write_table(table, row_group_size=max(1, len(table)))
        self._held, self._bytes = [], 0

    def finish(
        self, shapes: Callable[[str], tuple[int, ...]], places: Callable[[], Places]
    ) -> Written:
        if self._rows == 0:
            raise bad_data("there is no row", hint="Send at least one row.")
        if self._held:
            self._flush()
        columns = tuple(
            Column(f.name, f.kind, missing, f.pixels or shapes(f.name))
            for f, missing in zip(self._fields, self._missing, strict=True)
        )
        self._parquet.add_key_value_metadata(
            {
                "meuse.columns": json.dumps([asdict(column) for column in columns]),
                "meuse.places": json.dumps(asdict(places())),
            }
        )
        return Written(self._rows, columns)


@dataclass(frozen=True, slots=True)
class Canonical:
    """An open canonical file."""

    file: pq.ParquetFile
    columns: tuple[Column, ...]
    place: Callable[[int], str]

    @property
    def rows(self) -> int:
        return int(self.file.metadata.num_rows)

    def groups(self, names: Sequence[str]) -> Iterable[tuple[int, pa.Table]]:
        """(first row, these columns) of each row group in turn."""
        start = 0
        for index in range(self.file.num_row_groups):
            table = self.file.read_row_group(index, columns=list(names))
            yield start, table
            start += len(table)


def open_table(path: Path) -> Canonical:
    """The canonical file at `path`; only files that `write` made are opened here."""
    file = pq.ParquetFile(path)
    told = file.metadata.metadata or {}
    columns = tuple(
        Column(c["name"], c["kind"], c["missing"], tuple(c["shape"]))
        for c in json.loads(told[b"meuse.columns"])
    )
    at = json.loads(told[b"meuse.places"])
    place = Places(at["unit"], tuple((row, offset) for row, offset in at["runs"]))
    return Canonical(file, columns, place)


def null_if(array: pa.Array[Any], absent: pa.Array[Any]) -> pa.Array[Any]:
    """`array` with null where `absent` is true."""
    return pc.if_else(absent, pa.scalar(None, array.type), array)
