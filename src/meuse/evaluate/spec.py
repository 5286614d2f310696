"""What an evaluate job is asked to do, checked before anything starts. Loads no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import choice, integer, known, real
from meuse.core.figures import PRIMARY_FIGURE
from meuse.core.references import parse, parse_data

MAX_MODELS = 10
MAX_COLUMNS = 50
SPLITS = ("test", "validation", "all")
MAX_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class EvaluateSpec:
    """Judge `models` on `data`, side by side on the same rows.

    `split` None: the test rows of the versions that were trained on this data, else all.
    `target` None: the one that they were trained for. `task` is for uploaded versions, whose
    task nobody knows; `quantile` for regressions that estimate one. `slices` are columns.
    """

    models: tuple[str, ...]
    data: str
    split: str | None = None
    slices: tuple[str, ...] = ()
    target: str | None = None
    task: str | None = None
    quantile: float | None = None
    seed: int = 0

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> EvaluateSpec:
        """Raises `invalid_field` naming the field."""
        known(spec, {f.name for f in fields(cls)})
        given = {name: value for name, value in spec.items() if value is not None}
        return cls(
            models=_models(given.get("models")),
            data=str(parse_data(given.get("data"))),
            split=choice("split", given["split"], SPLITS) if "split" in given else None,
            slices=columns_named("slices", given.get("slices", [])),
            target=_name("target", given["target"]) if "target" in given else None,
            task=choice("task", given["task"], tuple(PRIMARY_FIGURE)) if "task" in given else None,
            quantile=_quantile(given["quantile"]) if "quantile" in given else None,
            seed=integer("seed", given.get("seed", 0), 0, MAX_SEED),
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "models": list(self.models), "slices": list(self.slices)}


def _models(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_MODELS:
        raise invalid(
            "models", "there is no list of versions", f'1 to {MAX_MODELS}, as ["digits:1", …].'
        )
    found = tuple(str(parse(text, f"models[{i}]")) for i, text in enumerate(value))
    if len(set(found)) < len(found):
        raise invalid("models", "a version is named twice")
    return found


def columns_named(field: str, value: object) -> tuple[str, ...]:
    """A list of names of columns. Raises `invalid_field`."""
    if not isinstance(value, list | tuple) or len(value) > MAX_COLUMNS:
        raise invalid(field, f"{field} is not a list of columns", f"At most {MAX_COLUMNS} names.")
    return tuple(_name(f"{field}[{i}]", name) for i, name in enumerate(value))


def _name(field: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise invalid(field, f"{value!r} is not a column name", "Name a column of the dataset.")
    return value.strip()


def _quantile(value: object) -> float:
    told = "Use a number between 0 and 1, such as 0.9."
    quantile = real("quantile", value, told)
    if not 0 < quantile < 1:
        raise invalid("quantile", f"{quantile:g} is not between 0 and 1", told)
    return quantile
