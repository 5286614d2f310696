"""One fine-tuning, from checked lines and a model to files: count, estimate, train, write.

Knows no dataset file, no registry and no template: what renders a conversation is given.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from meuse.core.errors import invalid
from meuse.core.ports import JobContext, Paused
from meuse.train import trouble
from meuse.train.digest import source_digest
from meuse.train.llm import layout, loop
from meuse.train.llm.examples import Chat, Example, Made, Words, make
from meuse.train.llm.lines import Line, refused
from meuse.train.llm.model import Trained, adapted, recompute, write_adapter, write_model
from meuse.train.llm.spec import MAX_TOKENS, TuneSpec
from meuse.train.machine import bf16_is_native
from meuse.train.seeds import derive

TOLD_CUT = 20
FORWARD = 1 / 3
"""Of the work of a training step, that of its pass forwards: all that a validation does."""


@dataclass(frozen=True, slots=True)
class Base:
    """What is trained on: `ref` is the version's name, `digest` names its files."""

    ref: str
    digest: str
    model: Any
    tokenizer: Any
    chat: Chat | None
    template: str
    context: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What training would take at most, before it does. `tokens` are those of one epoch,
    `validation_tokens` those of all `validations`; `seconds` for both, by the pace measured on a
    first step."""

    examples: int
    validation_examples: int
    tokens: int
    answer_tokens: int
    longest: int
    cut: int
    epochs: int
    updates: int
    training_tokens: int
    validations: int
    validation_tokens: int
    trained_parameters: int
    tokens_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a run leaves. `files` are the adapter's by name, or empty; `checkpoint` is a folder
    with the whole model, where one was asked for."""

    counts: Counts
    metrics: dict[str, float]
    files: dict[str, Path]
    checkpoint: Path | None
    code_digest: str
    notes: dict[str, Any] = field(default_factory=dict)


def code_digest() -> str:
    """Of the sources that train."""
    return source_digest(Path(__file__).parents[1])


def words_of(tokenizer: Any, model: Any) -> Words:
    """A tokenizer of transformers as `examples` takes it."""

    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    ends = {tokenizer.eos_token_id}
    told = getattr(model.generation_config, "eos_token_id", None)
    ends |= set(told) if isinstance(told, list) else {told}
    ends.discard(None)
    if not ends:
        raise invalid("base", "the model's tokenizer has no token that ends a text")
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else min(ends)
    begin = [i for i in tokenizer("")["input_ids"] if i not in ends]
    return Words(encode, frozenset(ends), end, tuple(begin))


def prepare(
    job: JobContext,
    spec: TuneSpec,
    base: Base,
    lines: Sequence[Line],
    validation: Sequence[Line],
) -> tuple[tuple[Example, ...], tuple[Example, ...], int]:
    """(examples to train on, examples to validate on, how many were cut). Raises `invalid_data`
    at `data` or `validation` that tells the lines at fault."""
    words = words_of(base.tokenizer, base.model)
    most = max_tokens(spec, base)
    refuse = spec.config.too_long == "refuse"
    look = _Look(job)
    made = make(lines, words, base.chat, most, refuse, look)
    _check(job, made, "data", most)
    train = made.examples
    if validation:
        held = make(validation, words, base.chat, most, refuse, look)
        _check(job, held, "validation", most)
        return train, held.examples, len(made.cut) + len(held.cut)
    train, kept = held_out(train, spec.validation_fraction, spec.seed)
    return train, kept, len(made.cut)


