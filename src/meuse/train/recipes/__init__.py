"""Recipes: named ways to train, each with a typed config and a function that builds.

`catalog` has those of the platform; other packages add theirs by entry points of the group
`meuse.recipes`. Finding one imports no torch: `build` and `fit` are imported where a job runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import msgspec

from meuse.core.errors import Code, MeuseError, invalid
from meuse.train.options import LoopOptions
from meuse.train.typed import convert, schema

GROUP = "meuse.recipes"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to train.

    `data` are the kinds of features it takes: table (float32 [n, f]), image (uint8 or float32
    [n, h, w, c]), text (int64 token ids [n, length], 0 is padding). `build` names a function
    (shape of a row, outputs, config, **needs) → torch module from features to scores
    [n, outputs];
    a recipe with a training of its own names `fit` instead: (job, arrays, config, **needs) →
    fitted (`train.run.Fitted`).
    `needs` are what the job brings besides; a config that has `needs` says so itself.
    `defaults` are loop options, under those of a config that has `defaults`; `rates` are
    learning rates by optimizer. `notes` names a function
    (config, kind of features, task, outputs) → what the job's log says before training; it
    raises `invalid_field` where the config does not fit, and imports no torch.
    """

    name: str
    summary: str
    data: frozenset[str]
    tasks: frozenset[str]
    config: type[msgspec.Struct]
    build: str | None = None
    fit: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    notes: str | None = None

    def configure(self, given: object, at: str = "config") -> msgspec.Struct:
        """The checked config. Raises `invalid_field` that names the part at fault."""
        return convert(given, self.config, at)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the config."""
        return schema(self.config)

    def options(
        self, given: Mapping[str, Any], config: msgspec.Struct | None = None
    ) -> LoopOptions:
        """The loop's options: what is given, over this recipe's defaults (for this config).

        Another optimizer than the recipe's brings its own rate, and no momentum of another.
        """
        settled = {**self.defaults, **getattr(config, "defaults", {})}
        given = {name: _named(name, value) for name, value in given.items() if value is not None}
        chosen = given.get("optimizer", settled.get("optimizer", "adam"))
        if chosen != settled.get("optimizer", "adam"):
            for name in ("learning_rate", "momentum", "nesterov"):
                settled.pop(name, None)
            if isinstance(chosen, str) and chosen in self.rates:
                settled["learning_rate"] = self.rates[chosen]
        return convert({**settled, **given}, LoopOptions)

    def builder(self) -> Any:
        """The function that `build` or `fit` names; imports torch and whatever it needs."""
        return _named_by(self.build or self.fit or "")

    def data_for(self, config: msgspec.Struct) -> frozenset[str]:
        """The kinds of features that it takes with this config, which may narrow `data`."""
        return self.data & getattr(config, "data", self.data)

    def needs_for(self, config: msgspec.Struct) -> tuple[str, ...]:
        """What `build` or `fit` takes besides, with this config."""
        needed: tuple[str, ...] = getattr(config, "needs", self.needs)
        return needed

    def remarks(
        self, config: msgspec.Struct, kind: str, task: str, outputs: int
    ) -> tuple[str, ...]:
        """What `notes` says of a config for these features and this task."""
        return tuple(_named_by(self.notes)(config, kind, task, outputs)) if self.notes else ()


def _named_by(path: str) -> Any:
    module, _, function = path.partition(":")
    return getattr(import_module(module), function)


def _named(name: str, value: Any) -> Any:
    """Names of optimizers, losses and schedules may be written in capitals."""
    names = ("optimizer", "loss", "schedule")
    return value.strip().lower() if name in names and isinstance(value, str) else value


@cache
def _all() -> dict[str, Recipe]:
    from meuse.train.recipes import catalog

    found = {recipe.name: recipe for recipe in catalog.RECIPES}
    for point in entry_points(group=GROUP):
        recipe = point.load()
        if not isinstance(recipe, Recipe) or recipe.name in found:
            raise MeuseError(
                Code.INTERNAL,
                f"the entry point {point.name!r} ({point.value}) of {GROUP} is no recipe, or "
                "has the name of another",
                hint="Remove or update the package that brings it.",
            )
        found[recipe.name] = recipe
    return found


def names() -> tuple[str, ...]:
    """All recipes, the platform's first."""
    return tuple(_all())


def find(name: object) -> Recipe:
    """A recipe by name. Raises `invalid_field` at `recipe`."""
    recipe = _all().get(str(name).strip().lower())
    if recipe is None:
        raise invalid(
            "recipe", f"there is no recipe {name!r}", f"Use one of: {', '.join(names())}."
        )
    return recipe
