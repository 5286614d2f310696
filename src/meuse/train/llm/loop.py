"""The training loop of language models: from examples and a model to the weights kept.

The loss is the mean over the answers' tokens of an update, however they lie in rows. Equal
options on equal examples give bit-identical weights on one machine, also when the process was
killed or paused in between and went on from its checkpoint. Knows no file of a dataset, no
template and no adapter.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from meuse.core.ports import JobContext, Paused
from meuse.train import checkpoint, optimizers, schedules, trouble
from meuse.train.llm import layout
from meuse.train.llm.examples import Example
from meuse.train.llm.model import Trained
from meuse.train.options import LoopOptions
from meuse.train.seeds import derive
from meuse.train.selection import Monitor

SHARE = 0.98
"""The loop's share of a job's progress; the rest writes files."""
LOOK_S = 0.5
REPORTS = 100
"""Training figures are told about so many times in all."""
_MONITOR = Monitor("loss", higher=False)

Figures = dict[str, float]


@dataclass(slots=True)
class Progress(checkpoint.Progress):
    """`batch` counts updates of the epoch that runs, `updates` those of all; `tokens` are those
    trained on so far, padding not counted. `judged` is the update last validated at, to the end of
    the validation, `last` what it gave, `before` what the base gives."""

    updates: int = 0
    tokens: int = 0
    judged: int = -1
    before: Figures = field(default_factory=dict)
    last: Figures = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to train on, and how. `threads` and `precision` are what was chosen."""

    train: Sequence[Example]
    validation: Sequence[Example]
    options: LoopOptions
    max_tokens: int
    packed: bool
    evaluate_every: int
    threads: int
    precision: str
    digest: str

    @property
    def per_update(self) -> int:
        return self.options.batch_size * self.options.accumulate

    @property
    def per_epoch(self) -> int:
        """Updates."""
        return -(-len(self.train) // self.per_update)

    @property
    def total(self) -> int:
        """Updates."""
        return self.options.epochs * self.per_epoch

    @property
    def validations(self) -> int:
        """At most: before the first update, at each epoch's end, and as `evaluate_every` says."""
        if not self.validation:
            return 0
        every = self.evaluate_every
        # Where both fall on one update it is done once.
        extra = self.total // every - self.total // math.lcm(every, self.per_epoch) if every else 0
        return 1 + self.options.epochs + extra

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "bf16":
            return torch.autocast("cpu", torch.bfloat16)
        return contextlib.nullcontext()


@dataclass(slots=True)
class Sum:
    """Losses and right guesses over tokens."""

    loss: float = 0.0
    right: int = 0
    count: int = 0

    def figures(self) -> Figures:
        return {"loss": self.loss / self.count, "accuracy": self.right / self.count}


@dataclass(slots=True)
class _Run:
    job: JobContext
    plan: Plan
    model: nn.Module
    trained: Trained
    optimizer: torch.optim.Optimizer
    progress: Progress
    spent: Callable[[int], None]
    began: float
    began_at: int
    kept: float
    looked: float
    kept_at: tuple[int, int]
    """The state that needs no checkpoint: what it began with, then that of the last one."""

    @property
    def step(self) -> int:
        return self.progress.updates

    @property
    def at(self) -> tuple[int, int]:
        """Names the state between two passes; it stays while a validation runs."""
        return self.progress.updates, self.progress.judged


def run(
    job: JobContext,
    model: nn.Module,
    plan: Plan,
    spent: Callable[[int], None] = lambda tokens: None,
) -> Progress:
    """Train what of `model` requires gradients; it is left with the best weights on validation,
    or the last where there is none. `spent` hears the tokens trained on so far after each update.

    Raises `Paused` once a checkpoint is kept, `invalid_field` (`learning_rate`) when training
    diverges, `too_large` when memory does not suffice.
    """
    torch.set_num_threads(plan.threads)
    trained = Trained(model)
    optimizer = optimizers.make(plan.options, model)
    progress, why = checkpoint.read(job.checkpoint, Progress(plan.digest), trained, optimizer)
    if why:
        job.log(f"starting anew: {why}", level="warning")
    elif progress.updates:
        job.log(f"going on after update {progress.updates} of {plan.total}")
    now = time.monotonic()
    state = _Run(
        job, plan, model, trained, optimizer, progress, spent, now, progress.tokens, now, now,
        (progress.updates, progress.judged),
    )  # fmt: skip
    spent(progress.tokens)
    with trouble.memory_told(plan.options.batch_size):
        if progress.judged < 0:
            _judge(state)
        while progress.epoch < plan.options.epochs and not progress.stopped_early:
            _epoch(state)
            _end_of_epoch(state)
        trouble.check_end(progress.history, progress.first_loss, plan.options.rate)
        _keep(state)
    if progress.best:
        trained.load_state_dict(progress.best)
    model.eval()
    return progress


def _epoch(run: _Run) -> None:
    """The updates of an epoch, or what is left of them."""
    plan, progress = run.plan, run.progress
    if progress.batch == 0:
        torch.manual_seed(derive(plan.options.seed, f"epoch:{progress.epoch}"))
        progress.loss_sum = 0.0
    order = _order(plan, progress.epoch)
    every = plan.evaluate_every
    while progress.batch < plan.per_epoch:
        # Here and not behind the update: a run that was paused meanwhile does it again.
        if every and progress.updates % every == 0 and progress.judged != progress.updates:
            _judge(run)
            _look(run)
        start = progress.batch * plan.per_update
        chosen = [plan.train[i] for i in order[start : start + plan.per_update]]
        found = _update(run, chosen)
        progress.batch += 1
        progress.updates += 1
        progress.tokens += sum(map(len, chosen))
        progress.loss_sum += found.loss
        run.spent(progress.tokens)
        _tell(run, found)
        _look(run)


def _order(plan: Plan, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(derive(plan.options.seed, f"order:{epoch}"))
    found: list[int] = torch.randperm(len(plan.train), generator=generator).tolist()
    return found


def _update(run: _Run, chosen: Sequence[Example]) -> Sum:
    """One step of the optimizer on these examples."""
    plan, options = run.plan, run.plan.options
    run.model.train()
    run.optimizer.zero_grad()
    found, answers = Sum(), sum(example.answers for example in chosen)
    for part in layout.step(chosen, plan.max_tokens, plan.packed):
        with plan.autocast():
            loss = losses(run.model, part, found)
        if not math.isfinite(found.loss):
            raise trouble.diverged(f"update {run.step + 1}", options.rate)
        (loss / answers).backward()  # type: ignore[no-untyped-call]
    if run.progress.first_loss is None:
        run.progress.first_loss = found.loss / found.count
    if options.clip_norm is not None:
        nn.utils.clip_grad_norm_(
            [p for p in run.model.parameters() if p.requires_grad], options.clip_norm
        )
    for group in run.optimizer.param_groups:
        group["lr"] = _rate(plan, run.step)
    run.optimizer.step()
    return found


def _rate(plan: Plan, update: int) -> float:
    factor = schedules.factor(plan.options.plan, update, plan.per_epoch, plan.total)
    return plan.options.rate * factor


def losses(model: nn.Module, rows: layout.Rows, found: Sum) -> Tensor:
    """The summed loss of the answers' tokens, which is added to `found` too. Logits are computed
    where any row has a target, and nowhere else: vocabularies are wide."""
    logits = model(
        input_ids=rows.tokens,
        attention_mask=rows.mask,
        position_ids=rows.positions,
        use_cache=False,
        logits_to_keep=rows.columns,
    ).logits.float()
    targets = rows.targets[:, rows.columns]
    loss = functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=layout.IGNORED, reduction="sum"
    )
    told = targets != layout.IGNORED
    found.loss += float(loss.detach())
    found.right += int(((logits.argmax(-1) == targets) & told).sum())
    found.count += int(told.sum())
    return loss


def judge(model: nn.Module, plan: Plan, look: Callable[[], None] = lambda: None) -> Figures:
    """Mean loss, perplexity and accuracy over the answers' tokens of the validation examples.
    `look` is called before each pass through the model, and may raise."""
    model.eval()
    found = Sum()
    size = plan.options.batch_size
    with torch.no_grad():
        for start in range(0, len(plan.validation), size):
            part = plan.validation[start : start + size]
            for rows in layout.step(part, plan.max_tokens, plan.packed):
                look()
                with plan.autocast():
                    losses(model, rows, found)
    figures = found.figures()
    return {**figures, "perplexity": math.exp(min(figures["loss"], 700.0))}


def _judge(run: _Run) -> None:
    """Validate, report, and remember the weights if they are the best so far. A pause keeps the
    state from before: what goes on validates from the start."""
    plan, progress = run.plan, run.progress
    if not plan.validation:
        progress.judged = progress.updates
        return
    figures = judge(run.model, plan, lambda: _look(run, ": validating"))
    progress.judged = progress.updates
    if not all(map(math.isfinite, figures.values())):
        raise trouble.bad_figures(f"update {progress.updates}", plan.options.rate)
    named = {f"validation_{name}": value for name, value in figures.items()}
    run.job.metrics(named, step=progress.updates, steps=plan.total)
    where = f"update {progress.updates}/{plan.total}" if progress.updates else "before"
    run.job.log(
        f"{where}: validation loss {figures['loss']:.4f}, perplexity {figures['perplexity']:.2f}"
    )
    progress.last = figures
    if not progress.updates:
        progress.before = figures
        return
    if _MONITOR.better(figures["loss"], progress.best_score):
        progress.best_score, progress.best_epoch = figures["loss"], progress.updates
        progress.best_figures = figures
        progress.best = checkpoint.copy_state(run.trained)


def _end_of_epoch(run: _Run) -> None:
    """Validate where that was not done yet, report, and see whether to stop."""
    plan, progress = run.plan, run.progress
    epoch = progress.epoch + 1
    answers = sum(example.answers for example in plan.train)
    row = {"train_loss": progress.loss_sum / answers}
    trouble.check_epoch(f"epoch {epoch}", row["train_loss"], progress.first_loss, plan.options.rate)
    if progress.judged != progress.updates:
        _judge(run)
    stopping = plan.options.early_stopping
    if plan.validation:
        row["validation_loss"] = progress.last["loss"]
        if stopping is not None:
            best = min(progress.last["loss"], progress.best_score or math.inf)
            _stop(progress, best, epoch, stopping.min_delta, stopping.patience)
    progress.history.append(row)
    progress.epoch, progress.batch = epoch, 0
    run.job.metrics(row, epoch=epoch, step=progress.updates, steps=plan.total)
    if progress.stopped_early:
        run.job.log(f"stopping: no improvement since epoch {progress.anchor_epoch}")
    _look(run)


def _stop(progress: Progress, best: float, epoch: int, by: float, patience: int) -> None:
    if _MONITOR.better(best, progress.anchor_score, by):
        progress.anchor_score, progress.anchor_epoch = best, epoch
    progress.stopped_early = epoch - progress.anchor_epoch >= patience


def _tell(run: _Run, found: Sum) -> None:
    """The figures of an update, of one in so many."""
    plan, progress = run.plan, run.progress
    every = max(1, plan.total // REPORTS)
    if progress.updates % every and progress.updates != plan.total:
        return
    now = found.figures()
    figures = {
        "train_loss": now["loss"],
        "train_accuracy": now["accuracy"],
        "learning_rate": _rate(plan, progress.updates - 1),
        "tokens_per_s": _pace(run, time.monotonic()),
        "trained_tokens": float(progress.tokens),
    }
    run.job.metrics(figures, step=progress.updates, steps=plan.total)


def _pace(run: _Run, now: float) -> float:
    return (run.progress.tokens - run.began_at) / max(now - run.began, 1e-9)


def _look(run: _Run, doing: str = "") -> None:
    """Report and keep a checkpoint, each when its time has come; pause as soon as that is asked
    for: what is trained after a budget is spent has to be paid as well. The state is whole."""
    now, options = time.monotonic(), run.plan.options
    is_time = now - run.looked >= min(LOOK_S, options.checkpoint_seconds)
    if not is_time and not run.job.paused():
        return
    run.looked = now
    plan, progress = run.plan, run.progress
    whole = sum(map(len, plan.train)) * options.epochs
    rate = _pace(run, now)
    run.job.progress(
        SHARE * progress.tokens / whole,
        rate=rate or None,
        unit="tokens",
        eta_s=(whole - progress.tokens) / rate if rate > 0 else None,
        note=f"epoch {min(progress.epoch + 1, options.epochs)}/{options.epochs}, "
        f"update {progress.updates}/{plan.total}{doing}",
    )
    paused = run.job.paused()
    is_due = paused or now - run.kept >= options.checkpoint_seconds
    if is_due and run.kept_at != run.at:
        _keep(run)
    if paused:
        raise Paused


def _keep(run: _Run) -> None:
    checkpoint.write(run.job.checkpoint, run.progress, run.trained, run.optimizer)
    run.kept, run.kept_at = time.monotonic(), run.at
