"""Invoices and credit notes for people: a page, a sheet of lines, a PDF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Made:
    """A document: its bytes, media type, and name as a file."""

    content: bytes
    media: str
    name: str


def render(kind: str, view: dict[str, Any], form: str, font: str = "") -> Made:
    """An invoice or a credit_note (`kind`) as `html`, `csv` or `pdf`; `font` is a TrueType file
    for the PDF. Raises `unavailable` without the library that writes PDF, `conflict` when the
    font lacks letters of it."""
    # Imported when asked for: most ledgers write no PDF all day.
    name = f"{view['number'] or view['id'] or 'preview'}.{form}"
    if form == "csv":
        from meuse.billing.documents.sheet import sheet

        return Made(sheet(kind, view), "text/csv; charset=utf-8", name)
    if form == "pdf":
        from meuse.billing.documents.pdf import pdf

        return Made(pdf(kind, view, font), "application/pdf", name)
    from meuse.billing.documents.page import page

    return Made(page(kind, view).encode(), "text/html; charset=utf-8", name)
