"""The training report as a person reads it: Markdown tables of the figures beside it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

Figures = dict[str, Any]


def page(body: Figures) -> str:
    """The whole page of one report."""
    f, machine = body["figures"], body["machine"]
    parts = [
        f"# Training, {body['date']}",
        f"Commit {body['commit']}; {machine['processor']}, {machine['cores']} cores, Python "
        f"{machine['python']}. The run took {f['seconds'] / 60:.1f} minutes; load average before "
        f"it {f['load_before']:.1f}.",
        "## Holds\n\n" + _holds(f["holds"]),
    ]
    sections = (
        ("speed", "Beside a bare torch loop", _speed),
        ("fashion", "Fashion-MNIST", _fashion),
        ("linear", "Linear models", _linear),
        ("visits", "RAND HIE: visits to a doctor", _visits),
    )
    for key, title, write in sections:
        if key in f:
            told = f[key] if isinstance(f[key], str) else write(f[key])
            parts.append(f"## {title}\n\n{told}")
    if "fashion" in f and f["choice"]:
        parts.append(f"## How the settings for Fashion-MNIST were chosen\n\n{_choice(f['choice'])}")
    return "\n\n".join(parts) + "\n"


def _holds(rows: Sequence[Figures]) -> str:
    words = {True: "held", False: "**missed**", None: "not run"}
    return table(
        ("what", "hold", "measured", ""),
        [(r["what"], r["bound"], number(r["measured"]), words[r["met"]]) for r in rows],
    )


def _speed(found: Figures) -> str:
    rows = [
        (
            name,
            f"{f['ratio']:.3f}",
            f"{f['cpu_ratio']:.3f}",
            ", ".join(f"{p['platform']['seconds'] / p['bare']['seconds']:.3f}" for p in f["pairs"]),
            f"{f['largest_difference']:.1e}",
            f["threads"],
        )
        for name, f in found.items()
    ]
    head = ("recipe", "wall time", "CPU time", "pairs", "loss curves differ by", "threads")
    return (
        "Each in a process of its own, on the same model, data, batches, seeds, fused optimizer "
        "and threads; medians over pairs run right after each other. The platform's part keeps "
        "checkpoints and reports through a pipe.\n\n" + table(head, rows)
    )


def _fashion(found: Figures) -> str:
    rows = [
        (
            name,
            f"{f['test_accuracy']:.4f}",
            f"{f['validation_accuracy']:.4f}",
            f"{f['minutes']:.1f}",
            f"{f['parameters']:,}",
            f"{f['best_epoch']}/{len(f['history'])}",
            f"`{json.dumps({**f['config'], **f['options']})}`",
        )
        for name, f in found.items()
    ]
    head = ("recipe", "test", "validation", "minutes", "parameters", "epoch kept", "settings")
    return "54,000 images to train on, 6,000 to choose by, 10,000 to judge once.\n\n" + table(
        head, rows
    )


def _linear(found: Figures) -> str:
    rows = [
        (name, f["figure"], f"{f['mean']:.4f}", ", ".join(f"{s:.4f}" for s in f["folds"]))
        for name, f in found.items()
    ]
    return table(("data", "figure", "mean of five folds", "folds"), rows)


def _visits(found: Figures) -> str:
    rows = [
        (name, f"{mean:.4f}", ", ".join(f"{s:.4f}" for s in found["scores"][name]))
        for name, mean in found["means"].items()
    ]
    return table(("model", "mean R²", "splits"), rows)


def _choice(rows: Sequence[Figures]) -> str:
    found = [
        (
            r["name"],
            f"{statistics.mean(r['validation'].values()):.4f}",
            ", ".join(f"{a:.4f}" for a in r["validation"].values()),
            f"{r['cpu_seconds']:.0f}",
            f"`{json.dumps({**r['config'], **r['options']})}`",
        )
        for r in rows
    ]
    head = ("model", "validation", "seeds", "CPU seconds, busy machine", "settings tried")
    return (
        "By validation rows alone: 6,000 of the 60,000 training images, cut anew by every seed. "
        "Before that, two settings of mlp had been tried with their test accuracies in sight "
        "(0.8895 and 0.8930); neither is among these.\n\n" + table(head, found)
    )


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
