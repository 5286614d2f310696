"""Distillation: a student learns what its teacher answers, and what it computes on the way.

Knows the material of a job and teachers through their protocol. Hinton et al., Distilling the
Knowledge in a Neural Network, arXiv:1503.02531.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from meuse.compress import digests
from meuse.compress.configs.distill import Distill, Student
from meuse.compress.material import Material
from meuse.compress.methods.hidden import Hints
from meuse.compress.methods.lesson import Asked, Labels, Lesson, Told
from meuse.compress.teachers import Given, Teacher
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import Frame
from meuse.core.ports import JobContext, Paused
from meuse.train import losses
from meuse.train.batches import Arrays, tensor_of
from meuse.train.options import LoopOptions
from meuse.train.prepare.apply import Preparer
from meuse.train.recipes import Recipe
from meuse.train.seeds import derive

_BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Rows:
    """What is learned from: features `x` [n, …], and the frames that they were made of, in their
    order. The first rows have the targets `y`."""

    x: NDArray[Any]
    frames: tuple[Frame, ...]
    y: NDArray[Any]


def distill(network: nn.Module, material: Material, config: Distill) -> nn.Module:
    """The student, taught; `network` itself where the config names no other.

    Raises `invalid_field` for a student that cannot be built for this data, and for hidden
    states or attention that teacher and student do not have in common; `Paused` from the loop.
    """
    given = material.given
    assert given is not None
    teacher = given.teacher(config.teachers)
    student = network if config.student is None else _build(config.student, material)
    options = _options(config, material)
    rows = _rows(given, material, config)
    asked = _asked(teacher, config, options, rows, material)
    told = asked or Told(tensor_of(_scores(teacher, rows, material)))
    material.job.log(
        f"{len(rows.x):,} rows to learn from, {len(rows.y):,} of them with labels; the teacher "
        f"answers {'every batch anew' if asked else 'each row once'}"
    )
    weights = losses.class_weights(
        options.class_weights, material.train.y, material.task, material.outputs
    )
    lesson = Lesson(
        student,
        told,
        Labels(
            tensor_of(rows.y),
            losses.make(options.loss_for(material.task), material.task, weights),
        ),
        material.task,
        temperature=config.temperature,
        alpha=config.alpha if config.labelled else 1.0,
        hints=_hints(student, asked, config, rows, material.seed),
        adapts=config.student is not None,
    )
    with lesson.watched(), _dropping(student, config.dropout):
        replace(material, digest=_digest(material, teacher, config, rows)).fine_tune(
            lesson,
            options.epochs,
            name="distill",
            options=options,
            train=Arrays(rows.x, np.arange(len(rows.x))),
            objective=lesson.objective,
        )
    return student.eval()


@contextmanager
def _dropping(student: nn.Module, rate: float | None) -> Iterator[None]:
    """Drop so much within; None: as it does."""
    changed = [(m, m.p) for m in student.modules() if isinstance(m, nn.Dropout)]
    try:
        for module, own in changed:
            module.p = own if rate is None else rate
        yield
    finally:
        for module, own in changed:
            module.p = own


def _build(student: Student, material: Material) -> nn.Module:
    """The student, untrained: for the parent's features and outputs."""
    recipe, preparation = student.found, material.preparation
    with _of_student():
        given = _with_vocabulary(recipe, student.config, material)
        config = recipe.configure(given)
        if preparation.kind not in recipe.data_for(config):
            raise invalid(
                "recipe",
                f"{recipe.name} takes {' or '.join(sorted(recipe.data_for(config)))}s, the model "
                f"makes features of a {preparation.kind}",
                "Choose a student for the same kind of rows.",
            )
        if material.task not in recipe.tasks:
            raise invalid("recipe", f"{recipe.name} cannot do {material.task}")
        for note in recipe.remarks(config, preparation.kind, material.task, material.outputs):
            material.job.log(note)
        torch.manual_seed(derive(material.seed, "weights"))
        network: nn.Module = recipe.builder()(preparation.shape, material.outputs, config)
    network.described = {"recipe": recipe.name, "config": given}  # type: ignore[assignment]
    return network


def _with_vocabulary(recipe: Recipe, config: dict[str, Any], material: Material) -> dict[str, Any]:
    """A network of texts embeds every token of the parent's preparation."""
    tokens = material.preparation.tokens
    words = getattr(recipe.configure(config), "vocabulary", None)
    if tokens is None or words is None:
        return config
    needed = len(tokens.vocabulary) + 2  # padding and unknown
    if "vocabulary" not in config and hasattr(recipe.config, "vocabulary"):
        return {**config, "vocabulary": needed}
    if words < needed:
        raise invalid(
            "config.vocabulary",
            f"{words} token ids are too few: the model's texts have {needed}",
            f"Use {needed}, or leave it out.",
        )
    return config


@contextmanager
def _of_student() -> Iterator[None]:
    """Errors within are told of the student's own fields."""
    try:
        yield
    except MeuseError as error:
        error.field = f"student.{error.field}" if error.field else "student"
        raise


