"""What a training job is asked to do, checked before anything starts.

Knows the names of recipes and options and what they accept; knows neither torch nor numpy,
because the control process validates with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from meuse.core.errors import invalid
from meuse.core.fields import choice, integer
from meuse.core.ids import check_name
from meuse.core.references import parse_data
from meuse.train import recipes
from meuse.train.options import LoopOptions
from meuse.train.prepare.options import PrepareOptions
from meuse.train.typed import convert

TASKS = ("classification", "binary", "multiclass", "multilabel", "regression")

_OBJECTS = ("config", "prepare", "schedule", "loss", "early_stopping", "augment", "class_weights")
MAX_FOLDS = 20

_OWN = ("model_name", "data", "recipe", "target", "task", "config", "prepare", "cv")


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """One training run. Equal specs on equal data give bit-identical weights.

    `data` is `name` or `name:version`; `target` None means the last column, `task` None
    means to infer it. `loop` are the options of the training loop, which stand beside the
    others in a request; those that are left out are the recipe's. `prepare` says how raw
    columns are cleaned and transformed; what it leaves out follows from the data. `cv` is the
    number of folds of a cross-validation before the training itself.
    """

    model_name: str
    data: str
    recipe: str = "mlp"
    target: str | None = None
    task: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    loop: LoopOptions = field(default_factory=LoopOptions)
    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    cv: int | None = None

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> TrainSpec:
        """Check and complete a spec; numbers may come as text. Raises `invalid_field`."""
        given = {name: value for name, value in spec.items() if value is not None}
        given |= {name: _json(name, given[name]) for name in _OBJECTS if name in given}
        recipe = recipes.find(given.get("recipe", "mlp"))
        options = {name: value for name, value in given.items() if name not in _OWN}
        config = recipe.configure(given.get("config", {}))
        return cls(
            model_name=check_name(given.get("model_name"), field="model_name"),
            data=str(parse_data(given.get("data"))),
            recipe=recipe.name,
            target=_target(given.get("target")),
            task=choice("task", given["task"], TASKS) if "task" in given else None,
            config=msgspec.to_builtins(config),
            loop=recipe.options(options, config),
            prepare=convert(given.get("prepare", {}), PrepareOptions, "prepare"),
            cv=integer("cv", given["cv"], 2, MAX_FOLDS) if "cv" in given else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-able data, complete; `from_dict` gives it back."""
        own = {name: msgspec.to_builtins(getattr(self, name)) for name in _OWN}
        return {**own, **msgspec.to_builtins(self.loop)}

    @property
    def seed(self) -> int:
        return self.loop.seed


def _json(field: str, value: object) -> object:
    """An object may come as text: a query parameter has no other way."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise invalid(field, f"{field} is not JSON: {error}") from None


def _target(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise invalid("target", f"{value!r} is not a column name", "Name a column of the dataset.")
    return value.strip()
