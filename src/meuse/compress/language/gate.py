"""Whether a smaller language model is as little surprised by held-out texts. Pure.

Knows sums over texts; knows no model and no file.
"""

from __future__ import annotations

import numpy as np

from meuse.compress.gate import Scored, Verdict
from meuse.compress.language.spec import LanguageGoal
from meuse.core.errors import Code, MeuseError
from meuse.evaluate import bootstrap
from meuse.evaluate.figures import Figures, Floats
from meuse.evaluate.language.likelihood import Likelihood

LEAST_TOKENS = 256
"""Fewer tokens say nothing of a model."""


def check_texts(tokens: int) -> None:
    """Raises `invalid_data` for texts that are too short together."""
    if tokens < LEAST_TOKENS:
        raise MeuseError(
            Code.INVALID_DATA,
            f"the texts have {tokens:,} tokens to be predicted together; at least "
            f"{LEAST_TOKENS} are needed to judge a model",
            field="data",
            hint="Add lines of text that the model was not trained on.",
        )


def score(found: Likelihood, seed: int = 0) -> Scored:
    """The perplexity, its 95% interval by a bootstrap over texts (None of one text), and its
    resamples; the same texts and seed give the same draws, so that two models are paired."""
    tokens = found.tokens.astype(np.float64)

    def sums(weights: Floats) -> dict[str, Floats]:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return {"perplexity": np.exp((found.nats @ weights) / (tokens @ weights))}

    texts = len(tokens)
    point = float(sums(np.ones((texts, 1)))["perplexity"][0])
    figures = Figures(sums, lambda weights: {}, 0)
    drawn = bootstrap.samples(figures, texts, seed)["perplexity"] if texts > 1 else np.empty(0)
    return Scored("perplexity", point, bootstrap.interval(drawn), texts, drawn)


def judge(before: Scored, after: Scored, goal: LanguageGoal, size: int) -> Verdict:
    """Whether perplexity rose by at most the share that the goal allows, and the files, `size`
    bytes, fit. The drop is that share; its interval is told, it does not decide."""
    if not np.isfinite([before.value, after.value]).all():
        reason = "perplexity cannot be computed: some logits are not finite"
        return Verdict(False, 0.0, None, reason, "goal.max_drop")
    rise = after.value / before.value - 1
    spread = bootstrap.interval(after.samples / before.samples - 1)
    doubt = "unknown, of one text" if spread is None else f"{spread[0]:+.2%} to {spread[1]:+.2%}"
    change = (
        f"perplexity {before.value:.3f} → {after.value:.3f} ({rise:+.2%}, 95% interval {doubt}) "
        f"on {before.rows:,} texts"
    )
    reason = f"{change}; the goal allows a rise of at most {goal.max_drop:.2%}"
    if rise > goal.max_drop + 1e-9:
        return Verdict(False, rise, spread, reason, "goal.max_drop", change)
    if goal.max_bytes is not None and size > goal.max_bytes:
        reason = f"the files have {size:,} bytes; the goal allows {goal.max_bytes:,}"
        return Verdict(False, rise, spread, reason, "goal.max_bytes", change)
    return Verdict(True, rise, spread, reason, None, change)
