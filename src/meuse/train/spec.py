"""What a training job is asked to do, checked before anything starts.

Knows the names of recipes and optimizers and what they accept; knows neither torch nor
numpy, because the control process validates with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import choice, integer, known, real
from meuse.core.ids import check_name
from meuse.core.references import parse_data

RECIPES = ("mlp", "linear")
OPTIMIZERS = ("gd", "sgd", "adam")
TASKS = ("classification", "regression")

MAX_EPOCHS = 10_000
MAX_BATCH = 1_000_000
MAX_SEED = 2**31 - 1
MAX_WIDTH = 8192
MAX_RATE = 1000.0
MAX_LAYERS = 16
MAX_PARAMETERS = 100_000_000

# Chosen on the validation split of digits (classification) and diabetes (regression).
_LEARNING_RATES: dict[tuple[str, str], float] = {
    ("mlp", "gd"): 0.3,
    ("mlp", "sgd"): 0.01,
    ("mlp", "adam"): 0.002,
    ("linear", "gd"): 0.1,
    ("linear", "sgd"): 0.01,
    ("linear", "adam"): 0.01,
}
_RATE_HINT = "Use a number above 0 and at most 1000, such as 0.001."


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """One training run. Equal specs on equal data give bit-identical weights.

    `data` is `name` or `name:version`; `target` None means the last column, `task` None
    means to infer it. `gd` takes one full-batch step per epoch and ignores `batch_size`.
    """

    model_name: str
    data: str
    recipe: str = "mlp"
    target: str | None = None
    task: str | None = None
    optimizer: str = "adam"
    learning_rate: float | None = None
    epochs: int = 30
    batch_size: int = 32
    seed: int = 0
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> TrainSpec:
        """Check and complete a spec; numbers may come as text. Raises `invalid_field`."""
        names = {f.name for f in fields(cls)}
        known(spec, names)
        given = {name: value for name, value in spec.items() if value is not None}
        recipe = choice("recipe", given.get("recipe", "mlp"), RECIPES)
        optimizer = choice("optimizer", given.get("optimizer", "adam"), OPTIMIZERS)
        rate = given.get("learning_rate", _LEARNING_RATES[recipe, optimizer])
        return cls(
            model_name=check_name(given.get("model_name"), field="model_name"),
            data=str(parse_data(given.get("data"))),
            recipe=recipe,
            target=_target(given.get("target")),
            task=choice("task", given["task"], TASKS) if "task" in given else None,
            optimizer=optimizer,
            learning_rate=_learning_rate(rate),
            epochs=integer("epochs", given.get("epochs", 30), 1, MAX_EPOCHS),
            batch_size=integer("batch_size", given.get("batch_size", 32), 1, MAX_BATCH),
            seed=integer("seed", given.get("seed", 0), 0, MAX_SEED),
            config=check_config(recipe, given.get("config", {})),
        )

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-able data; `from_dict` gives it back."""
        return asdict(self)

    @property
    def rate(self) -> float:
        """The learning rate in force: the one given, or the default of recipe and optimizer."""
        return self.learning_rate or _LEARNING_RATES[self.recipe, self.optimizer]


def check_config(recipe: str, config: object) -> dict[str, Any]:
    """The complete config of a recipe. Raises `invalid_field` at `config` or `config.<key>`.

    `mlp`: `hidden` (widths of the hidden layers), `dropout` (share of units, 0 to 0.9).
    `linear`: nothing.
    """
    if not isinstance(config, Mapping):
        raise invalid("config", "config is not an object", 'Use {"hidden": [256, 128]}.')
    if recipe == "linear":
        known(config, (), "config.")
        return {}
    known(config, ("hidden", "dropout"), "config.")
    return {
        "hidden": _hidden(config.get("hidden", [256, 128])),
        "dropout": _dropout(config.get("dropout", 0.3)),
    }


def _hidden(value: object) -> list[int]:
    field = "config.hidden"
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_LAYERS:
        raise invalid(
            field,
            f"{value!r} is not a list of widths",
            f"Use 1 to {MAX_LAYERS} whole numbers, such as [256, 128].",
        )
    widths = [integer(field, width, 1, MAX_WIDTH) for width in value]
    # The first and the last layer's sizes follow from the data, which is not known here.
    parameters = sum(a * b for a, b in pairwise(widths))
    if parameters > MAX_PARAMETERS:
        raise invalid(
            field,
            f"these layers have {parameters:,} parameters; the limit is {MAX_PARAMETERS:,}",
            "Use fewer or narrower layers, such as [256, 128].",
        )
    return widths


def _dropout(value: object) -> float:
    told = "Use a number from 0 to 0.9."
    dropout = real("config.dropout", value, told)
    if not 0 <= dropout <= 0.9:
        raise invalid("config.dropout", f"{value!r} is not allowed", told)
    return dropout


def _learning_rate(value: object) -> float:
    rate = real("learning_rate", value, _RATE_HINT)
    if not 0 < rate <= MAX_RATE:
        raise invalid("learning_rate", f"{value!r} is not above 0 and at most 1000", _RATE_HINT)
    return rate


def _target(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise invalid("target", f"{value!r} is not a column name", "Name a column of the dataset.")
    return value.strip()
