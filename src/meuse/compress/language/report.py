"""What the compression of a language model has measured, as one JSON document of the schema of
all compressions (docs/compression.md), and what may be claimed of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np

from meuse.compress import report
from meuse.compress.gate import Scored, Verdict
from meuse.compress.language.spec import LanguageCompressSpec
from meuse.compress.language.speed import ANSWER, PROMPT, Pace
from meuse.core.nouns import GENERATION

JSON = dict[str, Any]
MARGIN = 0.1
"""A ratio of paces counts from here on: medians of a few rounds say no more."""


@dataclass(frozen=True, slots=True)
class Side:
    """A model before or after: its layout, the bytes of all files and of weights alone, elements
    (0: not known), and what was measured of it."""

    layout: str
    bytes: int
    weight_bytes: int
    parameters: int
    scored: Scored
    pace: Pace

    def to_dict(self) -> JSON:
        value, interval = self.scored.value, self.scored.interval
        return {
            "format": self.layout,
            "bytes": self.bytes,
            "weight_bytes": self.weight_bytes,
            "parameters": self.parameters or None,
            "bits": 8 * self.weight_bytes / self.parameters if self.parameters else None,
            "metric": value if np.isfinite(value) else None,
            "metric_interval": None if interval is None else list(interval),
            "tokens_per_s": self.pace.tokens_per_s,
            "first_token_ms": 1000 * self.pace.first_token_s,
        }


def document(
    spec: LanguageCompressSpec,
    before: Side,
    after: Side,
    verdict: Verdict,
    tokens: int,
    seconds: float,
    threads: int,
    notes: Mapping[str, str],
) -> JSON:
    """The report. `tokens` were predicted of the texts; the step took `seconds`; `notes` say in
    sentences how `before` was judged and measured, by what they are about."""
    step = {k: v for k, v in spec.step.to_dict().items() if k != "method"}
    done = {
        "method": spec.step.method,
        "config": step,
        "metric": after.to_dict()["metric"],
        "drop": verdict.drop,
        "bytes": after.bytes,
        "seconds": seconds,
        "gate": None,
    }
    packages = {name: metadata.version(name) for name in ("nncf", "openvino", "openvino-genai")}
    told: JSON = {
        "schema": report.SCHEMA,
        "format": report.FORMAT,
        "parent": spec.model,
        "task": GENERATION,
        "method": spec.step.method,
        "metric_name": "perplexity",
        "rows": {"test": before.scored.rows},
        "tokens": tokens,
        "before": before.to_dict(),
        "after": after.to_dict(),
        "speed": {},
        "measured_on": {"streams": 1, "prompt_tokens": PROMPT, "answer_tokens": ANSWER},
        "drop": verdict.drop,
        "interval": None if verdict.interval is None else list(verdict.interval),
        "goal": asdict(spec.goal),
        "verdict": {"passed": verdict.passed, "reason": verdict.reason, "field": verdict.field},
        "steps": [done],
        "sensitivity": [],
        "machine": {**report.machine(), "threads": threads, "packages": packages},
        "notes": dict(notes),
    }
    return {**told, "claims": _claims(told, verdict)}


def _claims(told: JSON, verdict: Verdict) -> list[str]:
    before, after = told["before"], told["after"]
    said = [_size(before["bytes"], after["bytes"])]
    if verdict.change:
        doubt = verdict.interval
        unsure = doubt is not None and doubt[0] <= 0 <= doubt[1]
        tail = " So many texts cannot tell this from no change." if unsure else ""
        said.append(f"{verdict.change[0].upper()}{verdict.change[1:]}.{tail}")
    said.append(_pace(after["tokens_per_s"] / before["tokens_per_s"]))
    return [*said, *told["notes"].values()]


def _size(before: int, after: int) -> str:
    ratio, word = (before / after, "smaller") if after <= before else (after / before, "larger")
    return f"All files together are {ratio:.2f} times {word}: {before:,} → {after:,} bytes."


def _pace(ratio: float) -> str:
    if abs(ratio - 1) < MARGIN:
        return "No faster and no slower in the serving engine, one stream."
    word = "faster" if ratio > 1 else "slower"
    return f"{ratio:.2f} times the tokens/s in the serving engine, one stream: {word}."
