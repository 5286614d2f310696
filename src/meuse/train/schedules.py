"""Learning rate schedules: pure functions of the number of the update.

A schedule has no state, so a resumed run needs its position only. Knows no torch.
"""

from __future__ import annotations

import math

from meuse.train.options import Schedule

_START = 1 / 25  # of the highest rate; as torch.optim.lr_scheduler.OneCycleLR has them
_END = _START / 1e4


def factor(schedule: Schedule, update: int, per_epoch: int, total: int) -> float:
    """The share of the highest learning rate at `update` (0 … total - 1).

    `per_epoch` updates make an epoch. one_cycle: Smith and Topin, arXiv:1708.07120, with
    cosine annealing; cosine without restarts: Loshchilov and Hutter, arXiv:1608.03983.
    """
    if schedule.name == "one_cycle":
        return _one_cycle(schedule.rise, update, total)
    warmup = round(schedule.warmup_epochs * per_epoch)
    if update < warmup:
        return (update + 1) / warmup
    if schedule.name == "step":
        return float(schedule.factor ** (update // per_epoch // schedule.step_epochs))
    if schedule.name == "cosine":
        done = (update - warmup) / max(1, total - 1 - warmup)
        return _between(1.0, schedule.final, done)
    return 1.0


def _one_cycle(rise: float, update: int, total: int) -> float:
    top = rise * total - 1
    if update <= top:
        return _between(_START, 1.0, update / top if top > 0 else 1.0)
    return _between(1.0, _END, (update - max(0.0, top)) / max(1.0, total - 1 - max(0.0, top)))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
