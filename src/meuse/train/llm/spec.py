"""What a fine-tuning is asked to do, checked before anything starts.

Knows names and ranges; knows no torch and no tokenizer, because the control process validates
with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from meuse.core.errors import invalid
from meuse.core.fields import known, real
from meuse.core.ids import check_name
from meuse.core.references import is_file, parse
from meuse.core.tuning import FIELD
from meuse.train import recipes
from meuse.train.options import LoopOptions
from meuse.train.recipes.language import Full, Lora

RECIPES = ("llm-lora", "llm-full")
OPTIONS = (
    "optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "epochs", "batch_size",
    "accumulate", "clip_norm", "precision", "early_stopping", "seed", "checkpoint_seconds",
)  # fmt: skip
"""Those of the training loop that hold here."""
OWN = (
    "model_name", "recipe", "base", "data", "validation", "validation_fraction", "check_only",
    "config",
)  # fmt: skip
ASIDE = ("card", FIELD)
"""What a job's spec has beside these."""
FRACTION = 0.1
MAX_TOKENS = 1024
"""Of an example, unless the config says otherwise or the context is shorter."""


def is_tuning(recipe: object) -> bool:
    """Whether a recipe of this name fine-tunes a language model."""
    return isinstance(recipe, str) and recipe.strip().lower() in RECIPES


@dataclass(frozen=True, slots=True)
class TuneSpec:
    """One fine-tuning. Equal specs on equal data give bit-identical weights on one machine.

    `base` is a version of a language model; `data` and `validation` are ids of files. Without
    `validation` a share of the examples, `validation_fraction`, is held out (0: none).
    `check_only` ends after the data was checked and counted.
    """

    model_name: str
    recipe: str
    base: str
    data: str
    validation: str | None = None
    validation_fraction: float = FRACTION
    check_only: bool = False
    config: Full = field(default_factory=Lora)
    loop: LoopOptions = field(default_factory=LoopOptions)

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> TuneSpec:
        """Check and complete a spec. Raises `invalid_field`."""
        known(spec, (*OWN, *OPTIONS))
        given = {name: value for name, value in spec.items() if value is not None}
        recipe = recipes.find(given.get("recipe"))
        config = recipe.configure(given.get("config", {}))
        assert isinstance(config, Full)
        options = {name: given[name] for name in OPTIONS if name in given}
        loop = recipe.options(options, config)
        if loop.optimizer == "gd":
            raise invalid("optimizer", "gd takes one step per epoch", "Use adamw, adam or sgd.")
        check_only = given.get("check_only", False)
        if not isinstance(check_only, bool):
            raise invalid("check_only", f"{check_only!r} is not true or false")
        return cls(
            model_name=check_name(given.get("model_name"), field="model_name"),
            recipe=recipe.name,
            base=str(parse(given.get("base"), "base")),
            data=_file("data", given.get("data")),
            validation=_file("validation", given["validation"]) if "validation" in given else None,
            validation_fraction=_fraction(given),
            check_only=check_only,
            config=config,
            loop=loop,
        )

    @classmethod
    def of_job(cls, spec: Mapping[str, Any]) -> TuneSpec:
        """Of the spec that a job keeps."""
        return cls.from_dict({name: spec[name] for name in spec if name not in ASIDE})

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-able data, complete; `from_dict` gives it back."""
        own = {name: msgspec.to_builtins(getattr(self, name)) for name in OWN}
        loop = msgspec.to_builtins(self.loop)
        return {**own, **{name: loop[name] for name in OPTIONS}}

    @property
    def seed(self) -> int:
        return self.loop.seed

    @property
    def lora(self) -> Lora | None:
        """The config of the adapter; None where all weights are trained."""
        return self.config if isinstance(self.config, Lora) else None


def _file(field: str, value: object) -> str:
    if not is_file(value):
        raise invalid(
            field,
            f"{value!r} is not the id of a file" if value else "a file is missing",
            'Upload it with POST /v1/files (purpose "fine-tune"), and name its id: file-….',
        )
    return str(value)


def _fraction(given: Mapping[str, Any]) -> float:
    told = "Use a share from 0 to 0.5, such as 0.1."
    share = real("validation_fraction", given.get("validation_fraction", FRACTION), told)
    if not 0 <= share <= 0.5:
        raise invalid("validation_fraction", f"{share:g} is not a share to hold out", told)
    if "validation" in given and given.get("validation_fraction"):
        return 0.0
    return 0.0 if "validation" in given else share
