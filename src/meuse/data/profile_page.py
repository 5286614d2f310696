"""A profile as one HTML page: no scripts, nothing loaded, every text of the data escaped.

Knows the profile's JSON alone. Standard library only.
"""

from __future__ import annotations

from html import escape
from typing import Any

FORMAT = 1
"""Of the profile's JSON. It rises when more is said: what older code has made is made again."""
MAX_COLUMNS = 1000
_WIDTH, _HEIGHT = 200, 44
_STYLE = """
:root{color-scheme:light dark;--line:#d8dce2;--dim:#667080;--bar:#3b76c4;--warn:#b4540a}
@media(prefers-color-scheme:dark){:root{--line:#3a4048;--dim:#9aa4b2;--bar:#6ba3ee;--warn:#f0a050}}
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.dim{color:var(--dim)}.num{text-align:right;font-variant-numeric:tabular-nums}
.facts{display:flex;flex-wrap:wrap;gap:.5rem 2.5rem;margin:1rem 0}.facts b{font-size:1.2rem}
table{border-collapse:collapse}.wide{width:100%}th{text-align:left;font-weight:600;color:var(--dim)}
td,th{border-bottom:1px solid var(--line);padding:.4rem 1.2rem .4rem 0;vertical-align:top}
td{overflow-wrap:anywhere}.kind{color:var(--dim);font-size:.85em}.scroll{overflow-x:auto}
li.grave b,td .grave{color:var(--warn)}ul{padding-left:1.2rem}svg{display:block}
rect{fill:var(--bar)}.track{fill:var(--line)}
"""
_GRAVE = frozenset({"leakage", "shared_rows", "constant", "empty", "target"})


def page(profile: dict[str, Any], ref: str) -> str:
    """The whole document; `ref` names the version."""
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>Profile of {escape(ref)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(ref)}</h1>",
        _facts(profile),
        _warnings(profile["warnings"]),
        _target(profile["target"], profile["rows"]),
        _split(profile["split"]),
        _columns(profile),
        "</body></html>",
    ]
    return "".join(parts)


def _facts(profile: dict[str, Any]) -> str:
    rows, found = profile["rows"], profile["duplicates"]
    cells = rows * len(profile["columns"])
    missing = sum(column["missing"] for column in profile["columns"])
    about = "" if found["exact"] else "≈ "
    facts = (
        ("rows", f"{rows:,}"),
        ("columns", f"{len(profile['columns']):,}"),
        ("missing cells", f"{missing:,} ({missing / cells:.1%})"),
        ("duplicate rows", f"{about}{found['rows']:,} ({found['share']:.1%})"),
    )
    told = "".join(f"<div><b>{value}</b><br><span class=dim>{name}</span></div>"
                   for name, value in facts)  # fmt: skip
    sampled = ""
    if profile["sampled_rows"] < rows:
        sampled = (
            f"<p class=dim>Quantiles, histograms and predictors are of a sample of "
            f"{profile['sampled_rows']:,} rows; everything else is of all rows.</p>"
        )
    return f"<div class=facts>{told}</div>{sampled}"


def _warnings(found: list[dict[str, Any]]) -> str:
    if not found:
        return "<h2>Warnings</h2><p>None.</p>"
    lines = []
    for warning in found[:MAX_COLUMNS]:
        grave = " class=grave" if warning["kind"] in _GRAVE else ""
        column = f"<code>{escape(warning['column'])}</code>: " if warning["column"] else ""
        kind = escape(warning["kind"].replace("_", " "))
        lines.append(f"<li{grave}><b>{kind}</b> {column}{escape(warning['message'])}</li>")
    return f"<h2>Warnings</h2><ul>{''.join(lines)}</ul>"


def _target(target: dict[str, Any] | None, rows: int) -> str:
    if target is None:
        return ""
    told = [f"<h2>Target <code>{escape(target['name'])}</code> ({escape(target['task'])})</h2>"]
    if "classes" in target:
        told.append(
            "<div class=scroll><table><tr><th>class<th class=num>rows<th class=num>share<th>"
        )
        told += [_counted(entry) for entry in target["classes"][:30]]
        told.append("</table></div>")
    if target["predicted_by"]:
        told.append(
            "<p class=dim>Features by how well each alone predicts the target "
            "(0: not at all, 1: perfectly):</p><div class=scroll><table>"
        )
        for entry in target["predicted_by"]:
            told.append(
                f"<tr><td>{escape(entry['name'])}<td class=num>{entry['score']:.3f}"
                f"<td>{_bar(entry['score'])}"
            )
        told.append("</table></div>")
    return "".join(told)


