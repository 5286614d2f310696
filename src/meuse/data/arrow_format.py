"""Tables as Parquet and as Arrow IPC (file, stream, Feather 2).

Knows pyarrow's types and which of our kinds each is: integers, floats and decimals are numbers;
booleans, dates, times and dictionaries of text are text (`true`, ISO 8601); binary columns
hold images when the caller says so. Nested columns are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from meuse.data import judge
from meuse.data.canonical import Batch, Field, Reading
from meuse.data.faults import bad_data, check_names, check_size
from meuse.data.images import Checker
from meuse.data.options import ReadOptions

_ROWS = 16_384
_BUFFER = 1 << 20
_MAPPED = 2 << 30  # the child has 4 GiB of addresses
Tick = Callable[[float], None]
_BROKEN = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)


def parquet(path: Path, options: ReadOptions, tick: Tick) -> Iterator[Reading]:
    """A Parquet file. Raises `invalid_data` (with the column), `too_large`."""
    with _refused("Parquet"):
        # Unbuffered: a writer may have put all rows into one group.
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER)
        metadata = file.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        check_size(sum(g.total_byte_size for g in groups), options.max_bytes)
        schema = file.schema_arrow
        rows = int(metadata.num_rows)
    records = _guarded("Parquet", file.iter_batches(_ROWS))
    yield _reading("Parquet", schema, records, rows, options, tick)


def ipc(path: Path, options: ReadOptions, tick: Tick) -> Iterator[Reading]:
    """An Arrow IPC file, a stream, or Feather version 2."""
    check_size(path.stat().st_size, options.max_bytes)
    with path.open("rb") as start:
        is_file = start.read(6) == b"ARROW1"
    with _refused("Arrow IPC"):
        mapped = path.stat().st_size <= _MAPPED
        source = pa.memory_map(str(path)) if mapped else pa.OSFile(str(path))
        if is_file:
            file = pa.ipc.open_file(source)
            schema, count = file.schema, file.num_record_batches
            records: Iterator[pa.RecordBatch] = (file.get_batch(i) for i in range(count))
        else:
            stream = pa.ipc.open_stream(source)
            schema, records = stream.schema, iter(stream)
    records = _guarded("Arrow IPC", _sliced(records))
    yield _reading("Arrow IPC", schema, records, 0, options, tick)


def _sliced(records: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches that are sound (a file may lie about its offsets) and not too long."""
    for record in records:
        record.validate(full=True)
        for start in range(0, len(record), _ROWS):
            yield record.slice(start, _ROWS)


