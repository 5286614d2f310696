"""What a search job is asked to do, checked before anything starts.

Knows names and ranges; knows neither torch nor numpy nor optuna, because the control process
validates with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meuse.core.errors import MeuseError, invalid
from meuse.core.fields import choice, integer, known
from meuse.train.options import LoopOptions
from meuse.train.search import space as spaces
from meuse.train.search.space import Dimension
from meuse.train.spec import TrainSpec

METHODS = ("random", "halton", "successive_halving", "tpe")
MAX_TRIALS = 500
MAX_PARALLEL = 64
MAX_EPOCHS = 10_000
ETA = 3

OWN = ("model_name", "data", "recipe", "target", "task")
"""What a search says of every trial, at its top level as a training does."""
FIELDS = (*OWN, "space", "method", "trials", "parallel", "metric", "budget", "seed", "base")
_FIXED = ("seed", "monitor", "checkpoint_seconds", "compile", "precision")
_ASIDE = ("split",)
"""Of `base`: not for the training itself."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Of successive halving: epochs of the first and of the last rung, and by what factor trials
    become fewer and epochs more from one rung to the next."""

    min_epochs: int
    max_epochs: int
    eta: int = ETA


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """Which trainings to try. `base` are further fields of a train spec, the same for all.

    The sequence of trials follows from the spec and the figures found; of `tpe` it also depends
    on `parallel`, because a trial cannot learn from those that run beside it.
    """

    own: dict[str, Any]
    space: dict[str, Dimension]
    method: str = "tpe"
    trials: int = 20
    parallel: int = 1
    metric: str | None = None
    budget: Budget | None = None
    seed: int = 0
    base: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> SearchSpec:
        """Check and complete a spec. Raises `invalid_field` that names the part at fault."""
        given = {name: value for name, value in spec.items() if value is not None}
        known(given, FIELDS)
        base = _base(given.get("base", {}))
        own = {name: given[name] for name in OWN if name in given}
        try:
            trained = TrainSpec.from_dict({**own, **_said(base)})
        except MeuseError as error:
            raise in_base(error, base) from None
        method = choice("method", given.get("method", "tpe"), METHODS)

        def accept(name: str, value: Any) -> None:
            TrainSpec.from_dict(spaces.overlaid({**own, **_said(base)}, {name: value}))

        _check_names(given.get("space"), base, method)
        return cls(
            own={**own, "model_name": trained.model_name, "data": trained.data,
                 "recipe": trained.recipe},
            space=spaces.parse(given.get("space"), accept),
            method=method,
            trials=integer("trials", given.get("trials", 20), 1, MAX_TRIALS),
            parallel=integer("parallel", given.get("parallel", 1), 1, MAX_PARALLEL),
            metric=_metric(given.get("metric"), base, given.get("space", {})),
            budget=_budget(given.get("budget"), method, trained.loop.epochs),
            seed=integer("seed", given.get("seed", 0), 0, 2**31 - 1),
            base=base,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-able data, complete; `from_dict` gives it back."""
        body = {name: getattr(self, name) for name in FIELDS if name not in OWN}
        body["space"] = {name: dimension.to_dict() for name, dimension in self.space.items()}
        if self.budget is not None:
            body["budget"] = {
                "min_epochs": self.budget.min_epochs,
                "max_epochs": self.budget.max_epochs,
                "eta": self.budget.eta,
            }
        return {**self.own, **body}

    def training(
        self, parameters: Mapping[str, Any], epochs: int | None = None, monitor: str | None = None
    ) -> TrainSpec:
        """One trial's spec. Raises `invalid_field` where parameters do not go together."""
        told = spaces.overlaid({**self.own, **_said(self.base)}, parameters)
        told |= {"epochs": epochs} if epochs is not None else {}
        told |= {"monitor": monitor} if monitor is not None else {}
        return TrainSpec.from_dict(told)


def in_base(error: MeuseError, base: Mapping[str, Any]) -> MeuseError:
    """The error of a training, as the request that has a part of its spec in `base` sees it."""
    first = (error.field or "").partition(".")[0].partition("[")[0]
    if first in base:
        error.field = f"base.{error.field}"
    return error


def _said(base: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in base.items() if name not in _ASIDE}


def _base(given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise invalid("base", f"{given!r} is not an object", 'Such as {"epochs": 20}.')
    for name in (*OWN, "deploy"):
        if name in given:
            raise invalid(f"base.{name}", f"{name} stands beside base", "Move it up.")
    if given.get("cv") is not None:
        raise invalid(
            "base.cv",
            "trials are compared on the validation rows, not by folds",
            "Leave it out, and train the best with cv afterwards.",
        )
    return {name: value for name, value in given.items() if value is not None}


def _check_names(space: object, base: Mapping[str, Any], method: str) -> None:
    if not isinstance(space, Mapping):
        return
    options = LoopOptions.__struct_fields__
    for name in map(str, space):
        first, _, rest = name.partition(".")
        if first in _FIXED or (first not in options and not (first == "config" and rest)):
            free = ", ".join(option for option in options if option not in _FIXED)
            raise invalid(
                f"space.{name}",
                f"{name} is nothing that a search varies",
                f"Options of the recipe are config.<name>; others: {free}.",
            )
        if name == "epochs" and method == "successive_halving":
            raise invalid(
                "space.epochs", "successive halving sets the epochs", "Use budget for them."
            )
        if name in base:
            raise invalid(f"base.{name}", f"{name} is in the space too", "Leave one of them out.")


def _metric(given: object, base: Mapping[str, Any], space: Mapping[str, Any]) -> str | None:
    monitor = base.get("monitor")
    if given is None:
        given = None if monitor == "auto" else monitor
    elif monitor not in (None, given):
        raise invalid(
            "metric",
            f"it is {given!r}, but base.monitor is {monitor!r}",
            "One figure chooses the epoch and the trial: leave base.monitor out.",
        )
    if given is None:
        return None
    if not isinstance(given, str) or not given or len(given) > 64:
        raise invalid("metric", f"{given!r} is not a figure", "Such as accuracy, r2 or loss.")
    if given == "loss" and any(name.partition(".")[0] == "loss" for name in space):
        raise invalid(
            "metric", "trials with different losses cannot be compared by them", "Use a figure."
        )
    return None if given == "auto" else given


def _budget(given: object, method: str, epochs: int) -> Budget | None:
    if method != "successive_halving":
        if given is not None:
            raise invalid("budget", f"{method} takes no budget", "Set base.epochs.")
        return None
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise invalid("budget", f"{given!r} is not an object", "Use min_epochs and max_epochs.")
    known(given, ("min_epochs", "max_epochs", "eta"), "budget.")
    most = integer("budget.max_epochs", given.get("max_epochs", epochs), 1, MAX_EPOCHS)
    eta = integer("budget.eta", given.get("eta", ETA), 2, 10)
    default = max(1, most // eta**2)
    least = integer("budget.min_epochs", given.get("min_epochs", default), 1, MAX_EPOCHS)
    if least > most:
        raise invalid("budget.min_epochs", f"{least} is above max_epochs, {most}", "Lower it.")
    return Budget(least, most, eta)
