"""What methods have to work with: data, the way the parent was trained, and the job.

Knows the training loop; knows no method. The test split is not in it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from meuse.compress import weights
from meuse.compress.configs.quantize import LEAST_ROWS
from meuse.compress.teachers import Given
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.ports import JobContext, Metric
from meuse.evaluate.metrics import PRIMARY
from meuse.train import fakequant, loop
from meuse.train.answers import Answers
from meuse.train.batches import Arrays
from meuse.train.loop import Objective
from meuse.train.options import LoopOptions
from meuse.train.parts import Part
from meuse.train.prepare.steps import Preparation

M = TypeVar("M", bound="GraphMaterial")

_LOWER = 0.5
"""Of the rate that a network was trained with, what it is trained on with."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The folder of toolchains (`meuse.runtime.toolchains`), the least sandbox for what runs in
    one, and the longest that it may run."""

    toolchains: str = ""
    tier: int = 1
    wall_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class GraphMaterial:
    """What methods of the exported graph have: `rows` and `validation_rows` are raw rows as
    engines take them, by input: up to 1,024 of the training split (to calibrate on), and the
    validation split, whose targets are `validation_y`. `digest` names parent and data.
    """

    job: JobContext
    rows: Mapping[str, NDArray[Any]]
    validation_rows: Mapping[str, NDArray[Any]]
    validation_y: NDArray[Any]
    task: str
    metric: Metric
    seed: int
    digest: str
    tools: Tools = field(default_factory=Tools, kw_only=True)


@dataclass(frozen=True, slots=True)
class Material(GraphMaterial):
    """What methods of the network have besides: `train` and `validation` are features and
    targets as the loop takes them, `outputs` scores a row; `loop` are the options that the
    parent was trained with. `given` is what distillation has besides.
    """

    train: Arrays
    validation: Arrays
    outputs: int
    preparation: Preparation
    answers: Answers
    loop: LoopOptions
    given: Given | None = None

    def options(
        self, epochs: int, learning_rate: float | None = None, *, falls: bool = True
    ) -> LoopOptions:
        """Those of a training that goes on: by default at half of the parent's rate. It falls
        along a cosine, or stays where another training follows."""
        if epochs < 1:
            raise invalid("epochs", f"{epochs} epochs are no training", "Use 1 or more.")
        return msgspec.structs.replace(
            self.loop,
            epochs=epochs,
            learning_rate=self.loop.rate * _LOWER if learning_rate is None else learning_rate,
            schedule="cosine" if falls else "constant",
            early_stopping=None,
            seed=self.seed,
        )

    def fine_tune(
        self,
        network: nn.Module,
        epochs: int,
        *,
        learning_rate: float | None = None,
        name: str,
        done: float = 0.0,
        share: float = 1.0,
        train: Arrays | None = None,
        objective: Objective | None = None,
        options: LoopOptions | None = None,
    ) -> Mapping[str, float]:
        """Train `network` on, in place, keeping the forms of its weights (`weights.hold`);
        the figures on validation of the best epoch, whose weights stay.

        `name` tells apart the trainings of one step: each has a checkpoint of its own, so a
        killed job goes on within. `train` replaces the training rows, `objective` the loss on
        them and `options` those of the method `options`.
        """
        options = options or self.options(epochs, learning_rate)
        part = Part(self.job, name, done, share, {"training": name})
        with weights.hold(network):
            trained = loop.run(
                part,
                network,
                train or self.train,
                self.validation,
                self.task,
                options,
                self.judged,
                f"{self.digest}:{name}:{_digest(network)}",
                objective=objective,
            )
        # Its scales may have been trained on too: what is exported is as it was simulated.
        for layer in fakequant.layers(network):
            layer.settle()
        return trained.figures

    def judged(self, scores: NDArray[Any], y: NDArray[Any]) -> dict[str, float]:
        """Figures of a network's scores, in the target's own unit."""
        if self.task == "regression":
            y = self.answers.outputs_of(y[:, None])
        return self.metric(self.answers.outputs_of(scores), y)

    def score(self, network: nn.Module) -> float:
        """The primary metric on validation; the lowest number there is when outputs are not
        finite."""
        scores = loop.scores_of(network, self.validation.x)
        if not np.isfinite(scores).all():
            return -math.inf
        return self.judged(scores, self.validation.y)[PRIMARY[self.task][0]]


def check_rows(rows: Arrays, hint: str) -> None:
    """Raises `invalid_data` (`data`) for fewer rows than say anything of what layers are given."""
    if len(rows) < LEAST_ROWS:
        raise MeuseError(
            Code.INVALID_DATA,
            f"there are {len(rows)} training rows to measure on; at least {LEAST_ROWS} are needed",
            field="data",
            hint=f"Name a dataset with more rows{hint}.",
        )


def _digest(network: nn.Module) -> str:
    """Names the weights that a training starts from."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def of_part(material: M, name: str, done: float, share: float) -> M:
    """The same for a part of the job: its log lines and checkpoint are the part's."""
    return replace(material, job=Part(material.job, name, done, share, {}))
