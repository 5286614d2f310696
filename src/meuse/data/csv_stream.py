"""Tables as CSV, read fast: pyarrow's streaming reader, where it may be trusted.

The file is read up to four ways, each tried when the one before it gave up: with the kinds that
its beginning suggests, with the kinds of a pass over all cells, as text cells converted here,
and by the precise reader, which names the line of a fault. Memory is a few blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from meuse.data import csv_format, judge
from meuse.data.canonical import Batch, Field, Places, Reading
from meuse.data.csv_format import Source
from meuse.data.csv_scan import Scan, look
from meuse.data.faults import Retry, bad_data
from meuse.data.judge import EMPTY, KINDS, TEXT, Judge
from meuse.data.options import ReadOptions
from meuse.data.text_input import utf8

_BLOCK = 1 << 20
_RUNS = 10_000
_PRECISE_LINES = 64 << 20
_TYPES = {"integer": pa.int64(), "float": pa.float64(), "string": pa.string()}
Tick = Callable[[float], None]
Cells = Iterator[list["pa.Array[Any]"]]


def readings(
    path: Path, options: ReadOptions, delimiter: str, scratch: Path, tick: Tick
) -> Iterator[Reading]:
    """Ways to read the file, the fastest first. Raises `invalid_data`, `too_large`."""
    text = utf8(path, options.encoding, scratch, options.max_bytes)
    source = Source(text, options.delimiter or delimiter)
    names = csv_format.header(source, options.max_bytes)
    options.check_columns(names)
    for name, kind in options.kinds.items():
        if kind == "image":
            raise bad_data(f"the column {name!r} holds text", field=f"kinds.{name}")
    scan = look(text, source.delimiter)
    yield from _Csv(source, names, options, scan, tick).readings()


@dataclass(frozen=True, slots=True)
class _Csv:
    source: Source
    names: list[str]
    options: ReadOptions
    scan: Scan
    tick: Tick

    def readings(self) -> Iterator[Reading]:
        if self.scan.sound:
            raw = self._raw_names()
            if raw is not None:
                yield from self._fast(raw)
        kinds = self._judged(self._precise)
        yield self._converted(kinds, self._precise)

    def _fast(self, raw: list[str]) -> Iterator[Reading]:
        def texts() -> Cells:
            return self._stream(raw, [pa.string()] * len(raw))

        if not self.scan.hexadecimal:
            guesses = self._guess(texts)
            if guesses is not None:
                yield self._typed(raw, guesses)
        try:
            kinds = self._judged(texts)
        except pa.ArrowInvalid:
            return
        if not self.scan.hexadecimal:
            yield self._typed(raw, kinds)
        yield self._converted(kinds, texts)

    def _raw_names(self) -> list[str] | None:
        """The names as pyarrow reads them; None where it does not read what we read."""
        try:
            with self._open({}) as reader:
                raw: list[str] = reader.schema.names
        except (pa.ArrowInvalid, UnicodeDecodeError):
            return None
        return raw if [name.strip() for name in raw] == self.names else None

    def _open(self, types: dict[str, pa.DataType]) -> csv.CSVStreamingReader:
        return csv.open_csv(
            self.source.path,
            read_options=csv.ReadOptions(block_size=max(_BLOCK, 8 * self._header_bytes())),
            parse_options=csv.ParseOptions(
                delimiter=self.source.delimiter, newlines_in_values=self.scan.quotes
            ),
            convert_options=csv.ConvertOptions(
                column_types=types, null_values=["", *judge.MARKS, *self.options.missing]
            ),
        )

    def _header_bytes(self) -> int:
        return sum(len(name.encode()) + 1 for name in self.names)

    def _stream(self, raw: list[str], types: list[pa.DataType]) -> Cells:
        with self._open(dict(zip(raw, types, strict=True))) as reader:
            for record in reader:
                if len(record):
                    yield record.columns

    def _precise(self) -> Cells:
        for block in csv_format.blocks(self.source, len(self.names)):
            yield [pa.array(cells, pa.string()) for cells in block.cells]

    def _guess(self, texts: Callable[[], Cells]) -> list[str] | None:
        """Kinds by the first block; `null` for a column that is empty there."""
        judges = [Judge(self.options.missing) for _ in self.names]
        try:
            for column, cells in zip(judges, next(texts(), []), strict=True):
                column.see(cells)
        except (pa.ArrowInvalid, ValueError):
            return None
        return [
            self.options.kinds.get(name, "null" if j.kind == EMPTY else KINDS[j.kind])
            for name, j in zip(self.names, judges, strict=True)
        ]

    def _judged(self, texts: Callable[[], Cells]) -> list[str]:
        """Kinds by every cell."""
        judges = [Judge(self.options.missing) for _ in self.names]
        rows = 0
        for batch in texts():
            for name, column, cells in zip(self.names, judges, batch, strict=True):
                if name not in self.options.kinds:
                    column.see(cells)
            rows += len(batch[0])
            self._told(rows, 0.0)
        if rows == 0:
            raise _no_row()
        return [
            self.options.kinds.get(name) or column.verdict(name, self._lines)
            for name, column in zip(self.names, judges, strict=True)
        ]

    def _typed(self, raw: list[str], kinds: list[str]) -> Reading:
        """pyarrow converts; a cell that is not of the kind makes it give up."""
        types = [_TYPES.get(kind, pa.null()) for kind in kinds]
        fields = self._fields(["float" if kind == "null" else kind for kind in kinds])

        def batches() -> Iterator[Batch]:
            watched = [
                (i, Judge(self.options.missing))
                for i, f in enumerate(fields)
                if f.kind == "string" and f.name not in self.options.kinds
            ]
            rows = 0
            try:
                for record in self._stream(raw, types):
                    for index, column in watched:
                        column.see(record[index])
                    yield [
                        _canonical(array, field.kind, self.options.missing)
                        for array, field in zip(record, fields, strict=True)
                    ]
                    rows += len(record[0])
                    self._told(rows, 0.5)
            except pa.ArrowInvalid:
                raise Retry from None
            if rows == 0:
                raise _no_row()
            for index, column in watched:
                if column.kind != TEXT:
                    raise Retry
                column.verdict(fields[index].name, self._lines)

        return self._reading(fields, batches())

    def _converted(self, kinds: list[str], texts: Callable[[], Cells]) -> Reading:
        """Cells come as text and are converted here, by the one rule of `judge`."""
        fields = self._fields(kinds)

        def batches() -> Iterator[Batch]:
            rows = 0
            try:
                for batch in texts():
                    yield [
                        judge.convert(
                            cells,
                            field.kind,
                            self.options.missing,
                            judge.stray(field.name, field.kind, self._lines, rows),
                        )
                        for cells, field in zip(batch, fields, strict=True)
                    ]
                    rows += len(batch[0])
                    self._told(rows, 0.5)
            except pa.ArrowInvalid:
                raise Retry from None

        return self._reading(fields, batches())

    def _fields(self, kinds: list[str]) -> tuple[Field, ...]:
        return tuple(Field(name, kind) for name, kind in zip(self.names, kinds, strict=True))

    def _reading(self, fields: tuple[Field, ...], batches: Iterator[Batch]) -> Reading:
        count = 0

        def counted() -> Iterator[Batch]:
            nonlocal count
            for batch in batches:
                yield batch
                count += len(batch[0])

        return Reading(fields, counted(), places=lambda: self._places(count))

    def _lines(self, rows: list[int]) -> list[str]:
        return csv_format.lines_of(self.source, len(self.names), rows)

    def _places(self, rows: int) -> Places:
        """Line numbers: at once when every row is a line, else by a slow pass if it is short."""
        if self.scan.plain_lines and self.scan.lines == rows + 1:
            return Places("line", ((0, 2),))
        if self.source.path.stat().st_size <= _PRECISE_LINES:
            runs = csv_format.offsets(self.source, len(self.names), _RUNS)
            if runs:
                return Places("line", runs)
        return Places()

    def _told(self, rows: int, start: float) -> None:
        self.tick(start + 0.5 * min(1.0, rows / max(1, self.scan.lines)))


def _canonical(array: pa.Array[Any], kind: str, missing: tuple[str, ...]) -> pa.Array[Any]:
    if kind == "string":
        return judge.trimmed(array, missing)
    if kind == "float":
        return judge.nan_to_null(array.cast(pa.float64()))
    return array


def _no_row() -> Exception:
    return bad_data("there is a header but no row", field="line 2", hint="Send rows below it.")
