"""Names of figures of quality: which one judges a task, and which way is better.

Standard library only: control decides with them and loads no numpy.
"""

from __future__ import annotations

PRIMARY_FIGURE = {"classification": "accuracy", "multilabel": "micro_f1", "regression": "r2"}
"""The figure that selects and judges a model, by task; higher is better for each."""

LOWER_IS_BETTER = frozenset({"log_loss", "calibration_error", "mae", "mse", "quantile_loss"})


def higher_is_better(figure: str) -> bool:
    return figure not in LOWER_IS_BETTER