def _options(config: Distill, material: Material) -> LoopOptions:
    """A new student is trained as its recipe is, any other as it was, at half of the rate."""
    asked = {
        name: getattr(config, name)
        for name in ("epochs", "learning_rate", "batch_size")
        if getattr(config, name) is not None
    }
    if config.student is None:
        options = material.options(config.epochs or material.loop.epochs, config.learning_rate)
        return msgspec.structs.replace(
            options, batch_size=config.batch_size or options.batch_size, compile=False
        )
    given = config.student.options
    options = config.student.found.options({"seed": material.seed, **given, **asked})
    # Those follow from the data and the job more than from the network.
    names = ("augment", "class_weights", "checkpoint_seconds")
    kept = {name: getattr(material.loop, name) for name in names if name not in given}
    return msgspec.structs.replace(options, **kept)


def _rows(given: Given, material: Material, config: Distill) -> Rows:
    labelled = config.labelled
    x = [material.train.x] if labelled else []
    frames = [given.frame] if labelled else []
    if config.unlabelled is not None:
        frame = given.unlabelled[config.unlabelled]
        frames.append(frame)
        x.append(Preparer(material.preparation).apply(frame))
    y = material.train.y if labelled else material.train.y[:0]
    return Rows(x[0] if len(x) == 1 else np.concatenate(x), tuple(frames), y)


def _asked(
    teacher: Teacher, config: Distill, options: LoopOptions, rows: Rows, material: Material
) -> Asked | None:
    """The teacher's network, where its answers are not enough; None where they are."""
    if not config.looks_inside and options.augment is None:
        return None
    try:
        described = teacher.inside()
    except MeuseError as error:
        if config.looks_inside:
            raise
        told = "the teacher's answers are those to the rows as they are, not as augmentation moves"
        material.job.log(f"{told} them: {error.message}", level="warning")
        return None
    same = described.preparation == material.preparation
    if not same and not config.looks_inside:
        return None
    parts = [] if same else [Preparer(described.preparation).apply(f) for f in rows.frames]
    features = np.concatenate(parts) if parts else None
    return Asked(described.network, features, described.answers, material.answers)


def _hints(
    student: nn.Module, asked: Asked | None, config: Distill, rows: Rows, seed: int
) -> Hints | None:
    if not config.looks_inside:
        return None
    assert asked is not None
    torch.manual_seed(derive(seed, "projections"))
    numbers = torch.arange(min(2, len(rows.x)))
    example = tensor_of(rows.x[: len(numbers)])
    pair = (example, asked.features(example, numbers))
    return Hints(student, asked.network, pair, config.hidden, config.attention, config.layers)


def _scores(teacher: Teacher, rows: Rows, material: Material) -> NDArray[np.float32]:
    """The teacher's scores [n, k] of all rows, in the student's unit."""
    parts = [_kept_scores(teacher, frame, material.job) for frame in rows.frames]
    scores = np.concatenate(parts)
    if scores.shape[1] != material.outputs:
        raise invalid(
            "teacher",
            f"the teacher has {scores.shape[1]} outputs, the student {material.outputs}",
        )
    if not np.isfinite(scores).all():
        row = int(np.argmin(np.isfinite(scores).all(axis=1)))
        raise invalid("teacher", f"the teacher's answer to row {row + 1} is not finite")
    if material.task != "regression":
        return scores
    return np.asarray(material.answers.targets_of(scores), np.float32)


def _kept_scores(teacher: Teacher, frame: Frame, job: JobContext) -> NDArray[np.float32]:
    """A teacher's scores of a frame, from the job's folder where a former attempt left them."""
    digest = hashlib.sha256(f"{teacher.digest}\n{digests.of_frame(frame)}".encode()).hexdigest()
    path = job.folder / f"checkpoint-teacher-{digest[:32]}.npy"
    try:
        kept: NDArray[np.float32] = np.load(path, allow_pickle=False)
        if len(kept) == len(frame):
            return kept
    except (OSError, ValueError, EOFError):
        pass
    parts = []
    for start in range(0, len(frame), _BLOCK_ROWS):
        if job.paused():
            raise Paused
        parts.append(teacher.scores(frame.take(slice(start, start + _BLOCK_ROWS))))
    scores = np.concatenate(parts)
    _keep(path, scores)
    return scores


def _keep(path: Path, scores: NDArray[np.float32]) -> None:
    """Write in one go: temporary name, fsync, rename."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.save(file, scores, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _digest(material: Material, teacher: Teacher, config: Distill, rows: Rows) -> str:
    """Names the run: parent and data, the teacher, the options, the rows without labels."""
    parts = [material.digest, teacher.digest, *map(digests.of_frame, rows.frames)]
    digest = hashlib.sha256("\n".join(parts).encode())
    digest.update(msgspec.json.encode(config))
    return digest.hexdigest()
