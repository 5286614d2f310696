"""The lines of a document as CSV (RFC 4180): one row each, figures as they are kept.

A cell that a spreadsheet would take for a formula gets an apostrophe before it: names are chosen
by tenants. Figures are ours, and stay figures.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "number", "status", "tenant", "currency", "from", "to", "kind", "name", "meter", "model",
    "tier", "plan", "quantity", "per", "unit_price", "exact", "amount",
)  # fmt: skip
CREDIT_COLUMNS = ("number", "tenant", "currency", "invoice", "reason", "net", "tax", "amount")
_FIGURES = frozenset(
    {"quantity", "per", "unit_price", "exact", "amount", "net", "tax", "from", "to"}
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def sheet(kind: str, view: Mapping[str, Any]) -> bytes:
    """UTF-8 with a header; lines end with CR LF."""
    if kind == "credit_note":
        columns: tuple[str, ...] = CREDIT_COLUMNS
        rows = [
            {**view, "invoice": view["invoice"]["number"], "amount": view["total"]},
        ]
    else:
        columns, rows = COLUMNS, [_line(line, view) for line in view["lines"]]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(name, row.get(name)) for name in columns])
    return out.getvalue().encode()


def _line(line: Mapping[str, Any], view: Mapping[str, Any]) -> dict[str, Any]:
    head = {name: view[name] for name in ("number", "status", "tenant", "currency")}
    period: dict[str, Any] = line.get("period") or view["period"]
    return head | dict(line) | period


def _cell(name: str, value: Any) -> str:
    text = "" if value is None else str(value)
    if name not in _FIGURES and text.startswith(_FORMULA):
        return f"'{text}"
    return text
