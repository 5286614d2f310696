"""Which epoch is best, and when to stop: one figure, and whether higher is better.

Knows names of figures; knows no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meuse.core.errors import invalid
from meuse.train.options import EarlyStopping

if TYPE_CHECKING:
    from meuse.train.checkpoint import Progress

_FIRST = {"classification": "accuracy", "multilabel": "loss", "regression": "r2"}
_LOWER = ("loss", "log_loss", "mae", "mse", "rmse", "quantile_loss", "calibration_error")


@dataclass(frozen=True, slots=True)
class Monitor:
    """A figure on validation by name."""

    name: str
    higher: bool

    def score(self, figures: dict[str, float]) -> float:
        """Raises `invalid_field` when the metric has no such figure."""
        if self.name not in figures:
            names = ", ".join(figures)
            raise invalid("monitor", f"there is no figure {self.name!r}", f"Use one of: {names}.")
        return figures[self.name]

    def better(self, score: float, than: float | None, by: float = 0.0) -> bool:
        """Whether `score` beats `than` by more than `by`; anything beats None."""
        return than is None or (score - than if self.higher else than - score) > by


def monitor(name: str, task: str, loss: str) -> Monitor:
    """The figure that the options name. `auto`: the task's first; for a quantile, an absolute
    or a Huber loss that loss itself, because the mean's R² judges something else."""
    if name == "auto":
        name = _FIRST[task] if loss not in ("quantile", "mae", "huber") else "loss"
    return Monitor(name, name not in _LOWER)


def judge(
    progress: Progress,
    monitor: Monitor,
    figures: dict[str, float],
    epoch: int,
    stopping: EarlyStopping | None,
) -> None:
    """Note the epoch if it is the best so far (the first among equals), and whether to stop."""
    score = monitor.score(figures)
    if monitor.better(score, progress.best_score):
        progress.best_score, progress.best_epoch = score, epoch
        progress.best_figures = figures
    if stopping is None:
        return
    if monitor.better(score, progress.anchor_score, stopping.min_delta):
        progress.anchor_score, progress.anchor_epoch = score, epoch
    progress.stopped_early = epoch - progress.anchor_epoch >= stopping.patience
