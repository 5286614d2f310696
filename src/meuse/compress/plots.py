"""Plots of a report as SVG: bytes against the metric, bars of latency and of sensitivity. Pure.

Standard library only: control draws them. All text is escaped; no script, nothing loaded. Colours
are CSS variables with defaults, so that a page may set its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from meuse.compress.labels import LETTER, Box, Label, along, around, place

JSON = dict[str, Any]

PARENT, FRONT, BEATEN = "parent", "front", "beaten"
BEFORE, AFTER, OTHER = "before", "after", "ring"
_BEATEN = {BEATEN: "beaten by a smaller one"}
WIDTH, HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 18, 18, 48
NAMES, _MOST_LAYERS = 196, 16
"""Where bars of layers begin, and most layers in a plot."""
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:var(--ink,#303640)}.dim{fill:var(--dim,#667080)}"
    ".small{font-size:10px}"
    ".grid{stroke:var(--line,#d8dce2)}.axis{stroke:var(--dim,#667080)}"
    ".front{fill:var(--bar,#3b76c4)}.beaten{fill:none;stroke:var(--dim,#667080)}"
    ".parent{fill:var(--before,#9aa4b2)}.path{fill:none;stroke:var(--bar,#3b76c4)}"
    ".whisker{stroke:var(--dim,#667080);opacity:.6}.ring{fill:none;stroke:var(--warn,#b4540a);"
    "stroke-width:2}.after{fill:var(--bar,#3b76c4)}.before{fill:var(--before,#9aa4b2)}"
)


@dataclass(frozen=True, slots=True)
class Point:
    """A model in the plot. `kind`: `parent`, `front` or `beaten` (another is smaller and no
    worse); `before`, `after` or `ring` where no front is told of. `interval` of the metric; the
    recommended one has a ring."""

    label: str
    bytes: int
    metric: float
    interval: tuple[float, float] | None = None
    kind: str = FRONT
    recommended: bool = False


def points(report: JSON) -> list[Point]:
    """The parent, and the trials of a search or the one child."""
    search = report.get("auto")
    if search is None:
        sides = ((report["before"], "parent", PARENT), (report["after"], report["method"], FRONT))
        return [_point(*told) for told in sides if told[0].get("metric") is not None]
    found = [Point("parent", search["bytes"], search["metric"], None, PARENT)]
    for trial in search["trials"]:
        if trial.get("metric") is None or trial.get("bytes") is None:
            continue
        kind = FRONT if trial["front"] else BEATEN
        told = Point(trial["name"], trial["bytes"], trial["metric"], None, kind,
                     trial.get("recommended", False))  # fmt: skip
        found.append(told)
    return found


def _point(side: JSON, label: str, kind: str) -> Point:
    interval = side.get("metric_interval")
    bounds = None if interval is None else (float(interval[0]), float(interval[1]))
    return Point(label, side["bytes"], side["metric"], bounds, kind)


def pareto(
    models: Sequence[Point],
    metric: str,
    floor: float | None = None,
    key: Mapping[str, str] = _BEATEN,
) -> str:
    """Bytes (logarithmic) against `metric`; a line through the front, whiskers for intervals,
    a dashed line at `floor`, the least that the goal allows. `key` says what kinds of points
    mean. "" for no model."""
    if not models:
        return ""
    x0, x1 = _log_range([model.bytes for model in models])
    values = [v for m in models for v in (m.metric, *(m.interval or ()))]
    y0, y1 = _range([*values, *([] if floor is None else [floor])])

    def at(size: float, value: float) -> tuple[float, float]:
        x = (math.log10(size) - x0) / (x1 - x0)
        y = (value - y0) / (y1 - y0)
        return _LEFT + x * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - y * (
            HEIGHT - _TOP - _BOTTOM
        )

    out = [_frame(f"{metric} against bytes")]
    for tick in _log_ticks(x0, x1):
        x, _ = at(tick, y0)
        out.append(_line(x, _TOP, x, HEIGHT - _BOTTOM, "grid"))
        out.append(_text(x, HEIGHT - _BOTTOM + 18, size_of(tick), "middle"))
    for tick in _ticks(y0, y1):
        _, y = at(10**x0, tick)
        out.append(_line(_LEFT, y, WIDTH - _RIGHT, y, "grid"))
        out.append(_text(_LEFT - 8, y + 4, f"{tick:.4g}", "end"))
    out.append(_text(WIDTH / 2, HEIGHT - 8, "bytes of the file (log scale)", "middle", "dim"))
    out.append(_text(_LEFT, 12, metric, "start", "dim"))
    taken = [around(*at(m.bytes, m.metric), 11.0 if m.recommended else 6.0) for m in models]
    if floor is not None:
        _, y = at(10**x0, floor)
        out.append(_line(_LEFT, y, WIDTH - _RIGHT, y, "axis", ' stroke-dasharray="5 4"'))
        told = Label("least allowed", WIDTH - _RIGHT - 4, y + 14, "end")
        out.append(_text(told.x, told.y, told.text, told.anchor, "dim"))
        taken.append(told.box)
    front = sorted((m for m in models if m.kind == FRONT), key=lambda m: (m.bytes, m.metric))
    if len(front) > 1:
        spots = [at(m.bytes, m.metric) for m in front]
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        out.append(f'<polyline class="path" points="{places}"/>')
        taken += along(spots)
    out += [_dot(model, at) for model in models]
    few = len(models) <= 4  # more names would cover each other: the table has them
    named = [m for m in models if few or m.recommended or m.kind == PARENT]
    named.sort(key=lambda m: (m.kind == BEATEN, m.kind != PARENT))
    spots = [at(m.bytes, m.metric) for m in named]
    frame = Box(_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)
    names = [_start_of(m.label, 38) for m in named]
    for label in place(zip(names, spots, strict=True), taken, frame):
        out.append(_text(label.x, label.y, label.text, label.anchor))
    return "".join([*out, *_key(models, key), "</svg>"])


def _key(models: Sequence[Point], kinds: Mapping[str, str]) -> list[str]:
    """What the marks mean, of those that need it, from the right end of the top line."""
    marks = [(kind, 4, told) for kind, told in kinds.items() if any(m.kind == kind for m in models)]
    if any(m.recommended for m in models):
        marks.append((OTHER, 5, "recommended"))
    out, x = [], float(WIDTH - _RIGHT)
    for kind, radius, told in marks:
        out.append(_text(x, 12, told, "end", "dim"))
        x -= 1.2 * LETTER * len(told) + 8  # a wider guess: nothing may cover the mark
        out.append(f'<circle class="key {kind}" cx="{x:.1f}" cy="8" r="{radius}"/>')
        x -= 18
    return out


def _dot(model: Point, at: Any) -> str:
    x, y = at(model.bytes, model.metric)
    out = []
    if model.interval is not None:
        low, high = (at(model.bytes, bound)[1] for bound in model.interval)
        out.append(_line(x, low, x, high, "whisker"))
    if model.recommended:
        out.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="10"/>')
    title = f"{model.label}: {model.bytes:,} bytes, {model.metric:.4f}"
    out.append(
        f'<circle class="{escape(model.kind)}" cx="{x:.1f}" cy="{y:.1f}" r="5">'
        f"<title>{_clean(title)}</title></circle>"
    )
    return "".join(out)


def bars(report: JSON) -> str:
    """Latency before and after at both batch sizes, p50 as bars with p95 as a line above. ""
    when nothing was measured."""
    groups = [
        (label, [(side, report[side].get(f"p50_ms{tail}"), report[side].get(f"p95_ms{tail}"))
                 for side in ("before", "after")])
        for label, tail in (("batch 1", ""), ("batch 32", "_batch32"))
    ]  # fmt: skip
    groups = [(label, sides) for label, sides in groups if all(p50 for _, p50, _ in sides)]
    if not groups:
        return ""
    out = [_frame("latency before and after")]
    wide = (WIDTH - _LEFT - _RIGHT) / len(groups)
    base, tall = HEIGHT - _BOTTOM, HEIGHT - _TOP - _BOTTOM - 44
    for index, (label, sides) in enumerate(groups):
        # Each batch size on its own scale: they differ by more than what is compared.
        most = max(value for _, p50, p95 in sides for value in (p50, p95 or 0.0))
        left = _LEFT + index * wide
        for number, (side, p50, p95) in enumerate(sides):
            x, width = left + wide * (0.12 + 0.44 * number), wide * 0.24
            middle, height = x + width / 2, p50 / most * tall
            out.append(
                f'<rect class="{side}" x="{x:.1f}" y="{base - height:.1f}" width="{width:.1f}" '
                f'height="{height:.1f}"><title>{side}: p50 {p50:.4f} ms</title></rect>'
            )
            if p95:
                top = base - p95 / most * tall
                out.append(_line(middle, base - height, middle, top, "axis"))
                out.append(_line(x + width / 3, top, x + width * 2 / 3, top, "axis"))
                out.append(_text(middle, top - 5, f"{p95:.3g}", "middle", "dim"))
            out.append(_text(middle, base + 16, f"{p50:.3g} ms", "middle"))
            out.append(_text(middle, base + 32, side, "middle", "dim"))
        out.append(_text(left + wide * 0.46, 32, label, "middle"))
    out.append(_line(_LEFT, base, WIDTH - _RIGHT, base, "axis"))
    out.append(_text(8, 12, "ms a call: bars to p50, lines to p95", "start", "dim"))
    return "".join([*out, "</svg>"])


def layers(report: JSON) -> str:
    """How far the metric falls when one layer alone is changed: bars for the highest rate and
    for the fewest bits that were tried, of the layers that bear least, in the network's order.
    "" when nothing was measured."""
    found = [row for row in report.get("sensitivity") or () if row.get("drop") is not None]
    kinds = []
    if rates := [row["rate"] for row in found if "rate" in row]:
        kinds.append(("after", "rate", max(rates), f"pruned at a rate of {max(rates):g}"))
    if bits := [row["bits"] for row in found if "bits" in row]:
        kinds.append(("before", "bits", min(bits), f"rounded to {min(bits)} bits"))
    drops = {
        (row["layer"], key): float(row["drop"])
        for row in found for _, key, hardest, _ in kinds if row.get(key) == hardest
    }  # fmt: skip
    names = list(dict.fromkeys(name for name, _ in drops))
    if not names:
        return ""
    worst = {name: max(v for (of, _), v in drops.items() if of == name) for name in names}
    least = sorted(names, key=lambda name: -worst[name])[:_MOST_LAYERS]
    return beside(
        "what each layer alone can bear",
        f"drop of {report.get('metric_name', 'the metric')}",
        [(kind, told) for kind, _, _, told in kinds],
        {name: [drops.get((name, key)) for _, key, _, _ in kinds]
         for name in names if name in least},
    )  # fmt: skip


def beside(
    title: str,
    unit: str,
    kinds: Sequence[tuple[str, str]],
    rows: Mapping[str, Sequence[float | None]],
    sign: str = ".4f",
) -> str:
    """Bars from left to right, for every name one of each kind, told by `sign` (a format).
    `kinds`: (`after` or `before`, what the bar means). "" for no rows."""
    if not rows:
        return ""
    row, top = 12 * len(kinds) + 8, 44
    out = [_frame(title, top + row * len(rows) + 10)]
    for number, (kind, told) in enumerate(kinds):
        x = NAMES + 220 * number
        out.append(f'<rect class="{kind}" x="{x}" y="22" width="10" height="10"/>')
        out.append(_text(x + 15, 31, told, "start", "dim"))
    out.append(_text(NAMES, 12, unit, "start"))
    wide = WIDTH - NAMES - 70
    most = max((v for values in rows.values() for v in values if v is not None), default=0.0)
    most = max(most, 1e-9)
    for index, (name, values) in enumerate(rows.items()):
        y = top + index * row
        out.append(_text(NAMES - 8, y + row / 2 + 2, _ends_of(name, 23), "end"))
        for number, ((kind, _), value) in enumerate(zip(kinds, values, strict=True)):
            if value is None:
                continue
            long, above = max(0.0, value) / most * wide, y + 2 + 12 * number
            out.append(
                f'<rect class="{kind}" x="{NAMES}" y="{above}" width="{long:.1f}" height="10">'
                f"<title>{_clean(name)}: {value:{sign}}</title></rect>"
            )
            out.append(_text(NAMES + long + 5, above + 9, f"{value:{sign}}", "start", "small"))
    out.append(_line(NAMES, top - 2, NAMES, top + row * len(rows) + 2, "axis"))
    return "".join([*out, "</svg>"])


def _start_of(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _ends_of(name: str, most: int) -> str:
    """Both ends of a long name: blocks are told apart by the first, their parts by the last."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def _clean(text: str) -> str:
    """Escaped, and without what XML cannot hold."""
    return escape("".join(sign if sign.isprintable() else " " for sign in text))


def size_of(count: float) -> str:
    """`950 B`, `12 kB`, `3.4 MB`"""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("the last unit takes all")


def _frame(title: str, height: int = HEIGHT) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'width="{WIDTH}" height="{height}"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, more: str = "") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{more}/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_clean(text)}</text>'


def _log_range(sizes: Sequence[int]) -> tuple[float, float]:
    low, high = math.log10(max(1, min(sizes))), math.log10(max(1, *sizes))
    return low - 0.15 - 0.1 * (high - low), high + 0.15 + 0.1 * (high - low)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(0.12 * (high - low), 1e-3 * max(abs(high), 1e-3))
    return low - room, high + room


def _log_ticks(low: float, high: float) -> list[float]:
    """Whole decades, or 1, 2, 5 within them where there are few, or round numbers."""
    steps = (1,) if high - low > 4 else (1, 2, 5)
    every = [k * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for k in steps]
    found = [tick for tick in every if 10**low <= tick <= 10**high]
    return found if len(found) > 2 else [t for t in _ticks(10**low, 10**high) if t > 0]


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough)
    first = math.ceil(low / step)
    return [(first + i) * step for i in range(int((high - first * step) / step) + 1)]
