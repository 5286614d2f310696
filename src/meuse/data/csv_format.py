"""Tables as CSV: RFC 4180 with a header line, UTF-8 with or without a byte order mark.

Knows the csv module and numpy; reads a file in blocks, so a table of any allowed size
needs the memory of one block. Knows nothing of tasks, targets or splits.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from meuse.core.nouns import Column
from meuse.data.faults import bad_data, check_names, check_size

_BLOCK_CELLS = 200_000
_KINDS = ("float", "integer", "float", "string")
# What a column has shown so far; a column only climbs. Nothing seen at all counts as float.
_EMPTY, _INTEGER, _FLOAT, _STRING = range(4)


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows: the line on which each ends, and the cells (stripped) by column."""

    lines: list[int]
    cells: list[list[str]]


def header(path: Path, max_bytes: int) -> list[str]:
    """The column names. Raises `invalid_data` for an empty file or a line without names."""
    check_size(path.stat().st_size, max_bytes)
    if path.stat().st_size == 0:
        raise bad_data("the file is empty", field="line 1", hint="Send a header line and rows.")
    for _, row in _rows(path):
        names = [cell.strip() for cell in row]
        check_names(names, "line 1")
        return names
    raise bad_data("the file holds only blank lines", field="line 1", hint="Send a header line.")


def blocks(path: Path, max_bytes: int) -> Iterator[Block]:
    """The rows below the header in blocks; every row has as many cells as the header."""
    width = len(header(path, max_bytes))
    limit = max(1, _BLOCK_CELLS // width)
    lines: list[int] = []
    rows: list[list[str]] = []
    numbered = _rows(path)
    next(numbered)
    for line, row in numbered:
        if len(row) != width:
            raise bad_data(
                f"the header has {width} fields, this line has {len(row)}",
                field=f"line {line}",
                hint="Give every line as many fields as the header; quote text that has commas.",
            )
        lines.append(line)
        rows.append(row)
        if len(rows) == limit:
            yield _block(lines, rows)
            lines, rows = [], []
    if rows:
        yield _block(lines, rows)


def inspect(path: Path, max_bytes: int) -> tuple[int, tuple[Column, ...]]:
    """Rows and columns of a CSV file. Raises `invalid_data`, `too_large`."""
    names = header(path, max_bytes)
    seen = [_EMPTY] * len(names)
    missing = [0] * len(names)
    rows = 0
    for block in blocks(path, max_bytes):
        rows += len(block.lines)
        for index, cells in enumerate(block.cells):
            kind, absent = _judge(cells)
            seen[index] = max(seen[index], kind)
            missing[index] += absent
    if rows == 0:
        raise bad_data("there is a header but no row", field="line 2", hint="Send rows below it.")
    columns = (Column(n, _KINDS[k], m) for n, k, m in zip(names, seen, missing, strict=True))
    return rows, tuple(columns)


def numbers(cells: list[str]) -> NDArray[np.float64]:
    """Cells of a numeric column as float64; an empty cell is NaN."""
    return np.fromiter(map(float, (c or "nan" for c in cells)), np.float64, len(cells))


def _block(lines: list[int], rows: list[list[str]]) -> Block:
    return Block(lines, [[cell.strip() for cell in column] for column in zip(*rows, strict=True)])


def _judge(cells: list[str]) -> tuple[int, int]:
    """(what these cells are, how many are missing)."""
    present = [cell for cell in cells if cell]
    absent = len(cells) - len(present)
    if not present:
        return _EMPTY, absent
    if "_" in "".join(present):  # int("1_0") is Python, not data
        return _STRING, absent
    try:
        for cell in present:
            int(cell)
    except ValueError:
        pass
    else:
        return _INTEGER, absent
    try:
        values = numbers(present)
    except ValueError:
        return _STRING, absent
    return _FLOAT, absent + int(np.isnan(values).sum())


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not blank, the header included."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except UnicodeDecodeError:
            _raise_not_utf8(path)
        except csv.Error as error:
            raise bad_data(
                f"this is not CSV: {error}",
                field=f"line {reader.line_num}",
                hint='Separate fields by commas; close every quote; write a quote in text as "".',
            ) from None


def _raise_not_utf8(path: Path) -> NoReturn:
    """Name the first line that is not UTF-8; the reader itself knows only its buffer."""
    with path.open("rb") as file:
        number = 1
        for number, line in enumerate(file, 1):  # noqa: B007
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                break
    raise bad_data(
        "the text is not UTF-8",
        field=f"line {number}",
        hint="Save the file as UTF-8 (in a spreadsheet: CSV UTF-8).",
    )