def held_out(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(to train on, to validate on), in the order of the file; which ones follows from `seed`."""
    count = min(len(examples) - 1, max(1, round(share * len(examples)))) if share else 0
    generator = torch.Generator().manual_seed(derive(seed, "validation"))
    chosen = set(torch.randperm(len(examples), generator=generator)[:count].tolist())
    kept = tuple(e for i, e in enumerate(examples) if i in chosen)
    return tuple(e for i, e in enumerate(examples) if i not in chosen), kept


def max_tokens(spec: TuneSpec, base: Base) -> int:
    """Of an example. Raises `invalid_field` for more than the context window."""
    most = spec.config.max_tokens
    if most is None:
        return min(MAX_TOKENS, base.context)
    if most > base.context:
        raise invalid(
            "config.max_tokens",
            f"{most:,} is more than the context window of {base.ref}: {base.context:,}",
        )
    return most


def _check(job: JobContext, made: Made, field: str, most: int) -> None:
    if made.faults:
        for fault in made.faults[:100]:
            job.log(f"{field}: {fault}", level="warning")
        raise refused(field, made.faults, len(made.faults))
    if made.cut:
        told = ", ".join(map(str, made.cut[:TOLD_CUT]))
        more = f" and {len(made.cut) - TOLD_CUT:,} more" if len(made.cut) > TOLD_CUT else ""
        job.log(
            f"{field}: {len(made.cut):,} lines are cut at {most:,} tokens: {told}{more}",
            level="warning",
        )


def fit(
    job: JobContext,
    spec: TuneSpec,
    base: Base,
    lines: Sequence[Line],
    validation: Sequence[Line],
    told: Callable[[Counts], None],
    spent: Callable[[int], None],
) -> Tuned | Counts:
    """Fine-tune. `told` hears what it will take before anything is trained; with
    `spec.check_only` that is the result."""
    job.progress(0.0, note="validating")
    train, held, cut = prepare(job, spec, base, lines, validation)
    model = _trainable(spec, base)
    plan = _plan(spec, base, train, held)
    if spec.loop.precision == "bf16" and plan.precision != "bf16":
        job.log("this processor has no bfloat16 arithmetic: training in fp32", level="warning")
    counts = _counts(plan, cut, model)
    told(counts)
    if spec.check_only:
        return counts
    job.log(_summary(spec, plan, counts))
    progress = loop.run(job, model, plan, spent)
    job.progress(loop.SHARE, note="writing")
    return _written(job, spec, base, model, counts, plan, progress)


def _trainable(spec: TuneSpec, base: Base) -> nn.Module:
    lora = spec.lora
    model: nn.Module = base.model
    if lora is not None:
        model = adapted(model, lora, spec.seed, base.ref)
    else:
        model.requires_grad_(True)
    if spec.config.gradient_checkpointing:
        recompute(base.model)
    return model


def _plan(
    spec: TuneSpec, base: Base, train: Sequence[Example], held: Sequence[Example]
) -> loop.Plan:
    wanted = spec.loop.precision
    precision = "bf16" if wanted != "fp32" and bf16_is_native() else "fp32"
    # What OMP_NUM_THREADS or the cores of this process allow: steps are always large enough.
    threads = torch.get_num_threads()
    lasting = msgspec.structs.replace(spec.loop, checkpoint_seconds=0.0)
    packages = [version(name) for name in ("torch", "transformers", "peft")]
    named = [base.digest, lasting, spec.config, threads, precision, code_digest(), packages]
    digest = hashlib.sha256(msgspec.json.encode(named))
    for part in (train, held):
        digest.update(json.dumps([[e.tokens, e.taught] for e in part]).encode())
    return loop.Plan(
        train=train,
        validation=held,
        options=spec.loop,
        max_tokens=max_tokens(spec, base),
        packed=spec.config.packing,
        evaluate_every=spec.config.evaluate_every,
        threads=threads,
        precision=precision,
        digest=digest.hexdigest(),
    )


def _counts(plan: loop.Plan, cut: int, model: nn.Module) -> Counts:
    tokens = sum(map(len, plan.train))
    whole = plan.options.epochs * tokens
    rate = _measured(plan, model)
    judged = plan.validations * sum(map(len, plan.validation))
    return Counts(
        examples=len(plan.train),
        validation_examples=len(plan.validation),
        tokens=tokens,
        answer_tokens=sum(e.answers for e in plan.train),
        longest=max(map(len, plan.train)),
        cut=cut,
        epochs=plan.options.epochs,
        updates=plan.total,
        training_tokens=whole,
        validations=plan.validations,
        validation_tokens=judged,
        trained_parameters=Trained(model).count,
        tokens_per_s=round(rate, 1),
        seconds=round((whole + FORWARD * judged) / rate, 1),
    )


def _measured(plan: loop.Plan, model: nn.Module) -> float:
    """Tokens per second, forwards and backwards, of one part of the first examples. Changes
    nothing that training starts from."""
    rows = next(layout.step(plan.train[: plan.per_update], plan.max_tokens, plan.packed))
    model.train()
    torch.set_num_threads(plan.threads)
    since = time.monotonic()
    with trouble.memory_told(plan.options.batch_size):
        with plan.autocast():
            loss = loop.losses(model, rows, loop.Sum())
        loss.backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return rows.real / max(time.monotonic() - since, 1e-6)


def _summary(spec: TuneSpec, plan: loop.Plan, counts: Counts) -> str:
    options = spec.loop
    return (
        f"{counts.trained_parameters:,} parameters to train, {options.optimizer} at "
        f"{options.rate:g}, {plan.precision} on {plan.threads} thread"
        f"{'s' if plan.threads > 1 else ''}; {counts.examples:,} examples in "
        f"{counts.updates:,} updates"
    )


def _written(
    job: JobContext,
    spec: TuneSpec,
    base: Base,
    model: Any,
    counts: Counts,
    plan: loop.Plan,
    progress: loop.Progress,
) -> Tuned:
    files: dict[str, Path] = {}
    checkpoint = None
    if spec.lora is not None:
        files = write_adapter(model, job.folder / "adapter")
    if spec.lora is None or spec.lora.merge:
        where = job.folder / "merged"
        checkpoint = write_model(model, base.tokenizer, base.template, where)
    if plan.validation:
        job.log(f"kept the weights of update {progress.best_epoch} of {progress.updates}")
    return Tuned(
        counts=counts,
        metrics=_metrics(progress),
        files=files,
        checkpoint=checkpoint,
        code_digest=code_digest(),
        notes={
            "epochs": progress.epoch,
            "best_update": progress.best_epoch or progress.updates,
            "updates": progress.updates,
            "trained_tokens": progress.tokens,
            "precision": plan.precision,
            "threads": plan.threads,
            "before": progress.before,
            "history": progress.history,
            "targets": sorted(model.peft_config["default"].target_modules) if files else [],
            "counts": asdict(counts),
        },
    )


def _metrics(progress: loop.Progress) -> dict[str, float]:
    figures = {f"validation_{name}": value for name, value in progress.best_figures.items()}
    if "loss" in progress.before:
        figures["validation_loss_before"] = progress.before["loss"]
    return {
        **figures,
        "train_loss": progress.history[-1]["train_loss"],
        "trained_tokens": float(progress.tokens),
    }


class _Look:
    """Whether the job shall pause while lines are counted."""

    def __init__(self, job: JobContext) -> None:
        self._job = job
        self._next = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + loop.LOOK_S
        if self._job.paused():
            raise Paused
        self._job.progress(0.0, note=f"validating: {done:,} lines")
