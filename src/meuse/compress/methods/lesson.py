"""The loss of a distillation, and what a batch of it needs.

Knows torch and a teacher's scores or its network; knows no dataset and no job.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from numpy.typing import NDArray
from torch import Tensor, nn

from meuse.compress.methods.hidden import Hints, Watch
from meuse.train.answers import Answers
from meuse.train.losses import LossFunction


def distance(task: str, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far scores [n, k] are from the teacher's, a mean over the rows.

    Classification: T² · KL(softmax(teacher / T) ‖ softmax(outputs / T)), arXiv:1503.02531,
    section 2; the factor keeps the gradient's size whatever T is. Multilabel: the same of every
    label's two outcomes, a mean over labels. Regression (values [n, 1]): the mean square.
    """
    if task == "regression":
        return F.mse_loss(outputs, teacher)
    ours, theirs = outputs / temperature, teacher / temperature
    if task == "classification":
        near, far = F.log_softmax(ours, dim=1), F.log_softmax(theirs, dim=1)
        found = F.kl_div(near, far, reduction="batchmean", log_target=True)
    else:
        shares = theirs.sigmoid()
        own = F.binary_cross_entropy_with_logits(theirs, shares)
        found = F.binary_cross_entropy_with_logits(ours, shares) - own
    return temperature**2 * found


@dataclass(frozen=True, slots=True)
class Labels:
    """Targets of the first rows, as the loop has them, and the task's own loss of them."""

    y: Tensor
    loss: LossFunction


@dataclass(frozen=True, slots=True)
class Told:
    """A teacher's scores of every row [n, k], asked once."""

    scores: Tensor

    def of(self, x: Tensor, rows: Tensor) -> Tensor:
        return self.scores[rows]


class Asked:
    """A teacher's network, asked for every batch: rows that augmentation moves are scored as
    they are then (Beyer et al., arXiv:2106.05237), and hidden states can be seen.

    `features` are the rows as it takes them; None: as the student does. A regression's values
    are turned from its standard unit (`its`) into the student's (`own`).
    """

    def __init__(
        self, network: nn.Module, features: NDArray[Any] | None, its: Answers, own: Answers
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self._features = None if features is None else torch.from_numpy(features)
        self._factor = its.std / own.std if own.task == "regression" else 1.0
        self._term = (its.mean - own.mean) / own.std if own.task == "regression" else 0.0

    def features(self, x: Tensor, rows: Tensor) -> Tensor:
        return x if self._features is None else self._features[rows]

    def of(self, x: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            scores: Tensor = self.network(self.features(x, rows)).float()
        return scores * self._factor + self._term


class Lesson(nn.Module):
    """The student while it is taught: its network, and what is learned beside it (`hints`).

    Targets of the training are row numbers, by which labels and the teacher's scores are found.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Told | Asked,
        labels: Labels,
        task: str,
        *,
        temperature: float,
        alpha: float,
        hints: Hints | None = None,
        adapts: bool = True,
    ) -> None:
        super().__init__()
        self.student = student
        self.hints = hints
        self._teacher, self._labels, self._task = teacher, labels, task
        self._temperature, self._alpha, self._adapts = temperature, alpha, adapts
        names = hints.pairs if hints else []
        self._ours = Watch(student, [own for _, own, _ in names], training=True)
        self._theirs = (
            Watch(teacher.network, [its for _, _, its in names], training=False)
            if isinstance(teacher, Asked)
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.student(x)
        return scores

    def adapt(self, x: NDArray[Any]) -> None:
        """A new student takes its normalisation from the data; another has one."""
        adapt = getattr(self.student, "adapt", None)
        if adapt is not None and self._adapts:
            adapt(x)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Both networks' hidden states are seen within."""
        with self._ours:
            if self._theirs is None:
                yield
            else:
                with self._theirs:
                    yield

    def objective(self, x: Tensor, outputs: Tensor, rows: Tensor) -> Tensor:
        """alpha · distance + (1 - alpha) · the labels' loss + hints. A row without a label has
        no second term; a teacher that nothing is asked of is not run."""
        loss = outputs.new_zeros(())
        if self._alpha or self.hints is not None:
            theirs = self._teacher.of(x, rows)
            loss = loss + self._alpha * distance(self._task, outputs, theirs, self._temperature)
        known = rows < len(self._labels.y)
        count = int(known.sum())
        if self._alpha < 1 and count:
            own = self._labels.loss(outputs[known], self._labels.y[rows[known]])
            loss = loss + (1 - self._alpha) * (count / len(rows)) * own
        if self.hints is not None and self._theirs is not None:
            loss = loss + self.hints(self._ours.seen, self._theirs.seen)
        return loss
