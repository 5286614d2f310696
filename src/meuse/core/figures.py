"""Names of figures of quality: which one judges a task, and which way is better.

Standard library only: control decides with them and loads no numpy.
"""

from __future__ import annotations

from collections.abc import Container

PRIMARY_FIGURE = {"classification": "accuracy", "multilabel": "micro_f1", "regression": "r2"}
"""The figure that selects and judges a model of rows, by task; higher is better for each."""

LANGUAGE_FIGURES = ("accuracy", "exact_match", "perplexity")
"""Of language models: the first that was measured counts."""

PER_TOKEN = frozenset({"perplexity", "nats_per_token"})
"""They compare between models that count the same tokens."""

LOWER_IS_BETTER = frozenset(
    {"log_loss", "calibration_error", "mae", "mse", "quantile_loss", *PER_TOKEN}
)


def higher_is_better(figure: str) -> bool:
    return figure not in LOWER_IS_BETTER


def primary(task: str, measured: Container[str]) -> str:
    """The figure that judges a task, of those that were measured."""
    if task in PRIMARY_FIGURE:
        return PRIMARY_FIGURE[task]
    return next((name for name in LANGUAGE_FIGURES if name in measured), LANGUAGE_FIGURES[-1])