def _split(split: dict[str, Any] | None) -> str:
    if split is None:
        return ""
    spec = split["spec"]
    by = escape(f"by {spec['by']}" + (f" of {spec['column']}" if spec.get("column") else ""))
    sizes = ", ".join(f"{name} {count:,}" for name, count in split["rows"].items())
    lines = "".join(
        f"<tr><td>{pair['second']} rows that {pair['first']} has too"
        f"<td class=num>{pair['rows']:,}<td class=num>{pair['share']:.2%}"
        for pair in split["shared"]
    )
    return f"<h2>Split {by}</h2><p>{sizes}</p><div class=scroll><table>{lines}</table></div>"


def _columns(profile: dict[str, Any]) -> str:
    shown = profile["columns"][:MAX_COLUMNS]
    more = ""
    if len(profile["columns"]) > len(shown):
        more = f"<p class=dim>The first {len(shown):,} of {len(profile['columns']):,} columns.</p>"
    lines = "".join(_column(column) for column in shown)
    return (
        f"<h2>Columns</h2>{more}<div class=scroll><table class=wide><tr><th>column"
        f"<th class=num>missing<th class=num>distinct<th>figures<th>values{lines}</table></div>"
    )


def _column(column: dict[str, Any]) -> str:
    about = "" if column["distinct_exact"] else "≈ "
    missing = f"{column['missing']:,}"
    if column["missing"]:
        missing += f"<br><span class=dim>{column['missing_share']:.1%}</span>"
    return (
        f"<tr><td><b>{escape(column['name'])}</b><br><span class=kind>{column['kind']}</span>"
        f"<td class=num>{missing}<td class=num>{about}{column['distinct']:,}"
        f"<td>{_figures(column)}<td>{_picture(column)}"
    )


def _figures(column: dict[str, Any]) -> str:
    if "min" in column:
        told = [f"{_number(column['min'])} … {_number(column['max'])}"]
        told.append(f"mean {_number(column['mean'])} ± {_number(column['std'])}")
        quantiles = column.get("quantiles")
        if quantiles:
            values = " / ".join(_number(quantiles[q]) for q in ("0.25", "0.5", "0.75"))
            told.append(f"quartiles {values}")
        if column["infinite"]:
            told.append(f"<span class=grave>{column['infinite']:,} infinite</span>")
        return "<br>".join(told)
    if "length" in column:
        length = column["length"]
        return (
            f"{length['min']:,} … {length['max']:,} characters, mean {length['mean']:.1f}"
            f"<br>mean {column['words']['mean']:.1f} words"
        )
    if "image" in column:
        image = column["image"]
        if "looked_at" not in image:
            return f"{image['height']} × {image['width']} × {image['channels']} pixels"
        height, width = image["height"], image["width"]
        formats = ", ".join(f"{escape(name)} {n}" for name, n in image["formats"].items())
        return (
            f"{height['min']} … {height['max']} high, {width['min']} … {width['max']} wide, "
            f"{image['channels']} channels<br>{formats}, mean {image['mean_bytes']:,} bytes"
        )
    return ""


def _picture(column: dict[str, Any]) -> str:
    few = column["distinct"] <= 12
    if column.get("histogram") and not (few and column["kind"] == "integer"):
        return _histogram(column["histogram"])
    top = [entry for entry in column.get("top", ()) if entry["count"] > 1][:6]
    if not top:
        return ""
    least = "" if column["top_exact"] else "<span class=dim>at least:</span>"
    return f"{least}<table>{''.join(_counted(entry) for entry in top)}</table>"


def _counted(entry: dict[str, Any]) -> str:
    return (
        f"<tr><td>{escape(str(entry['value']))}<td class=num>{entry['count']:,}"
        f"<td class=num>{entry['share']:.1%}<td>{_bar(entry['share'])}"
    )


def _bar(share: float) -> str:
    width = max(0.0, min(1.0, share)) * 100
    return (
        "<svg width=100 height=10 role=presentation><rect class=track width=100 height=10 />"
        f"<rect width={width:.1f} height=10 /></svg>"
    )


def _histogram(histogram: dict[str, Any]) -> str:
    counts, edges = histogram["counts"], histogram["edges"]
    most, step = max(counts), _WIDTH / len(counts)
    bars = []
    for index, count in enumerate(counts):
        height = count / most * _HEIGHT
        title = f"{_number(edges[index])} … {_number(edges[index + 1])}: {count:,}"
        bars.append(
            f'<rect x="{index * step:.1f}" y="{_HEIGHT - height:.1f}" width="{step - 1:.1f}" '
            f'height="{height:.1f}"><title>{title}</title></rect>'
        )
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" role=img>{"".join(bars)}</svg>'


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.5g}"
