"""What the training loop can be told, checked before anything starts.

Knows names and ranges; knows no torch, because the control process validates with it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meuse.core.errors import invalid

Optimizer = Literal["gd", "sgd", "rmsprop", "adagrad", "adam", "adamw"]
LossName = Literal["mse", "mae", "huber", "cross_entropy", "bce", "focal", "quantile"]
ScheduleName = Literal["constant", "step", "cosine", "one_cycle"]

LOSSES: dict[str, tuple[LossName, ...]] = {
    "classification": ("cross_entropy", "focal", "bce"),
    "multilabel": ("bce", "focal"),
    "regression": ("mse", "mae", "huber", "quantile"),
}
"""The losses of each task, its default first."""

RATES: dict[str, float] = {
    "gd": 0.1,
    "sgd": 0.01,
    "rmsprop": 0.001,
    "adagrad": 0.01,
    "adam": 0.001,
    "adamw": 0.001,
}
"""Learning rates where neither the caller nor the recipe names one."""

Share = Annotated[float, Meta(ge=0, lt=1)]
Epochs = Annotated[int, Meta(ge=1, le=10_000)]


class Loss(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A loss and its parameters; those of other losses have no effect."""

    name: LossName
    smoothing: Annotated[Share, Meta(description="label smoothing: cross_entropy, bce")] = 0.0
    delta: Annotated[
        float, Meta(gt=0, le=1e6, description="huber: where squares turn into lines")
    ] = 1.0
    gamma: Annotated[float, Meta(ge=1, le=10, description="focal: how little easy rows count")] = (
        2.0
    )
    quantile: Annotated[float, Meta(gt=0, lt=1, description="quantile: which one")] = 0.5


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the learning rate goes; `learning_rate` is the highest that it reaches."""

    name: ScheduleName = "constant"
    warmup_epochs: Annotated[
        float, Meta(ge=0, le=10_000, description="rise linearly for so long; not with one_cycle")
    ] = 0.0
    step_epochs: Annotated[Epochs, Meta(description="step: epochs between two steps")] = 10
    factor: Annotated[float, Meta(gt=0, le=1, description="step: factor of each step")] = 0.1
    final: Annotated[
        float, Meta(ge=0, le=1, description="cosine: share of the rate at the end")
    ] = 0.0
    rise: Annotated[
        float, Meta(gt=0, lt=1, description="one_cycle: share of the steps that rise")
    ] = 0.3

    def __post_init__(self) -> None:
        if self.name == "one_cycle" and self.warmup_epochs:
            raise ValueError("one_cycle rises by itself: leave warmup_epochs at 0, or set rise")


class EarlyStopping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End when the monitored figure has not improved for `patience` epochs."""

    patience: Epochs = 5
    min_delta: Annotated[
        float, Meta(ge=0, le=1e9, description="a smaller improvement does not count")
    ] = 0.0


class Augment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Random changes of training images (uint8 [n, h, w, c])."""

    shift: Annotated[
        int, Meta(ge=0, le=64, description="pixels that an image may move, edges padded with 0")
    ] = 0
    flip: Annotated[bool, Meta(description="mirror left and right, every second image")] = False


class LoopOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One training run. Equal options on equal arrays give bit-identical weights.

    `gd` takes one full-batch step per epoch and ignores `batch_size` and `accumulate`.
    Weight decay spares vectors (biases, normalisation). `monitor` is what chooses the best
    epoch and ends early: `auto` is the task's first figure (`loss` for the quantile loss),
    or `loss` (on validation), or the name of a figure.
    """

    optimizer: Optimizer = "adam"
    learning_rate: Annotated[float, Meta(gt=0, le=1000)] | None = None
    momentum: Annotated[Share, Meta(description="sgd and rmsprop")] | None = None
    nesterov: bool = False
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = 0.0
    loss: LossName | Loss | None = None
    schedule: ScheduleName | Schedule = "constant"
    epochs: Epochs = 30
    batch_size: Annotated[int, Meta(ge=1, le=1_000_000)] = 32
    accumulate: Annotated[int, Meta(ge=1, le=100_000, description="batches per update")] = 1
    clip_norm: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Annotated[bool, Meta(description="torch.compile; needs g++ on the machine")] = False
    early_stopping: EarlyStopping | None = None
    class_weights: (
        Literal["balanced"] | Annotated[tuple[Annotated[float, Meta(ge=0)], ...], Meta()] | None
    ) = None
    augment: Augment | None = None
    monitor: Annotated[str, Meta(min_length=1, max_length=64)] = "auto"
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    checkpoint_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 30.0

    def __post_init__(self) -> None:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs the optimizer sgd with a momentum above 0")

    @property
    def rate(self) -> float:
        """The learning rate in force."""
        return self.learning_rate or RATES[self.optimizer]

    @property
    def inertia(self) -> float:
        """The momentum in force: by default 0.9 for sgd, else 0."""
        default = 0.9 if self.optimizer == "sgd" else 0.0
        return default if self.momentum is None else self.momentum

    @property
    def plan(self) -> Schedule:
        return Schedule(self.schedule) if isinstance(self.schedule, str) else self.schedule

    def loss_for(self, task: str) -> Loss:
        """The loss in force. Raises `invalid_field` where it does not fit the task."""
        fitting = LOSSES[task]
        loss = Loss(fitting[0]) if self.loss is None else self.loss
        loss = Loss(loss) if isinstance(loss, str) else loss
        if loss.name not in fitting:
            raise invalid(
                "loss",
                f"the loss {loss.name} does not fit a {task} task",
                f"Use one of: {', '.join(fitting)}.",
            )
        return loss
