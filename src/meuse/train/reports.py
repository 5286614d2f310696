"""What a run tells its job while it works, and when it keeps a checkpoint.

Looks at the clock after every update, and does anything a few times a second at most.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from meuse.core.ports import JobContext, Paused
from meuse.train import checkpoint
from meuse.train.batches import Batches
from meuse.train.options import LoopOptions

_EVERY_S = 0.5
SHARE = 0.99
"""The loop's share of a job's progress; the rest is the export's."""


class Reporter:
    """Progress with rate and time left, checkpoints, and the wish to pause."""

    def __init__(
        self,
        job: JobContext,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: checkpoint.Progress,
        options: LoopOptions,
        batches: Batches,
    ) -> None:
        self._job = job
        self._network = network
        self._optimizer = optimizer
        self._progress = progress
        self._options = options
        self._batches = batches
        now = time.monotonic()
        self._began = self._kept = now
        self._next = now + min(_EVERY_S, options.checkpoint_seconds)
        self._began_at = self._rows()

    def look(self) -> None:
        """Report, keep a checkpoint, or pause, each when its time has come.

        Called where the state is whole: after an update, or after an epoch.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + min(_EVERY_S, self._options.checkpoint_seconds)
        self._tell(now)
        paused = self._job.paused()
        if paused or now - self._kept >= self._options.checkpoint_seconds:
            self.keep()
        if paused:
            raise Paused

    def keep(self) -> None:
        """Write the checkpoint now."""
        checkpoint.write(self._job.checkpoint, self._progress, self._network, self._optimizer)
        self._kept = time.monotonic()

    def _tell(self, now: float) -> None:
        done, whole = self._rows(), self._options.epochs * self._batches.rows
        rate = (done - self._began_at) / max(now - self._began, 1e-9)
        left = (whole - done) / rate if rate > 0 else None
        epoch = min(self._progress.epoch + 1, self._options.epochs)
        step = (
            f", batch {self._progress.batch}/{len(self._batches)}" if self._progress.batch else ""
        )
        note = f"epoch {epoch}/{self._options.epochs}{step}"
        self._job.progress(SHARE * done / whole, rate=rate, eta_s=left, note=note)

    def _rows(self) -> int:
        rows = self._progress.epoch * self._batches.rows
        return rows + min(self._progress.batch * self._batches.size, self._batches.rows)
