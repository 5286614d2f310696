"""What a compression may claim, in sentences, decided from what was measured. Pure.

Knows the report's JSON alone (`docs/compression.md`). Standard library only: control shows them.
"""

from __future__ import annotations

from typing import Any

JSON = dict[str, Any]

FASTER, SLOWER, SAME = "faster", "slower", "same"
MARGIN = 0.03
"""A ratio of latencies counts when its whole interval is at least so far from 1."""
SPARSE = 0.1
"""From this share of zeros on, a model is called sparse: rounding makes a few by itself."""


def pace(ratio: JSON) -> str:
    """`faster`, `slower` or `same`, by the interval of a ratio of latencies {ratio, low, high}."""
    if ratio["high"] < 1 - MARGIN:
        return FASTER
    return SLOWER if ratio["low"] > 1 + MARGIN else SAME


def claims(report: JSON) -> list[str]:
    """Sentences for the report: size, quality, speed, what the zeros and the integers do, and where
    both were counted."""
    said = [_size(report), _quality(report)]
    speeds = report.get("speed") or {}
    said += [_speed(batch, ratio) for batch, ratio in speeds.items()]
    said += [
        f"{step['method']} undid earlier work: {told}."
        for step in report.get("steps", ())
        for told in step.get("lost", ())
    ]
    said += [_sparsity(report), _integers(report), _counted(report)]
    return [line for line in said if line]


def _size(report: JSON) -> str:
    old, new = report["before"]["bytes"], report["after"]["bytes"]
    if new == old:
        return f"The file is as large as before: {new:,} bytes."
    ratio = old / new if new < old else new / old
    word = "smaller" if new < old else "larger"
    return f"The file is {ratio:.2f} times {word}: {old:,} → {new:,} bytes."


def _quality(report: JSON) -> str:
    name, drop, interval = report["metric_name"], report["drop"], report["interval"]
    old, new = report["before"]["metric"], report["after"]["metric"]
    if old is None or new is None:
        return f"{name} cannot be computed: some outputs are not finite."
    moved = "held" if drop == 0 else f"got {'worse' if drop > 0 else 'better'} by {abs(drop):.4f}"
    told = f"{name} {moved} ({old:.4f} → {new:.4f} on {report['rows']['test']:,} test rows"
    if interval is None:
        return f"{told})."
    low, high = interval
    told += f"; 95% interval of the drop {low:.4f} to {high:.4f})."
    if low <= 0 <= high:
        told += " So many rows cannot tell this from no change."
    return told


def _speed(batch: str, ratio: JSON) -> str:
    spread = (
        f"{ratio['ratio']:.2f} times as long, 95% interval {ratio['low']:.2f} to "
        f"{ratio['high']:.2f}"
    )
    word = {FASTER: "Faster", SLOWER: "Slower", SAME: "No faster and no slower"}[pace(ratio)]
    return f"{word} at batch {batch}: a call takes {spread}."


def _sparsity(report: JSON) -> str:
    """Zeros that the method made, and whether any speed can be theirs."""
    old, new = (zeros(report[side]) for side in ("before", "after"))
    if old is None or new is None or new < SPARSE or new < old + SPARSE / 2:
        return ""
    told = f"{new:.1%} of the weights are zero"
    speeds = report.get("speed") or {}
    paces = [pace(ratio) for ratio in speeds.values()]
    if not paces:
        return f"{told}; whether that brings speed was not measured."
    if FASTER not in paces:
        return f"{told}; that brings no speed here: the engine multiplies the zeros too."
    if _bits(report["after"]) < _bits(report["before"]) or _fewer_macs(report):
        return (
            f"{told}; the engine multiplies the zeros too, so the speed comes from "
            f"{'smaller shapes' if _fewer_macs(report) else 'integers'}, not from them."
        )
    if _is_of_source(report):
        return (
            f"{told}; the engine multiplies the zeros too, so the speed comes from the other "
            "format and engine, not from them."
        )
    return f"{told}, and the engine is faster with them."


def _counted(report: JSON) -> str:
    """In which graph, where that is not the file's own."""
    for side in ("before", "after"):
        if report[side].get("parameters", 0) is None:
            return (
                f"Zeros were not counted: of the {report[side]['format']} file {side} compression "
                "no ONNX graph is at hand."
            )
    if not _is_of_source(report):
        return ""
    return (
        "Parameters, zeros and multiply-accumulates after compression were counted in the ONNX "
        f"graph that the {report['after']['format']} file was made of."
    )


def _is_of_source(report: JSON) -> bool:
    return bool(report["after"].get("counted_in") == "source")


def _integers(report: JSON) -> str:
    if _bits(report["after"]) >= min(_bits(report["before"]), 16):
        return ""
    speeds = report.get("speed") or {}
    slow = [batch for batch, ratio in speeds.items() if pace(ratio) == SLOWER]
    if not slow:
        return ""
    batches = " and ".join(slow)
    return (
        f"Integers are slower than floats here at batch {batches}: the layers are too small to "
        "pay for rounding their inputs."
    )


def zeros(side: JSON) -> float | None:
    """The share of parameters that are exactly zero; None where they were not counted."""
    if not side.get("parameters") or side.get("nonzeros") is None:
        return None
    return 1 - float(side["nonzeros"]) / float(side["parameters"])


def _bits(side: JSON) -> float:
    """Of a stored weight on average; 32 where that is not known."""
    layers = [layer for layer in side.get("layers") or [] if layer["bits"] is not None]
    values = sum(layer["values"] for layer in layers)
    return sum(layer["bits"] * layer["values"] for layer in layers) / values if values else 32.0


def _fewer_macs(report: JSON) -> bool:
    old, new = report["before"].get("macs"), report["after"].get("macs")
    return old is not None and new is not None and new < 0.97 * old
