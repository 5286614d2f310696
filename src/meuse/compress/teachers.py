"""Teachers: who may teach whom, and what their answers are as scores.

Knows engines through their port; knows no registry, and torch only within `Version.inside`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meuse.compress.answers import blocks, rows_of
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import Frame, Signature
from meuse.core.ports import Engine
from meuse.evaluate.answers import outputs_of

if TYPE_CHECKING:
    from meuse.train.weights import Described

LEAST = 1e-30
"""Probabilities below count as this: a logarithm must be a number."""


class Teacher(Protocol):
    """Whoever answers raw rows in the student's terms."""

    @property
    def digest(self) -> str:
        """Names the weights: equal digests, equal answers."""
        ...

    def scores(self, frame: Frame) -> NDArray[np.float32]:
        """Logits [n, k], up to a constant per row for a classifier, or values [n, 1] in the
        target's own unit."""
        ...

    def inside(self) -> Described:
        """Its network, with weights. Raises `invalid_field` (`teacher`) where it has none."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """What a job was given to distill by: the raw rows of the training split, in the order of
    the prepared ones; teachers and unlabelled rows by reference, as the steps name them.

    The teacher named "" is the parent.
    """

    task: str
    frame: Frame
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    unlabelled: Mapping[str, Frame] = field(default_factory=dict)

    def teacher(self, names: Sequence[str]) -> Teacher:
        """The one teacher, or the ensemble, of these names; without names the parent."""
        found = [self.teachers[name] for name in names or ("",)]
        return found[0] if len(found) == 1 else Ensemble(tuple(found), self.task)


@dataclass(frozen=True)
class Version:
    """A version of a model as a teacher: asked as it is served.

    `features` are the columns that it takes, `engine` loads it, `weights` reads its weights file
    where it has one.
    """

    ref: str
    digest: str
    signature: Signature
    task: str
    features: tuple[str, ...]
    engine: Callable[[], Engine]
    weights: Callable[[], bytes] | None = None

    @cached_property
    def _engine(self) -> Engine:
        return self.engine()

    def scores(self, frame: Frame) -> NDArray[np.float32]:
        """Raises `invalid_field` (`teacher`) for answers that are not its task's."""
        rows = rows_of(frame.select(self.features), self.signature)
        answers = [self._engine.run(block) for block in blocks(rows)]
        joined = {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}
        try:
            return scores_of(outputs_of(joined, self.signature, self.task), self.task)
        except MeuseError as error:
            error.field = "teacher"
            raise

    def inside(self) -> Described:
        if self.weights is None:
            raise invalid(
                "teacher",
                f"{self.ref} has no weights file: its network is not known",
                "Versions that were trained here have one; or leave hidden and attention at 0.",
            )
        from meuse.train import weights

        return weights.load(self.weights())


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Several teachers as one (`Teacher`): the mean of their probabilities, or of their values.

    `task` is that of all.
    """

    teachers: tuple[Teacher, ...]
    task: str

    @property
    def digest(self) -> str:
        names = "\n".join(teacher.digest for teacher in self.teachers)
        return hashlib.sha256(names.encode()).hexdigest()

    def scores(self, frame: Frame) -> NDArray[np.float32]:
        return mean([teacher.scores(frame) for teacher in self.teachers], self.task)

    def inside(self) -> Described:
        raise invalid(
            "teacher",
            f"{len(self.teachers)} teachers have no hidden states in common",
            "Name one teacher, or leave hidden and attention at 0.",
        )


def mean(scores: Sequence[NDArray[Any]], task: str) -> NDArray[np.float32]:
    """Scores of the mean of what each says: of probabilities, or of a regression's values."""
    if task == "regression":
        return np.asarray(np.mean(scores, axis=0, dtype=np.float64), np.float32)
    wide = [np.asarray(one, np.float64) for one in scores]
    if task == "multilabel":
        return scores_of(np.mean([1 / (1 + np.exp(-one)) for one in wide], axis=0), task)
    shares = [np.exp(one - one.max(axis=1, keepdims=True)) for one in wide]
    found = [one / one.sum(axis=1, keepdims=True) for one in shares]
    return scores_of(np.mean(found, axis=0), task)


def scores_of(outputs: NDArray[Any], task: str) -> NDArray[np.float32]:
    """Scores from what a version answers: probabilities [n, k], or values [n]."""
    wide = np.asarray(outputs, np.float64)
    if task == "regression":
        return wide.reshape(-1, 1).astype(np.float32)
    logits = np.log(np.maximum(wide, LEAST))
    if task == "multilabel":
        logits = logits - np.log(np.maximum(1 - wide, LEAST))
    return logits.astype(np.float32)
