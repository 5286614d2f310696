"""What a column of text cells is: integers, floats or text; and its cells as such.

The rule. Empty cells, and cells that the caller listed, are missing. A column whose other
cells are all integers (that fit 64 bits) is `integer`, all numbers `float`. In such a column
the usual marks (NA, null, …) are missing too. A column with texts is `string`; but when it has
numbers as well, and its texts are fewer than 1,000 and at most one in a hundred, they are
strays: the column is refused with their places, for a typing error must not silently turn a
number into a category. Knows pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from meuse.data.canonical import null_if
from meuse.data.faults import bad_data

MARKS = ("NA", "N/A", "n/a", "<NA>", "#N/A", "NULL", "null", "None", "?")
"""Missing in a column of numbers, text elsewhere."""
STRAYS_BELOW = 1000
STRAY_SHARE = 0.01
SHOWN = 5
_INTEGER = r"^[+-]?[0-9]+$"
_NUMBER = r"^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:inf|infinity|nan))$"
# What a column has shown so far; a column only climbs. Nothing seen at all counts as float.
EMPTY, INTEGER, FLOAT, TEXT = range(4)
KINDS = ("float", "integer", "float", "string")


@dataclass(slots=True)
class Judge:
    """One column, seen batch by batch."""

    missing: tuple[str, ...] = ()
    kind: int = EMPTY
    numbers: int = 0
    texts: int = 0
    rows: int = 0
    strays: list[tuple[int, str]] = field(default_factory=list)

    @property
    def decided(self) -> bool:
        """Whether nothing that follows can make it anything but text."""
        return self.texts >= STRAYS_BELOW

    def see(self, cells: pa.Array[Any]) -> None:
        start, self.rows = self.rows, self.rows + len(cells)
        if self.decided:
            return
        cells = trimmed(cells, self.missing)
        present = cells.drop_null()
        if len(present) == 0:
            return
        if self.kind <= INTEGER and _all(pc.match_substring_regex(present, _INTEGER)):
            self.kind = max(self.kind, INTEGER if _fits(present) else FLOAT)
            self.numbers += len(present)
            return
        numeric = pc.match_substring_regex(cells, _NUMBER)
        marks = pc.is_in(cells, value_set=pa.array(MARKS, cells.type))
        texts = pc.invert(pc.or_(numeric.fill_null(True), marks))
        count = pc.sum(texts).as_py() or 0
        found = pc.sum(numeric).as_py() or 0
        self.numbers += found
        self.texts += count
        if found:
            integers = pc.sum(pc.match_substring_regex(cells, _INTEGER)).as_py()
            self.kind = max(self.kind, INTEGER if integers == found else FLOAT)
        if count:
            self.kind = TEXT
            for row in pc.indices_nonzero(texts)[: SHOWN - len(self.strays)].to_pylist():
                self.strays.append((start + row, cells[row].as_py()))

    def verdict(self, name: str, place: Callable[[list[int]], list[str]]) -> str:
        """The column's kind. Raises `invalid_data` for strays; `place` says where rows stand."""
        if self.kind == TEXT and self.numbers:
            few = self.texts < STRAYS_BELOW
            if few and self.texts <= STRAY_SHARE * (self.texts + self.numbers):
                raise self._refusal(name, place)
        return KINDS[self.kind]

    def _refusal(self, name: str, place: Callable[[list[int]], list[str]]) -> Exception:
        at = place([row for row, _ in self.strays])
        told = ", ".join(
            f"{where} {_short(text)!r}" for where, (_, text) in zip(at, self.strays, strict=True)
        )
        more = "" if self.texts <= len(self.strays) else ", …"
        first = _short(self.strays[0][1])
        return bad_data(
            f"the column {name!r} holds {self.numbers:,} numbers and {self.texts:,} "
            f"text{'s' if self.texts > 1 else ''}: {told}{more}",
            field=f"columns.{name}",
            hint=f"Mend these cells, say missing={first} if they mean a missing value, or "
            f"kinds={name}:string to take the column as text.",
        )


def trimmed(cells: pa.Array[Any], missing: tuple[str, ...]) -> pa.Array[Any]:
    """Cells without surrounding space; null where empty or listed as missing."""
    cells = pc.utf8_trim_whitespace(cells)
    words = pa.array(["", *missing], cells.type)
    return null_if(cells, pc.is_in(cells, value_set=words))


def convert(
    cells: pa.Array[Any], kind: str, missing: tuple[str, ...], strict: Strict
) -> pa.Array[Any]:
    """Text cells as the canonical array of `kind`; `strict` tells of cells that are not."""
    cells = trimmed(cells, missing)
    if kind == "string":
        return cells
    cells = null_if(cells, pc.is_in(cells, value_set=pa.array(MARKS, cells.type)))
    wanted = _INTEGER if kind == "integer" else _NUMBER
    good = pc.match_substring_regex(cells, wanted).fill_null(True)
    if not _all(good):
        row = pc.index(good, False).as_py()
        strict(row, cells[row].as_py())
    bare = pc.replace_substring_regex(cells, r"^\+", "")
    if kind == "float":
        return nan_to_null(bare.cast(pa.float64()))
    try:
        return bare.cast(pa.int64())
    except pa.ArrowInvalid:
        for row, text in enumerate(bare.to_pylist()):
            if text is not None and not -(2**63) <= int(text) < 2**63:
                strict(row, text)
        raise


Strict = Callable[[int, str], None]


def stray(name: str, kind: str, place: Callable[[list[int]], list[str]], start: int) -> Strict:
    """Refuse a cell that is not of the kind that the caller insisted on."""

    def refuse(row: int, text: str) -> None:
        raise bad_data(
            f"the column {name!r} was said to be {kind}, "
            f"{place([start + row])[0]} has {_short(text)!r}",
            field=f"columns.{name}",
            hint=f"Mend the cell, say missing={_short(text)}, or leave {name} out of kinds.",
        )

    return refuse


def nan_to_null(values: pa.Array[Any]) -> pa.Array[Any]:
    """Floats with null for NaN."""
    return null_if(values, pc.is_nan(values).fill_null(False))


def _fits(integers: pa.Array[Any]) -> bool:
    try:
        pc.replace_substring_regex(integers, r"^\+", "").cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def _all(flags: pa.Array[Any]) -> bool:
    return bool(pc.all(flags, min_count=0).as_py())


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "…"