class _refused:  # noqa: N801
    """What pyarrow raises on a damaged file, as `invalid_data`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, _BROKEN):
            told = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise bad_data(
                f"the file cannot be read as {self._what}: {told}",
                hint="It is damaged, cut short, or of another format.",
            ) from None


def _guarded(what: str, records: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    while True:
        with _refused(what):
            record = next(records, None)
        if record is None:
            return
        yield record


def _reading(
    what: str,
    schema: pa.Schema,
    records: Iterator[pa.RecordBatch],
    rows: int,
    options: ReadOptions,
    tick: Tick,
) -> Reading:
    with _refused(what):
        names = [name.strip() for name in schema.names]
    if not names:
        raise bad_data("the file has no column", field="columns", hint="Write at least one.")
    check_names(names, "columns")
    options.check_columns(names)
    fields = tuple(
        Field(name, options.kinds.get(name) or _kind(name, column.type))
        for name, column in zip(names, schema, strict=True)
    )
    for field, column in zip(fields, schema, strict=True):
        _check(field, column.type)
    checkers = {f.name: Checker() for f in fields if f.kind == "image"}

    def batches() -> Iterator[Batch]:
        done = 0
        for record in records:
            if len(record) == 0:
                continue
            with _refused(what):
                batch = [
                    _column(array, field, options, done, checkers.get(field.name))
                    for array, field in zip(record.columns, fields, strict=True)
                ]
            yield batch
            done += len(record)
            if rows:
                tick(done / rows)

    return Reading(
        fields, batches(), shapes=lambda name: checkers[name].shape if name in checkers else ()
    )


def _kind(name: str, type: pa.DataType) -> str:
    if types.is_dictionary(type):
        return _kind(name, type.value_type)
    if types.is_integer(type):
        return "integer"
    if types.is_floating(type) or types.is_decimal(type) or types.is_null(type):
        return "float"
    if (
        types.is_boolean(type)
        or types.is_date(type)
        or types.is_timestamp(type)
        or types.is_time(type)
        or _is_text(type)
    ):
        return "string"
    if types.is_nested(type):
        raise bad_data(
            f"the column {name!r} is nested ({type})",
            field=f"columns.{name}",
            hint="Flatten it to one column for each value before uploading.",
        )
    hint = "Cast it to a number or to text before uploading."
    if _is_bytes(type):
        hint = f"If it holds encoded images, say kinds={name}:image; else cast it to text."
    raise bad_data(f"the column {name!r} has the type {type}", field=f"columns.{name}", hint=hint)


def _is_text(type: pa.DataType) -> bool:
    return bool(types.is_string(type) or types.is_large_string(type) or types.is_string_view(type))


def _is_bytes(type: pa.DataType) -> bool:
    return bool(
        types.is_binary(type)
        or types.is_large_binary(type)
        or types.is_fixed_size_binary(type)
        or types.is_binary_view(type)
    )


def _check(field: Field, type: pa.DataType) -> None:
    """An override must be possible for the column's type."""
    if field.kind == "image" and not _is_bytes(type):
        raise bad_data(
            f"the column {field.name!r} has the type {type}, which holds no images",
            field=f"kinds.{field.name}",
            hint="Images are encoded files (PNG, JPEG, …) in a binary column.",
        )
    if field.kind != "image":
        _kind(field.name, type)


def _column(
    array: pa.Array[Any], field: Field, options: ReadOptions, start: int, checker: Checker | None
) -> pa.Array[Any]:
    if types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if checker is not None:
        return _images(array, field.name, start, checker)
    if types.is_floating(array.type):
        array = judge.nan_to_null(array.cast(pa.float64()))
    if types.is_decimal(array.type):
        array = array.cast(pa.float64(), safe=False)
    wanted = field.type
    if field.kind != "string" and (types.is_integer(array.type) or types.is_floating(array.type)):
        try:
            return array.cast(wanted, safe=field.kind == "integer")
        except pa.ArrowInvalid as error:
            raise bad_data(
                f"the column {field.name!r} does not fit {field.kind}: {error}",
                field=f"columns.{field.name}",
                hint=f"Say kinds={field.name}:float.",
            ) from None
    if types.is_null(array.type):
        return pa.nulls(len(array), wanted)

    def place(rows: list[int]) -> list[str]:
        return [f"row {row + 1}" for row in rows]

    texts = _texts(array)
    strict = judge.stray(field.name, field.kind, place, start)
    return judge.convert(texts, field.kind, options.missing, strict)


def _texts(array: pa.Array[Any]) -> pa.Array[Any]:
    """Values as text: `true`, 2026-11-24, 2026-11-24T14:18:16 (UTC where there is a zone)."""
    if types.is_timestamp(array.type):
        zone = "Z" if array.type.tz else ""
        if array.type.tz:
            array = array.cast(pa.timestamp(array.type.unit, "UTC"))
        texts = pc.strftime(array, f"%Y-%m-%dT%H:%M:%S{zone}")
        return pc.replace_substring_regex(texts, r"\.0+(Z?)$", r"\1")
    return array.cast(pa.string())


def _images(array: pa.Array[Any], name: str, start: int, checker: Checker) -> pa.Array[Any]:
    values = array.cast(pa.binary())
    for row, value in enumerate(values):
        if value.is_valid:
            checker.check(value.as_py(), f"row {start + row + 1}", f"columns.{name}")
    return values
