"""Plots beside the report of a compression benchmark, in the style of a job's own. Pure.

A part's rows carry what a job's report says of both sides (`sides`); of the libraries' part there
are pairs instead.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from meuse.compress import plots
from meuse.compress.plots import AFTER, BEFORE, OTHER, Point

Figures = dict[str, Any]
TITLES = {"pareto": "bytes against the metric", "latency": "latency"}
_TIMES = ("p50_ms", "p95_ms", "p50_ms_batch32", "p95_ms_batch32")


def sides(report: Figures, *, timed: bool = True) -> Figures:
    """What plots show of a job's report: {metric_name, before, after}, each side with metric,
    bytes and, if it is `timed`, milliseconds."""
    kept = ("metric", "metric_interval", "bytes", *(_TIMES if timed else ()))
    told = {side: {k: report[side].get(k) for k in kept} for side in ("before", "after")}
    return {"metric_name": report["metric_name"], **told}


def drawn(body: Figures) -> dict[str, str]:
    """SVGs of all parts that were measured, by the names of their files."""
    files = {}
    for part, found in body["figures"].items():
        for kind, svg in of_part(found).items():
            files[f"{body['date']}-compression-{part}-{kind}.svg"] = svg
    return files


def of_part(found: object) -> dict[str, str]:
    """The plots of a part's figures, by kind (`TITLES`); none of what was skipped."""
    if not isinstance(found, dict):
        return {}
    if "pairs" in found:
        made = {"pareto": _pairs(found), "latency": _times(found["pairs"])}
    else:
        reports = [row["report"] for row in found.get("seeds", ()) if "report" in row]
        made = {"pareto": _seeds(reports), "latency": plots.bars(_mean(reports))}
    return {kind: svg for kind, svg in made.items() if svg}


def links(body: Figures, part: str) -> list[str]:
    """Lines of Markdown that show the plots of a part."""
    lines = []
    for kind in of_part(body["figures"].get(part)):
        name = f"{body['date']}-compression-{part}-{kind}.svg"
        lines += [f"![{part}: {TITLES[kind]}]({name})", ""]
    return lines


def _seeds(reports: Sequence[Figures]) -> str:
    """Base and child of every seed."""
    models = []
    for seed, report in enumerate(reports):
        for side, kind, told in (("before", BEFORE, "base"), ("after", AFTER, "compressed")):
            found = report[side]
            interval = found.get("metric_interval")
            models.append(
                Point(
                    f"{told}, seed {seed}",
                    found["bytes"],
                    found["metric"],
                    None if interval is None else (interval[0], interval[1]),
                    kind,
                )
            )
    metric = reports[0]["metric_name"] if reports else ""
    return plots.pareto(models, metric, key={AFTER: "compressed", BEFORE: "base"})


def _mean(reports: Sequence[Figures]) -> Figures:
    """The mean over seeds of what was measured for all of them."""
    means: Figures = {"before": {}, "after": {}}
    for side, found in means.items():
        for name in _TIMES:
            values = [report[side].get(name) for report in reports]
            if values and None not in values:
                found[name] = statistics.mean(values)
    return means


def _pairs(found: Figures) -> str:
    """Bases, and both sides of every pair."""
    models = [
        Point(f"base {recipe}", base["bytes"], base["metric"], None, BEFORE)
        for recipe, base in found["bases"].items()
    ]
    for row in found["pairs"]:
        models.append(Point(row["peer"], row["peer_bytes"], row["peer_metric"], None, OTHER))
        models.append(Point(row["method"], row["bytes"], row["metric"], None, AFTER))
    key = {AFTER: "ours", OTHER: "the library's", BEFORE: "base"}
    return plots.pareto(models, "accuracy", key=key)


def _times(pairs: Sequence[Figures]) -> str:
    kinds = ((AFTER, "ours"), (BEFORE, "the library's"))
    rows = {row["method"]: (row["p50_ms"], row["peer_p50_ms"]) for row in pairs}
    return plots.beside("latency beside libraries", "p50 of a row, ms", kinds, rows, ".3f")
