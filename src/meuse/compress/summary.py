"""The report of a compression as rows for a table: the terminal and the page show the same.

Knows the report's JSON alone, also that of earlier releases, which has less. Standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meuse.compress.claims import zeros
from meuse.core.nouns import GENERATION

JSON = dict[str, Any]
UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, before and after, as text; `change`: how many times less, or the difference."""

    figure: str
    before: str
    after: str
    change: str


def rows(report: JSON) -> list[Row]:
    """All figures that the report has, the most asked for first."""
    if "after" not in report:
        return []
    old, new = report["before"], report["after"]
    name = report.get("metric_name", "metric")
    if report.get("task") == GENERATION:
        return _of_language(old, new, name)
    found = [
        Row(name, _metric(old), _metric(new), _signed(old.get("metric"), new.get("metric"))),
        _times("bytes", old, new, "bytes"),
        _times("bytes, entropy coded", old, new, "coded_bytes"),
        _times("parameters", old, new, "parameters"),
        _times("parameters × 4 bytes", old, new, "raw_bytes"),
        _times("non-zeros", old, new, "nonzeros"),
        Row("zeros", _share(zeros(old)), _share(zeros(new)), ""),
        _times("most distinct values of a layer", _distinct(old), _distinct(new), "n"),
        _times("multiply-accumulates a row", old, new, "macs"),
        _times("p50 at batch 1, ms", old, new, "p50_ms"),
        _times("p95 at batch 1, ms", old, new, "p95_ms"),
        _times("p50 at batch 32, ms", old, new, "p50_ms_batch32"),
        _times("p95 at batch 32, ms", old, new, "p95_ms_batch32"),
        _times("peak memory at batch 1, bytes", old, new, "memory_bytes"),
        _times("peak memory at batch 32, bytes", old, new, "memory_bytes_batch32"),
    ]
    if report.get("format", 0) < 2:  # one figure for both
        found[-2:] = [_times("peak memory, bytes", old, new, "memory_bytes")]
    # Reports of earlier releases have fewer figures; newer ones say what was not measured.
    if "schema" in report:
        return found
    return [row for row in found if (row.before, row.after) != (UNKNOWN, UNKNOWN)]


def _of_language(old: JSON, new: JSON, name: str) -> list[Row]:
    return [
        Row(name, _metric(old), _metric(new), _signed(old.get("metric"), new.get("metric"))),
        _times("bytes of all files", old, new, "bytes"),
        _times("bytes of weights", old, new, "weight_bytes"),
        _times("parameters", old, new, "parameters"),
        _times("bits a parameter", old, new, "bits"),
        _more("tokens/s, one stream", old, new, "tokens_per_s"),
        _times("ms to the first token", old, new, "first_token_ms"),
    ]


def steps(report: JSON) -> list[list[str]]:
    """[method, options, metric on validation, drop, bytes, seconds] per step, as text."""
    return [
        [
            step["method"],
            options(step.get("config", {})),
            number(step.get("metric")),
            number(step.get("drop")),
            number(step.get("bytes")),
            number(step.get("seconds")),
        ]
        for step in report.get("steps", ())
    ]


STEP_COLUMNS = ("method", "options", "metric (validation)", "drop", "bytes", "seconds")


def trials(report: JSON) -> list[list[str]]:
    """One row per trial of a search: steps, metric on validation, bytes, p50, seconds, rank."""
    return [
        [
            trial["name"],
            number(trial.get("metric")) if not trial.get("error") else trial["error"],
            number(trial.get("bytes")),
            number(trial.get("p50_ms")),
            number(trial.get("seconds")),
            "recommended" if trial.get("recommended") else "front" if trial["front"] else "",
        ]
        for trial in (report.get("auto") or {}).get("trials", ())
    ]


TRIAL_COLUMNS = ("steps", "metric (validation)", "bytes", "p50 ms", "seconds", "rank")


def sensitivity(report: JSON) -> tuple[list[str], list[list[str]]]:
    """(head, rows): per layer how far the metric falls when it alone is changed; no rows where
    that was not measured."""
    found = report.get("sensitivity") or []
    changes = list(dict.fromkeys(changed(row) for row in found))
    drops: dict[str, JSON] = {}
    for row in found:
        drops.setdefault(row["layer"], {})[changed(row)] = row["drop"]
    rows = [[layer, *(number(own.get(c)) for c in changes)] for layer, own in drops.items()]
    return ["layer alone: drop at", *changes], rows


def changed(row: JSON) -> str:
    """`rate 0.8` or `4 bits`"""
    return f"rate {row['rate']:g}" if "rate" in row else f"{row['bits']} bits"


def options(config: JSON) -> str:
    """`rate=0.9, scope=global`; without those that were left open."""
    given = {name: value for name, value in config.items() if value not in (None, {}, [], "")}
    return ", ".join(f"{name}={_text(value)}" for name, value in given.items())


def number(value: Any) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metric(side: JSON) -> str:
    value, interval = side.get("metric"), side.get("metric_interval")
    if value is None or interval is None:
        return number(value)
    return f"{value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})"


def _signed(old: float | None, new: float | None) -> str:
    return "" if old is None or new is None else f"{new - old:+.4f}"


def _times(name: str, old: JSON, new: JSON, key: str) -> Row:
    """How many times less."""
    before, after = old.get(key), new.get(key)
    change = f"{before / after:.2f}×" if before and after else ""
    return Row(name, number(before), number(after), change)


def _more(name: str, old: JSON, new: JSON, key: str) -> Row:
    """How many times more."""
    before, after = old.get(key), new.get(key)
    return Row(name, number(before), number(after), f"{after / before:.2f}×" if before else "")


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"


def _distinct(side: JSON) -> JSON:
    layers = side.get("layers") or []
    known = [layer["distinct"] for layer in layers if layer["distinct"] is not None]
    return {"n": max(known, default=None)}
