"""Tables as JSON lines: one object a line; its keys name the columns.

Knows msgspec's JSON decoder. Values are numbers, texts, true and false (kept as text) and null; a
key that a line lacks is missing there. Read twice, in blocks: for the kinds, then the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from meuse.data import judge
from meuse.data.canonical import Batch, Field, Places, Reading
from meuse.data.faults import bad_data, check_names, check_size
from meuse.data.judge import Judge
from meuse.data.options import ReadOptions
from meuse.data.text_input import utf8

_BLOCK_LINES = 10_000
_BLOCK_BYTES = 4 << 20
MAX_LINE = 64 << 20
_HINT = 'Every line is one object: {"age": 41, "city": "Delft"}.'


@dataclass(frozen=True, slots=True)
class Block:
    """Objects and the lines that they stand on; `at` is how many bytes have been read."""

    lines: list[int]
    rows: list[dict[str, Any]]
    at: int


def readings(path: Path, options: ReadOptions, scratch: Path, tick: Any) -> Iterator[Reading]:
    """The one way to read the file. Raises `invalid_data` with the line, `too_large`."""
    check_size(path.stat().st_size, options.max_bytes)
    text = utf8(path, options.encoding, scratch, options.max_bytes)
    size = max(1, text.stat().st_size)
    names: dict[str, Judge] = {}
    regular = True
    last = 0
    total = 0
    for block in blocks(text):
        _see(block, names, options, total)
        regular = regular and block.lines[-1] - total == len(block.lines) and last == total
        total, last = total + len(block.lines), block.lines[-1]
        tick(0.5 * block.at / size)
    if total == 0:
        raise bad_data("the file is empty", field="line 1", hint=_HINT)
    check_names(list(names), "line 1")
    options.check_columns(list(names))

    def place(rows: list[int]) -> list[str]:
        return lines_of(text, rows)

    kinds = {
        name: options.kinds.get(name) or column.verdict(name, place)
        for name, column in names.items()
    }
    fields = tuple(Field(name, kind) for name, kind in kinds.items())
    places = Places("line", ((0, 1),)) if regular else Places()

    def batches() -> Iterator[Batch]:
        start = 0
        for block in blocks(text):
            yield [
                _column(block, f, options, judge.stray(f.name, f.kind, place, start))
                for f in fields
            ]
            start += len(block.rows)
            tick(0.5 + 0.5 * block.at / size)

    yield Reading(fields, batches(), places=lambda: places)


def blocks(path: Path) -> Iterator[Block]:
    """The objects of the file; blank lines are passed over."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    block = Block([], [], 0)
    at = start = number = 0
    with path.open("rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        while line := file.readline(MAX_LINE + 1):
            number += 1
            at += len(line)
            if len(line) > MAX_LINE:
                raise bad_data(
                    f"the line has more than {MAX_LINE:,} bytes", field=f"line {number}", hint=_HINT
                )
            if line.isspace():
                continue
            try:
                block.rows.append(decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise _broken(number, error) from None
            block.lines.append(number)
            if len(block.rows) >= _BLOCK_LINES or at - start > _BLOCK_BYTES:
                yield Block(block.lines, block.rows, at)
                block, start = Block([], [], 0), at
    if block.rows:
        yield Block(block.lines, block.rows, at)


def lines_of(path: Path, rows: list[int]) -> list[str]:
    """`line 7` for each of these rows (ascending, from 0)."""
    told: list[str] = []
    start = 0
    for block in blocks(path):
        while len(told) < len(rows) and rows[len(told)] < start + len(block.lines):
            told.append(f"line {block.lines[rows[len(told)] - start]}")
        start += len(block.lines)
    return told


def _broken(line: int, error: Exception) -> Exception:
    if isinstance(error, UnicodeDecodeError) or "utf-8" in str(error).lower():
        return bad_data(
            "the text is not UTF-8",
            field=f"line {line}",
            hint="Save the file as UTF-8, or name its encoding: encoding=latin-1, …",
        )
    return bad_data(f"this is not a JSON object: {error}", field=f"line {line}", hint=_HINT)


def _see(block: Block, names: dict[str, Judge], options: ReadOptions, start: int) -> None:
    seen: dict[str, None] = {}
    for row in block.rows:
        seen.update(dict.fromkeys(row))
    for name in seen:
        if name not in names:
            names[name] = Judge(options.missing, rows=start)
    for name, column in names.items():
        column.see(_cells(block, name, options.missing))


def _cells(block: Block, name: str, missing: tuple[str, ...]) -> pa.Array[Any]:
    """The column's values as text. A text that looks like a number stays a number's text: JSON
    writers that quote numbers are common."""
    cells: list[str | None] = []
    for line, row in zip(block.lines, block.rows, strict=True):
        value = row.get(name)
        if value is None or isinstance(value, str):
            cells.append(value)
        elif isinstance(value, bool):
            cells.append("true" if value else "false")
        elif isinstance(value, int | float):
            cells.append(repr(value))
        else:
            raise bad_data(
                f"the column {name!r} holds {'a list' if isinstance(value, list) else 'an object'} "
                f"at line {line}",
                field=f"columns.{name}",
                hint="Flatten it: one key for each value; several labels as one text, a|b.",
            )
    return pa.array(cells, pa.string())


def _column(
    block: Block, field: Field, options: ReadOptions, strict: judge.Strict
) -> pa.Array[Any]:
    return judge.convert(
        _cells(block, field.name, options.missing), field.kind, options.missing, strict
    )
