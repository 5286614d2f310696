"""The training loop: from prepared arrays, a network and options to the best network found.

Knows torch and the job it reports to; knows no dataset, preparation, export or metric of its
own. The same options on the same arrays give bit-identical weights on one machine, also when
the process was killed or paused in between, in the middle of an epoch too, and went on from
its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meuse.core.ports import JobContext, Metric
from meuse.train import checkpoint, losses, optimizers, schedules, selection, trouble
from meuse.train.batches import FULL, Arrays, Batches, tensor_of
from meuse.train.machine import Machine, run_digest
from meuse.train.options import LoopOptions
from meuse.train.reports import Reporter
from meuse.train.seeds import derive
from meuse.train.selection import Monitor

__all__ = ["Arrays", "Objective", "Trained", "run", "scores_of"]

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(features of a batch, the network's outputs [n, k], its targets) → the mean loss of its rows."""

_TABLE_ROWS = 8192
_OTHER_ROWS = 512  # images and texts: what layers keep of a row is far larger than the row


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run found; the network given to `run` holds the weights of `best_epoch`.

    Epochs count from 1. `figures` are those of the best epoch on validation, by the metric's
    names and `loss`; `history` has one mapping per epoch: `train_loss`, `learning_rate` and
    `validation_*`. `precision` and `threads` are what was used.
    """

    best_epoch: int
    epochs: int
    figures: Mapping[str, float]
    history: tuple[Mapping[str, float], ...]
    stopped_early: bool
    precision: str
    threads: int


@dataclass(slots=True)
class _Run:
    """One run in progress: everything the loop's steps share."""

    job: JobContext
    options: LoopOptions
    network: nn.Module
    machine: Machine
    optimizer: torch.optim.Optimizer
    loss: losses.LossFunction
    objective: Objective | None
    plain_loss: losses.LossFunction
    batches: Batches
    accumulate: int
    validation: Arrays
    metric: Metric
    monitor: Monitor
    progress: checkpoint.Progress
    reporter: Reporter

    @property
    def updates_per_epoch(self) -> int:
        return -(-len(self.batches) // self.accumulate)


def run(
    job: JobContext,
    network: nn.Module,
    train: Arrays,
    validation: Arrays,
    task: str,
    options: LoopOptions,
    metric: Metric,
    digest: str,
    objective: Objective | None = None,
) -> Trained:
    """Train `network` on `train`; keep the epoch that is best on `validation`.

    After every epoch the job hears the training loss and the validation figures. A checkpoint
    replaces `job.checkpoint` every `checkpoint_seconds`, at the end, and when the job is to
    pause (then `Paused` is raised); a run that finds its own (same `digest`, options and
    machine) goes on from it. `metric` takes the network's scores [n, k]. A network that has
    `adapt(x)` is shown the training features before the first step. `task` is classification,
    multilabel or regression.

    `objective` replaces the training loss, its class weights included, and nothing else: what is
    best is found on `validation` as without it. Then the training targets may be of any shape,
    one row per example, such as [label | scores of a teacher]. `digest` must name it. What it
    trains itself (a projection) has to be a part of `network`, and so of its checkpoint.

    Raises `invalid_field` (`learning_rate`) when training diverges, `invalid_data` (`data`)
    when the data has values that are no numbers, `too_large` (`batch_size`) when memory does
    not suffice, and `invalid_field` for options that do not fit the task.
    """
    with trouble.memory_told(options.batch_size):
        state = _start(job, network, train, validation, task, options, metric, digest, objective)
        progress = state.progress
        while progress.epoch < options.epochs and not progress.stopped_early:
            loss = _train_epoch(state)
            _finish_epoch(state, loss)
        trouble.check_end(progress.history, progress.first_loss, options.rate)
        state.reporter.keep()
    network.load_state_dict(progress.best)
    network.eval()
    return Trained(
        progress.best_epoch,
        progress.epoch,
        MappingProxyType(dict(progress.best_figures)),
        tuple(MappingProxyType(dict(row)) for row in progress.history),
        progress.stopped_early,
        state.machine.precision,
        state.machine.threads,
    )


def scores_of(network: nn.Module, x: NDArray[np.generic]) -> NDArray[np.float32]:
    """The network's outputs for features [n, …] in evaluation mode: logits or values [n, k]."""
    network.eval()
    size = _TABLE_ROWS if x.ndim == 2 and x.dtype == np.float32 else _OTHER_ROWS
    with torch.no_grad():
        rows = tensor_of(x)
        parts = [network(rows[start : start + size]) for start in range(0, len(rows), size)]
        scores: NDArray[np.float32] = torch.cat(parts).float().numpy()
    return scores


def _start(
    job: JobContext,
    network: nn.Module,
    train: Arrays,
    validation: Arrays,
    task: str,
    options: LoopOptions,
    metric: Metric,
    digest: str,
    objective: Objective | None,
) -> _Run:
    loss = options.loss_for(task)
    full = options.optimizer == "gd"
    size = FULL if full else options.batch_size
    batches = Batches(train, size, options.seed, options.augment, shuffle=not full)
    accumulate = len(batches) if full else options.accumulate
    torch.manual_seed(derive(options.seed, "start"))
    adapt = getattr(network, "adapt", None)
    if adapt is not None:
        adapt(train.x)
    machine = Machine.choose(network, batches, options, job.log)
    optimizer = optimizers.make(options, network)
    name = run_digest(digest, options, machine)
    progress, why = checkpoint.read(job.checkpoint, checkpoint.Progress(name), network, optimizer)
    if why:
        job.log(f"starting anew: {why}", level="warning")
    elif progress.epoch or progress.batch:
        middle = f", batch {progress.batch} of {len(batches)}" if progress.batch else ""
        job.log(f"going on after epoch {progress.epoch} of {options.epochs}{middle}")
    weights = None
    if objective is None:
        outputs = _outputs(network, batches)
        weights = losses.class_weights(options.class_weights, train.y, task, outputs)
    reporter = Reporter(job, network, optimizer, progress, options, batches)
    return _Run(
        job=job,
        options=options,
        network=network,
        machine=machine,
        optimizer=optimizer,
        loss=losses.make(loss, task, weights),
        objective=objective,
        plain_loss=losses.make(loss, task),
        batches=batches,
        accumulate=accumulate,
        validation=validation,
        metric=metric,
        monitor=selection.monitor(options.monitor, task, loss.name),
        progress=progress,
        reporter=reporter,
    )


def _outputs(network: nn.Module, batches: Batches) -> int:
    """Scores per row, found by trying two rows."""
    network.eval()
    with torch.no_grad():
        return int(network(batches.sample()).shape[1])


def _train_epoch(run: _Run) -> float:
    """One pass over the training rows, or what is left of it; the mean loss per row."""
    progress, batches = run.progress, run.batches
    if progress.batch == 0:
        torch.manual_seed(derive(run.options.seed, f"epoch:{progress.epoch}"))
        progress.loss_sum = 0.0
    run.network.train()
    group_rows = 0
    for x, y in batches.epoch(progress.epoch, progress.batch):
        number = progress.batch
        first = number % run.accumulate == 0
        if first:
            group_rows = _group_rows(run, number)
            run.optimizer.zero_grad()
        last = (number + 1) % run.accumulate == 0 or number + 1 == len(batches)
        value = _step(run, x, y, len(y) / group_rows)
        if last:
            _update(run, number // run.accumulate)
        progress.batch = number + 1
        progress.loss_sum += value * len(y)
        if last:
            run.reporter.look()
    return progress.loss_sum / batches.rows


def _group_rows(run: _Run, number: int) -> int:
    """Rows of all batches that the next update is made of."""
    end = min(number + run.accumulate, len(run.batches))
    return sum(run.batches.rows_of(n) for n in range(number, end))


def _step(run: _Run, x: Tensor, y: Tensor, share: float) -> float:
    """Add the batch's gradient, weighted by its share of the update; its loss."""
    with run.machine.autocast():
        outputs = run.machine.model(x)
    if run.objective is None:
        loss = run.loss(outputs.float(), y)
    else:
        loss = run.objective(x, outputs.float(), y)
    value = float(loss.detach())
    if not math.isfinite(value):
        where = _where(run, run.progress.batch)
        raise trouble.not_finite(where, run.network, x, y, run.options.rate)
    if share != 1:
        loss = loss * share
    loss.backward()  # type: ignore[no-untyped-call]
    if run.progress.first_loss is None:
        run.progress.first_loss = value
    return value


def _update(run: _Run, number: int) -> None:
    """One step of the optimizer; `number` counts the updates of this epoch."""
    if run.options.clip_norm is not None:
        nn.utils.clip_grad_norm_(run.network.parameters(), run.options.clip_norm)
    rate = _rate(run, number)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()


def _rate(run: _Run, number: int) -> float:
    """The learning rate of an update of the epoch that runs."""
    options, per_epoch = run.options, run.updates_per_epoch
    update, total = run.progress.epoch * per_epoch + number, options.epochs * per_epoch
    return options.rate * schedules.factor(options.plan, update, per_epoch, total)


def _finish_epoch(run: _Run, loss: float) -> None:
    """Judge the epoch, remember the best, report."""
    progress, options = run.progress, run.options
    epoch = progress.epoch + 1
    where = f"epoch {epoch}"
    trouble.check_epoch(where, loss, progress.first_loss, options.rate)
    figures = _figures(run)
    if figures is None:
        raise trouble.bad_figures(where, options.rate)
    selection.judge(progress, run.monitor, figures, epoch, options.early_stopping)
    if progress.best_epoch == epoch:
        progress.best = checkpoint.copy_state(run.network)
    row = {"train_loss": loss, "learning_rate": _rate(run, run.updates_per_epoch - 1)}
    row |= {f"validation_{name}": value for name, value in figures.items()}
    progress.history.append(row)
    progress.epoch, progress.batch = epoch, 0
    run.job.metrics(row, epoch=epoch)
    score = run.monitor.score(figures)
    run.job.log(
        f"epoch {epoch}/{options.epochs}: loss {loss:.4f}, "
        f"validation {run.monitor.name} {score:.4f}"
    )
    if progress.stopped_early:
        run.job.log(f"stopping: no improvement since epoch {progress.anchor_epoch}")
    run.reporter.look()


def _figures(run: _Run) -> dict[str, float] | None:
    """Figures on validation and its loss; None when anything is not a finite number."""
    scores = scores_of(run.network, run.validation.x)
    if not np.isfinite(scores).all():
        return None
    with torch.no_grad():
        y = tensor_of(run.validation.y)
        loss = float(run.plain_loss(torch.from_numpy(scores), y))
    figures = {**run.metric(scores, run.validation.y), "loss": loss}
    return figures if all(map(math.isfinite, figures.values())) else None


def _where(run: _Run, batch: int) -> str:
    step = run.progress.epoch * len(run.batches) + batch + 1
    return f"step {step} (epoch {run.progress.epoch + 1}, batch {batch + 1} of {len(run.batches)})"
