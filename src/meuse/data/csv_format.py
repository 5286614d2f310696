"""Tables as CSV, read precisely: RFC 4180 with a header line, UTF-8 with or without a byte order
mark; any one-character delimiter.

Knows the csv module: it names the line and the column of every fault, and is slow.
`csv_stream` reads what is sound. Reads in blocks, so a table of any size needs the memory
of one block. Knows nothing of tasks, targets or splits.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from meuse.data.faults import bad_data, check_names, check_size

_BLOCK_CELLS = 200_000
_BLOCK_CHARACTERS = 4 << 20
MAX_CELL = 16 << 20
"""Longest cell, in characters."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of UTF-8 text."""

    path: Path
    delimiter: str = ","


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows: the line on which each ends, and the cells (stripped) by column."""

    lines: list[int]
    cells: list[list[str]]


def header(source: Source, max_bytes: int) -> list[str]:
    """The column names. Raises `invalid_data` for an empty file or a line without names."""
    size = source.path.stat().st_size
    check_size(size, max_bytes)
    if size == 0:
        raise bad_data("the file is empty", field="line 1", hint="Send a header line and rows.")
    for _, row in _rows(source):
        names = [cell.strip() for cell in row]
        check_names(names, "line 1")
        return names
    raise bad_data("the file holds only blank lines", field="line 1", hint="Send a header line.")


def blocks(source: Source, width: int) -> Iterator[Block]:
    """The rows below the header in blocks; every row has `width` cells, as the header has."""
    limit = max(1, _BLOCK_CELLS // width)
    lines: list[int] = []
    rows: list[list[str]] = []
    characters = 0
    numbered = _rows(source)
    next(numbered)
    for line, row in numbered:
        if len(row) != width:
            raise _uneven(source, width, line, row)
        lines.append(line)
        rows.append(row)
        characters += sum(map(len, row))
        if len(rows) == limit or characters > _BLOCK_CHARACTERS:
            yield _block(lines, rows)
            lines, rows, characters = [], [], 0
    if rows:
        yield _block(lines, rows)


def lines_of(source: Source, width: int, rows: list[int]) -> list[str]:
    """`line 7` for each of these rows (ascending, from 0)."""
    told: list[str] = []
    start = 0
    for block in blocks(source, width):
        while len(told) < len(rows) and rows[len(told)] < start + len(block.lines):
            told.append(f"line {block.lines[rows[len(told)] - start]}")
        if len(told) == len(rows):
            break
        start += len(block.lines)
    return told


def offsets(source: Source, width: int, most: int) -> tuple[tuple[int, int], ...] | None:
    """(row, line - row) wherever the difference changes; None for more than `most` changes."""
    runs: list[tuple[int, int]] = []
    row = 0
    for block in blocks(source, width):
        for line in block.lines:
            if not runs or runs[-1][1] != line - row:
                runs.append((row, line - row))
                if len(runs) > most:
                    return None
            row += 1
    return tuple(runs)


def _uneven(source: Source, width: int, line: int, row: list[str]) -> Exception:
    hint = "Give every line as many fields as the header; quote text that has commas."
    if width == 1 and source.delimiter == ",":
        hint = "If fields are separated by another mark, say so: delimiter=; or delimiter=tab."
    return bad_data(
        f"the header has {width} field{'s' if width > 1 else ''}, this line has {len(row)}",
        field=f"line {line}",
        hint=hint,
    )


def _block(lines: list[int], rows: list[list[str]]) -> Block:
    return Block(lines, [[cell.strip() for cell in column] for column in zip(*rows, strict=True)])


def _rows(source: Source) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not blank, the header included."""
    csv.field_size_limit(MAX_CELL)
    with source.path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True, delimiter=source.delimiter)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except UnicodeDecodeError:
            raise_not_text(source.path, "utf-8")
        except csv.Error as error:
            raise bad_data(
                f"this is not CSV: {error}",
                field=f"line {reader.line_num}",
                hint="Separate fields by "
                + {",": "commas", "\t": "tabs"}.get(source.delimiter, repr(source.delimiter))
                + '; close every quote; write a quote in text as "".',
            ) from None


def raise_not_text(path: Path, encoding: str) -> NoReturn:
    """Name the first line that is not UTF-8; the reader itself knows only its buffer."""
    with path.open("rb") as file:
        number = 1
        for number, line in enumerate(file, 1):  # noqa: B007
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                break
    raise bad_data(
        "the text is not UTF-8",
        field=f"line {number}",
        hint="Save the file as UTF-8 (in a spreadsheet: CSV UTF-8), or name its encoding: "
        "encoding=latin-1, encoding=utf-16, …",
    )
