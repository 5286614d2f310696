"""From what a language model found of each line to the record of how good it is.

Knows arrays: no model, no file, no job.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

import numpy as np

from meuse.core.nouns import GENERATION
from meuse.evaluate import bootstrap
from meuse.evaluate.figures import Figures, Floats
from meuse.evaluate.judge import Judged
from meuse.evaluate.record import Evaluation, Rows

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Small letters without punctuation, English articles and superfluous white space. Source:
    the evaluation script of SQuAD, Rajpurkar et al. (2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def chosen(likelihoods: Sequence[float], choices: Sequence[str]) -> tuple[int, int]:
    """Which choice is the likeliest, as it is and by its length in characters without the white
    space around it (`acc` and `acc_norm` of lm-evaluation-harness). Of equal ones the first."""
    lengths = [max(len(choice.strip()), 1) for choice in choices]
    found = np.asarray(likelihoods, np.float64)
    return int(found.argmax()), int((found / lengths).argmax())


def judge(
    columns: dict[str, Floats],
    rows: Rows,
    *,
    engine: str = "",
    seconds: float = 0.0,
    seed: int = 0,
) -> Judged:
    """`columns` are [rows] each: `nats` and `tokens`, hits as `accuracy`, `accuracy_norm` and
    `exact_match`. One row has no interval: nothing can be drawn from it."""
    measured = Figures(lambda weights: _sums(columns, weights), lambda _: {}, 0)
    many = rows.rows > 1
    point = measured.point(rows.rows)
    drawn = bootstrap.samples(measured, rows.rows, seed) if many else {}
    samples = {name: drawn.get(name, np.empty(0)) for name in point}
    evaluation = Evaluation(
        task=GENERATION,
        rows=rows,
        figures=point,
        intervals={k: i for k in point if (i := bootstrap.interval(samples[k])) is not None},
        resamples=max(map(len, samples.values())),
        engine=engine,
        seconds=seconds,
        rows_per_s=rows.rows / seconds if seconds > 0 else None,
        tokens=int(columns["tokens"].sum()) if "tokens" in columns else None,
    )
    return Judged(evaluation, samples)


def _sums(columns: dict[str, Floats], weights: Floats) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    if "nats" in columns:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            mean = (columns["nats"] @ weights) / (columns["tokens"] @ weights)
            found |= {"perplexity": np.exp(mean), "nats_per_token": mean}
    total = weights.sum(axis=0)
    for name in ("accuracy", "accuracy_norm", "exact_match"):
        if name in columns:
            found[name] = columns[name] @ weights / total
    return found
