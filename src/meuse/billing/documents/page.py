"""A document as one HTML page: no scripts, nothing loaded, all text escaped; prints on A4.

For readers of screens and for screen readers: headings, a table with a caption and heads of rows
and columns, colours that stand apart in light and dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from meuse.billing.documents.content import COLUMNS, Content, Row, content

_STYLE = """
:root{color-scheme:light dark;--ink:#1a1f26;--dim:#59626f;--line:#c9cfd7;--warn:#9a3412}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebef;--dim:#a8b1bd;--line:#414852;--warn:#fdba74}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,"DejaVu Sans",sans-serif;color:var(--ink);max-width:50rem;
margin:2.5rem auto;padding:0 1.25rem}
header{display:flex;flex-wrap:wrap;gap:1rem 3rem;justify-content:space-between}
h1{font-size:1.7rem;line-height:1.2;margin:0}h2{font-size:.85rem;color:var(--dim);margin:0 0 .25rem;
font-weight:600}
address{font-style:normal}.stamp{color:var(--warn);font-weight:700;margin:.25rem 0 0}
.parties{display:flex;flex-wrap:wrap;gap:1.5rem 4rem;margin:2rem 0}.parties>section{flex:1 1 14rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:0}
dt{color:var(--dim)}dd{margin:0}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}
caption{text-align:left;font-weight:600;padding-bottom:.4rem}
th,td{border-bottom:1px solid var(--line);padding:.45rem 0 .45rem 1rem;text-align:right;
vertical-align:top;font-variant-numeric:tabular-nums}
th:first-child{text-align:left;padding-left:0;overflow-wrap:anywhere}
thead th{color:var(--dim);font-weight:600;white-space:nowrap}tbody th{font-weight:400}
small{display:block;color:var(--dim);font-size:.85em}
.sums{margin:1rem 0 0 auto;width:auto;min-width:min(22rem,100%)}.sums th{padding-right:2rem}
.sums tr:last-child>*{font-weight:700;border-bottom:3px double var(--line)}
footer{margin-top:2rem}
@page{size:A4;margin:18mm 16mm}
@media print{:root{--ink:#000;--dim:#444;--line:#999;--warn:#000;color-scheme:light}
body{margin:0;max-width:none;padding:0;font-size:10pt}thead{display:table-header-group}
tr,.sums,footer{break-inside:avoid}.scroll{overflow:visible}}
"""


def page(kind: str, view: Mapping[str, Any]) -> str:
    """The whole document."""
    said = content(kind, view)
    title = f"{said.title} {said.number}".strip()
    stamp = f"<p class=stamp>{escape(said.stamp)}</p>" if said.stamp else ""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<header><div><h1>{escape(title)}</h1>{stamp}</div>{_facts(said.facts)}</header><main>",
        '<div class="parties">',
        _party("From", said.seller),
        _party("To", said.customer),
        "</div>",
        _table(said),
        _sums(said.sums),
        "</main>",
        _notes(said.notes),
        "</body></html>",
    ]
    return "".join(parts)


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"<dl>{told}</dl>"


def _party(heading: str, lines: tuple[str, ...]) -> str:
    if not lines:
        return ""
    name, *rest = (escape(line) for line in lines)
    told = "<br>".join([f"<strong>{name}</strong>", *rest])
    return f"<section><h2>{heading}</h2><address>{told}</address></section>"


def _table(said: Content) -> str:
    if not said.rows:
        return "<p>Nothing was used and nothing is due for this period.</p>"
    heads = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    rows = "".join(_row(row) for row in said.rows)
    return (
        '<div class="scroll"><table><caption>Lines</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(row: Row) -> str:
    details = "".join(f"<small>{escape(text)}</small>" for text in row.details)
    figures = "".join(f"<td>{escape(text)}</td>" for text in (row.quantity, row.price, row.amount))
    return f'<tr><th scope="row">{escape(row.what)}{details}</th>{figures}</tr>'


def _sums(sums: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in sums
    )
    return f'<table class="sums"><caption>Sum</caption><tbody>{rows}</tbody></table>'


def _notes(notes: Iterable[str]) -> str:
    told = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<footer>{told}</footer>" if told else ""
