"""What a compress job of a language model is asked to do. Loads no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from meuse.compress import catalog
from meuse.compress.spec import LANGUAGE, Step, checked_step, parent_of
from meuse.core.errors import invalid
from meuse.core.fields import integer, known, real
from meuse.core.references import is_file

_MAX_BYTES = 1 << 50
METHODS = ", ".join(m.name for m in catalog.METHODS.values() if m.stage == LANGUAGE)


@dataclass(frozen=True, slots=True)
class LanguageGoal:
    """`max_drop`: how far perplexity may rise, as a share of the parent's, 0 to 1. `max_bytes`:
    all files of the result."""

    max_drop: float = 0.05
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LanguageCompressSpec:
    """`data` is a file of held-out texts, `step` the one step."""

    model: str
    data: str
    step: Step
    goal: LanguageGoal = LanguageGoal()
    seed: int = 0

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> LanguageCompressSpec:
        """Check and complete a spec. Raises `invalid_field`."""
        known(spec, ("model", "data", "goal", "steps", "seed"))
        given = {name: value for name, value in spec.items() if value is not None}
        return cls(
            model=parent_of(given.get("model")),
            data=_file(given.get("data")),
            step=_step(given.get("steps", "weights")),
            goal=_goal(given.get("goal", {})),
            seed=integer("seed", given.get("seed", 0), 0, 2**31 - 1),
        )

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-able data; `from_dict` gives it back."""
        return {
            "model": self.model,
            "data": self.data,
            "steps": [self.step.to_dict()],
            "goal": asdict(self.goal),
            "seed": self.seed,
        }


def _file(value: object) -> str:
    if not is_file(value):
        raise invalid(
            "data",
            "a language model is judged on held-out texts, and no file of them is named"
            if value is None
            else f"{str(value)[:80]!r} is no file",
            'Upload lines such as {"text": "…"} to /v1/files with the purpose fine-tune, and name '
            "the id.",
        )
    return str(value)


def _step(steps: object) -> Step:
    if isinstance(steps, str):
        steps = [name.strip() for name in steps.split(",") if name.strip()]
    if not isinstance(steps, list | tuple) or len(steps) != 1:
        told = f"a language model takes one step, one of: {METHODS}"
        raise invalid("steps", told, 'Use [{"method": "weights", "precision": "int8"}].')
    (step,) = steps
    name = step.get("method") if isinstance(step, Mapping) else step
    method = catalog.find(name, "steps.0.method")
    if method.stage != LANGUAGE:
        raise invalid(
            "steps.0.method",
            f"{method.name!r} is not for language models",
            f"Use one of: {METHODS}.",
        )
    if isinstance(step, Mapping) and step.get("gate") is not None:
        raise invalid("steps.0.gate", "one step has the job's gate", "Use goal.max_drop.")
    return checked_step("steps.0", step)


def _goal(goal: object) -> LanguageGoal:
    if not isinstance(goal, Mapping):
        raise invalid("goal", f"{goal!r} is not an object", 'Use {"max_drop": 0.05}.')
    known(goal, {f.name for f in fields(LanguageGoal)}, "goal.")
    given = {name: value for name, value in goal.items() if value is not None}
    told = "Use a share of the parent's perplexity from 0 to 1, such as 0.05."
    drop = real("goal.max_drop", given.get("max_drop", LanguageGoal().max_drop), told)
    if not 0 <= drop <= 1:
        raise invalid("goal.max_drop", f"{drop!r} is not allowed", told)
    size: int | None = None
    if "max_bytes" in given:
        size = integer("goal.max_bytes", given["max_bytes"], 1, _MAX_BYTES)
    return LanguageGoal(drop, size)
