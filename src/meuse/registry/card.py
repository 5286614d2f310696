"""The card of a version: what was measured, in sections, as JSON, Markdown and HTML. Pure.

After Mitchell and others, Model Cards for Model Reporting (2019). Knows records as JSON: the
version, what its job noted (`note`), its evaluations, newest first. Nothing is made up: what
was not measured or not given says so. What users wrote is data: escaped in both renderings.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from meuse.core.clock import to_rfc3339
from meuse.core.errors import invalid
from meuse.core.fields import known
from meuse.core.figures import primary
from meuse.core.nouns import ModelVersion

GIVEN = (
    "licence", "intended_use", "out_of_scope_use", "data_licence", "authors", "contact",
    "citation", "notes",
)  # fmt: skip
"""What only people know; given as `card` with the training."""
MAX_TEXT = 4000
MAX_ROWS = 100
"""Most rows of a table that is shown; the JSON has them all."""
UNKNOWN = "not given"

JSON = dict[str, Any]


def check_given(body: object, field: str = "card") -> dict[str, str]:
    """The fields of a card that people fill in. Raises `invalid_field` at `card.<name>`."""
    if not isinstance(body, Mapping):
        raise invalid(field, "a card is an object", '{"licence": "Apache-2.0", "contact": "…"}')
    known(body, GIVEN, f"{field}.")
    found = {}
    for name, text in body.items():
        if text is None:
            continue
        if not isinstance(text, str) or not text.strip():
            raise invalid(f"{field}.{name}", f"{text!r} is not text")
        if len(text) > MAX_TEXT:
            raise invalid(
                f"{field}.{name}", f"the text has {len(text):,} characters; at most {MAX_TEXT:,}"
            )
        found[name] = text.strip()
    return found


def note(
    *,
    data: JSON | None = None,
    training: JSON | None = None,
    limits: JSON | None = None,
    given: Mapping[str, str] | None = None,
) -> JSON:
    """What a job keeps with its version for the card; every part may be absent.

    `data`: {name, digest, rows, columns: [{name, kind, missing}], target, split: {…},
    split_rows: {train, validation, test}}. `training`: {recipe, options: {…}, epochs,
    best_epoch, seconds, cpu_seconds, energy_joules, energy, attempts} (`jobs.effort`).
    `limits`: {ranges: {column: [low, high]}, values: {column: […]}, missing: "…", tokens: those
    of a text that are looked at}.
    """
    parts = {"data": data, "training": training, "limits": limits}
    kept: JSON = {name: part for name, part in parts.items() if part is not None}
    return kept | ({"given": dict(given)} if given else {})


def compose(
    version: ModelVersion, noted: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]
) -> JSON:
    """The whole card as JSON. `evaluations` are records of this version, newest first."""
    lineage = asdict(version.lineage)
    return {
        "model": version.ref,
        "task": version.task,
        "created": to_rfc3339(version.created_ms),
        "signature": version.signature.to_dict(),
        "artifacts": [asdict(artifact) for artifact in version.artifacts],
        "metrics": version.metrics,
        "data": noted.get("data"),
        "training": noted.get("training"),
        "evaluations": list(evaluations),
        "limits": noted.get("limits"),
        "given": {name: noted.get("given", {}).get(name) for name in GIVEN},
        "lineage": lineage,
    }


# -- sections: what both renderings show ------------------------------------------------------

Table = tuple[list[str], list[list[str]]]
Section = tuple[str, list[str | Table]]


def sections(card: Mapping[str, Any]) -> list[Section]:
    """(title, paragraphs and tables (head, rows)) in the order of reading; plain text."""
    evaluations = card["evaluations"]
    newest = evaluations[0] if evaluations else None
    found: list[Section] = [
        ("Model", [_pairs(_about(card))]),
        (
            "Use and licence",
            [_pairs([(_words(k), v or UNKNOWN) for k, v in card["given"].items()])],
        ),
        ("Data", _data(card["data"])),
        ("Training", _training(card["training"])),
        ("Evaluation", _evaluation(newest, card["metrics"])),
        ("Slices", _slices(newest)),
        ("Calibration", _calibration(newest)),
        ("Limits", _limits(card)),
        ("Lineage", [_pairs([(_words(k), v) for k, v in card["lineage"].items()])]),
    ]
    return [(title, parts) for title, parts in found if parts]


def _about(card: Mapping[str, Any]) -> list[tuple[str, Any]]:
    def told(specs: Sequence[Mapping[str, Any]]) -> str:
        shown = [f"{s['name']} {s['datatype']} {list(s['shape'])}" for s in specs[:MAX_ROWS]]
        return ", ".join(shown) + (", …" if len(specs) > MAX_ROWS else "")

    signature = card["signature"]
    about = [
        ("version", card["model"]),
        ("task", card["task"]),
        ("created", card["created"]),
        ("inputs", told(signature["inputs"])),
        ("outputs", told(signature["outputs"])),
    ]
    files = [
        (f"artifact {a['name']}", f"{a['bytes']:,} bytes, sha256 {a['digest']}")
        for a in card["artifacts"]
    ]
    return about + files


def _data(data: Mapping[str, Any] | None) -> list[str | Table]:
    if not data:
        return ["Nothing is known of the data."]
    columns = data.get("columns", [])
    facts = [(_words(k), v) for k, v in data.items() if k not in ("columns", "split", "split_rows")]
    facts += [(f"split: {_words(k)}", v) for k, v in (data.get("split") or {}).items()]
    facts += [(f"rows of {k}", v) for k, v in (data.get("split_rows") or {}).items()]
    parts: list[str | Table] = [_pairs([*facts, ("columns", len(columns))])]
    rows = [[c["name"], c["kind"], _text(c.get("missing", 0))] for c in columns]
    return [*parts, *_table(["column", "kind", "missing"], rows)]


def _training(training: Mapping[str, Any] | None) -> list[str | Table]:
    if not training:
        return ["Nothing is known of the training."]
    skipped = ("options", "energy_joules", "energy")
    facts = [(_words(k), v) for k, v in training.items() if k not in skipped]
    joules = training.get("energy_joules")
    told = training.get("energy") or "not measured"
    facts.append(("energy", told if joules is None else f"{joules:,.1f} J ({told})"))
    facts += [(_words(k), v) for k, v in training.get("options", {}).items() if v is not None]
    return [_pairs(facts)]


def _evaluation(
    newest: Mapping[str, Any] | None, metrics: Mapping[str, float]
) -> list[str | Table]:
    if newest is None:
        rows = [[name, _text(value)] for name, value in metrics.items()]
        return ["No evaluation is kept; what the job reported:", *_table(["figure", "value"], rows)]
    at = newest["rows"]
    first = primary(newest["task"], newest["figures"])
    names = sorted(newest["figures"], key=lambda name: (name != first, name))
    rows = [
        [name, _text(newest["figures"][name]), _interval(newest["intervals"].get(name))]
        for name in names
    ]
    told = (
        f"On {at['rows']} rows of {at['dataset']} (split: {at['split']}; target: {at['target']}); "
        f"95% intervals by {newest['resamples']} bootstrap resamples."
    )
    parts: list[str | Table] = [told, *_table(["figure", "value", "95% interval"], rows)]
    confusion, classes = newest.get("confusion"), newest.get("classes")
    if confusion and len(confusion) <= 20:
        labels = [_text(c) for c in classes or range(len(confusion))]
        head = ["target \\ predicted", *labels]
        counts = [[label, *map(str, row)] for label, row in zip(labels, confusion, strict=True)]
        parts += _table(head, counts)
    per_label = [
        [_text(e["label"]), _text(e["rows"]), _text(e["f1"]), _text(e["roc_auc"])]
        for e in newest.get("labels", ())
    ]
    return [*parts, *_table(["label", "rows", "F1", "ROC AUC"], per_label)]


def _slices(newest: Mapping[str, Any] | None) -> list[str | Table]:
    if not newest or not newest.get("slices"):
        return []
    rows = [
        [s["column"], s["value"], _text(s["rows"]), _text(s["figure"]), _interval(s["interval"]),
         "small: says little" if s["small"] else ""]
        for s in newest["slices"]
    ]  # fmt: skip
    head = ["column", "value", "rows", newest["slice_figure"], "95% interval", ""]
    return ["The worst first.", *_table(head, rows)]


def _calibration(newest: Mapping[str, Any] | None) -> list[str | Table]:
    if not newest or not newest.get("calibration"):
        return []
    rows = []
    for b in newest["calibration"]:
        told = map(_text, (b["rows"], b["confidence"], b["accuracy"]))
        rows.append([f"{b['low']:.2f} to {b['high']:.2f}", *told])
    return _table(["confidence", "rows", "mean confidence", "share right"], rows)


def _limits(card: Mapping[str, Any]) -> list[str | Table]:
    limits = card["limits"] or {}
    facts: list[tuple[str, Any]] = []
    classes = card["signature"]["classes"]
    if classes:
        facts.append(("classes", f"{_listed(classes)}: no other is ever predicted"))
    facts.append(("missing values", limits.get("missing", "not known")))
    if "tokens" in limits:
        facts.append(("tokens of a text", f"{limits['tokens']}: what follows is cut off"))
    ranges = [
        [name, _text(low), _text(high)] for name, (low, high) in limits.get("ranges", {}).items()
    ]
    values = [[name, _listed(seen)] for name, seen in limits.get("values", {}).items()]
    parts: list[str | Table] = [_pairs(facts)]
    if ranges or values:
        parts.append("What training has seen; outside of it nothing was measured.")
    return [
        *parts,
        *_table(["column", "lowest", "highest"], ranges),
        *_table(["column", "values"], values),
    ]


def _pairs(facts: Sequence[tuple[str, Any]]) -> Table:
    return ["", ""], [[name, _text(value)] for name, value in facts]


def _table(head: list[str], rows: list[list[str]]) -> list[str | Table]:
    """The table, cut at `MAX_ROWS` and saying so; nothing for no rows."""
    if not rows:
        return []
    more = len(rows) - MAX_ROWS
    return [
        (head, rows[:MAX_ROWS]),
        *([f"… and {more} more rows, in the JSON."] if more > 0 else []),
    ]


def _text(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return _listed(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_text(v)}" for k, v in value.items()) or "none"
    return str(value)


def _listed(values: Sequence[Any]) -> str:
    shown = ", ".join(_text(v) for v in values[:MAX_ROWS])
    return shown + (f", … ({len(values)} in all)" if len(values) > MAX_ROWS else "")


def _interval(bounds: Sequence[float] | None) -> str:
    return "unknown" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


# -- renderings -------------------------------------------------------------------------------


def to_markdown(card: Mapping[str, Any]) -> str:
    """GitHub-flavoured Markdown; no text of a user becomes markup."""
    lines = [f"# Model card: {_md(card['model'])}", ""]
    for title, parts in sections(card):
        lines += [f"## {title}", ""]
        for part in parts:
            if isinstance(part, str):
                lines += [_md(part), ""]
                continue
            head, rows = part
            lines.append("| " + " | ".join(_md(cell) for cell in head) + " |")
            lines.append("|" + " --- |" * len(head))
            lines += ["| " + " | ".join(_md(cell) for cell in row) + " |" for row in rows]
            lines.append("")
    return "\n".join(lines)


def _md(text: str) -> str:
    out = " ".join(text.split())
    for sign in ("\\", "|", "`", "*", "_", "[", "]", "#", "~", "!"):
        out = out.replace(sign, f"\\{sign}")
    return out.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0 1rem}"
    "th,td{border:1px solid #ccc;padding:.2rem .6rem;text-align:left;vertical-align:top;"
    "overflow-wrap:anywhere}th{background:#f4f4f4}"
)


def to_html(card: Mapping[str, Any]) -> str:
    """One page without scripts or outside parts; every text is escaped."""
    title = html.escape(f"Model card: {card['model']}")
    out = [
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>", f"<h1>{title}</h1>",
    ]  # fmt: skip
    for heading, parts in sections(card):
        out.append(f"<h2>{html.escape(heading)}</h2>")
        for part in parts:
            out += [f"<p>{html.escape(part)}</p>"] if isinstance(part, str) else _html_table(part)
    return "\n".join([*out, "</body></html>", ""])


def _html_table(table: Table) -> list[str]:
    head, rows = table
    out = ["<table>"]
    if any(head):
        cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
        out.append(f"<tr>{cells}</tr>")
    for first, *rest in rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        out.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    return [*out, "</table>"]
