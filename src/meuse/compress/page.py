"""The report of a compression as one HTML page: no scripts, nothing loaded, all text escaped.

Knows the report's JSON alone. Standard library only: control shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from meuse.compress import plots, summary
from meuse.compress.claims import claims

JSON = dict[str, Any]
MAX_ROWS = 200
_STYLE = """
:root{color-scheme:light dark;--ink:#22262c;--line:#d8dce2;--dim:#667080;--bar:#3b76c4;
--before:#a7afba;--warn:#b4540a;--good:#2b7a3d}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--line:#3a4048;--dim:#9aa4b2;--bar:#6ba3ee;
--before:#6a7280;--warn:#f0a050;--good:#6cc482}}
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--warn)}
table{border-collapse:collapse}th{text-align:left;font-weight:600;color:var(--dim)}
td,th{border-bottom:1px solid var(--line);padding:.35rem 1.2rem .35rem 0;vertical-align:top}
td.num,th.num{text-align:right;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}.plots{display:grid;gap:1rem 2rem;align-items:start;
grid-template-columns:repeat(auto-fit,minmax(min(30rem,100%),1fr))}
.plots svg{width:100%;max-width:45rem;height:auto}ul{padding-left:1.2rem}
"""


def page(report: JSON, ref: str) -> str:
    """The whole document; `ref` names the version or the job."""
    title = escape(f"Compression of {report.get('parent') or ref}: {ref}")
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{escape(ref)}</h1>",
        _heading(report),
        _verdict(report.get("verdict")),
        _claims(report),
        _plots(report),
        _figures(report),
        _steps(report),
        _trials(report),
        _sensitivity(report),
        _layers(report),
        _machine(report),
        "</body></html>",
    ]
    return "".join(parts)


def _heading(report: JSON) -> str:
    parent, method = report.get("parent"), report.get("method", "")
    told = f"{method} of {parent}" if parent else method
    return f"<p class=dim>{escape(told)}</p>"


def _verdict(verdict: JSON | None) -> str:
    if verdict is None:
        return ""
    word, kind = ("Passed", "good") if verdict["passed"] else ("Refused", "bad")
    return f"<p><b class={kind}>{word}.</b> {escape(verdict['reason'])}</p>"


def _claims(report: JSON) -> str:
    if (
        "verdict" not in report or "after" not in report
    ):  # of an earlier release, which measured less
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in report.get("claims") or claims(report))
    return f"<h2>What was measured</h2><ul>{lines}</ul>"


def _plots(report: JSON) -> str:
    found = [drawn for name, drawn in drawings(report).items() if drawn and name != "sensitivity"]
    return f"<div class=plots>{''.join(found)}</div>" if found else ""


def drawings(report: JSON) -> dict[str, str]:
    """The plots by name, "" for one without figures."""
    search, allowed = report.get("auto"), (report.get("goal") or {}).get("max_drop")
    if "after" not in report and not search:
        return {}
    base = search["metric"] if search else report["before"].get("metric")
    floor = None if base is None or allowed is None else base - allowed
    name = report.get("metric_name", "metric") + (" (validation)" if search else "")
    drawn = plots.pareto(plots.points(report), name, floor)
    return {
        "pareto": drawn,
        "latency": plots.bars(report) if "after" in report else "",
        "sensitivity": plots.layers(report),
    }


def _figures(report: JSON) -> str:
    rows = [[r.figure, r.before, r.after, r.change] for r in summary.rows(report)]
    if not rows:
        return ""
    uncounted = report["after"].get("uncounted") or {}
    told = ""
    if uncounted:
        names = ", ".join(f"{name} ({count})" for name, count in uncounted.items())
        told = f"<p class=dim>Without the work of {escape(names)}, which is not counted.</p>"
    head = ["", "before", "after", "change"]
    return "<h2>Figures</h2>" + _table(head, rows, numbers=(1, 2, 3)) + told


def _steps(report: JSON) -> str:
    rows = summary.steps(report)
    if not rows:
        return ""
    return "<h2>Steps</h2>" + _table(summary.STEP_COLUMNS, rows, numbers=(2, 3, 4, 5))


def _trials(report: JSON) -> str:
    search = report.get("auto")
    if not search:
        return ""
    ended = f"<p class=dim>{escape(search['ended'])}</p>" if search.get("ended") else ""
    table = _table(summary.TRIAL_COLUMNS, summary.trials(report), numbers=(1, 2, 3, 4))
    return f"<h2>Search</h2>{ended}{table}"


def _sensitivity(report: JSON) -> str:
    head, rows = summary.sensitivity(report)
    if not rows:
        return ""
    told = _table(head, rows, numbers=range(1, len(head)))
    return f"<h2>Sensitivity</h2><div class=plots>{plots.layers(report)}</div>{told}"


def _layers(report: JSON) -> str:
    rows = [
        [
            side,
            layer["name"],
            layer["op"],
            " × ".join(map(str, layer["shape"])),
            f"{layer['values']:,}",
            f"{layer['nonzeros']:,}",
            f"{1 - layer['nonzeros'] / layer['values']:.1%}" if layer["values"] else "",
            summary.number(layer["distinct"]),
            summary.number(layer["bits"]),
        ]
        for side in ("before", "after")
        for layer in report.get(side, {}).get("layers") or ()
    ]
    if not rows:
        return ""
    head = ["", "weight", "operation", "shape", "values", "non-zeros", "zeros", "distinct", "bits"]
    return "<h2>Layers</h2>" + _table(head, rows, numbers=(4, 5, 6, 7, 8))


def _machine(report: JSON) -> str:
    machine = report.get("machine")
    if not machine:
        return ""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    told = (
        f"Measured in the serving engine on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['threads']} thread; {packages}. The two models took turns."
    )
    return f"<p class=dim>{escape(told)}</p>"


def _table(head: Iterable[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    def line(cells: Iterable[str], tag: str) -> str:
        told = (
            f"<{tag}{' class=num' if i in numbers else ''}>{escape(cell)}"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(told)}"

    body = "".join(line(row, "td") for row in rows[:MAX_ROWS])
    more = len(rows) - MAX_ROWS
    rest = f"<p class=dim>… and {more} more, in the JSON.</p>" if more > 0 else ""
    return f"<div class=scroll><table>{line(head, 'th')}{body}</table></div>{rest}"
