"""What a compress job is asked to do, checked before anything starts.

Knows the names of methods and goals; knows neither torch nor onnxruntime, because the
control process validates with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import choice, integer, known, real
from meuse.core.references import parse, parse_data

METHODS = ("quantize",)
_MAX_BYTES = 2**40


@dataclass(frozen=True, slots=True)
class Goal:
    """What the result must keep to, else the job is refused.

    `max_drop`: how far the primary metric (accuracy, R²) may fall, 0 to 1. `max_bytes`: size
    of the model file. `max_latency_ms`: 95th percentile at batch 1 on this machine.
    """

    max_drop: float = 0.01
    max_bytes: int | None = None
    max_latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class CompressSpec:
    """One compression. `model` is `name:version` or `name@alias`; `data` None means the
    dataset that the model was trained on."""

    model: str
    data: str | None = None
    goal: Goal = Goal()
    steps: tuple[dict[str, Any], ...] = ({"method": "quantize"},)

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> CompressSpec:
        """Check and complete a spec; numbers may come as text. Raises `invalid_field`."""
        known(spec, {f.name for f in fields(cls)})
        given = {name: value for name, value in spec.items() if value is not None}
        return cls(
            model=_parent(given.get("model")),
            data=str(parse_data(given["data"])) if "data" in given else None,
            goal=_goal(given.get("goal", {})),
            steps=_steps(given.get("steps", [{"method": "quantize"}])),
        )

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-able data; `from_dict` gives it back."""
        return {**asdict(self), "steps": [dict(step) for step in self.steps]}


def _goal(goal: object) -> Goal:
    if not isinstance(goal, Mapping):
        raise invalid("goal", f"{goal!r} is not an object", 'Use {"max_drop": 0.01}.')
    known(goal, {f.name for f in fields(Goal)}, "goal.")
    given = {name: value for name, value in goal.items() if value is not None}
    told = "Use a number from 0 to 1, such as 0.01."
    drop = real("goal.max_drop", given.get("max_drop", 0.01), told)
    if not 0 <= drop <= 1:
        raise invalid("goal.max_drop", f"{drop!r} is not allowed", told)
    size: int | None = None
    if "max_bytes" in given:
        size = integer("goal.max_bytes", given["max_bytes"], 1, _MAX_BYTES)
    latency: float | None = None
    if "max_latency_ms" in given:
        told = "Use a number of milliseconds above 0."
        latency = real("goal.max_latency_ms", given["max_latency_ms"], told)
        if latency <= 0:
            raise invalid("goal.max_latency_ms", f"{latency!r} is not above 0", told)
    return Goal(drop, size, latency)


def _steps(steps: object) -> tuple[dict[str, Any], ...]:
    if not isinstance(steps, list | tuple) or not steps:
        raise invalid("steps", "steps is not a list of steps", 'Use [{"method": "quantize"}].')
    checked: list[dict[str, Any]] = []
    for index, step in enumerate(steps):
        field = f"steps.{index}"
        if not isinstance(step, Mapping):
            raise invalid(field, f"{step!r} is not an object", 'Use {"method": "quantize"}.')
        method = choice(f"{field}.method", step.get("method"), METHODS)
        known(step, ("method",), f"{field}.")
        if any(done["method"] == method for done in checked):
            raise invalid(f"{field}.method", f"{method!r} stands twice", "Name every method once.")
        checked.append({"method": method})
    return tuple(checked)


def _parent(value: object) -> str:
    reference = parse(value)
    if reference.version is None and reference.alias is None:
        raise invalid(
            "model", f"{value!r} names no version", 'Such as "digits:2" or "digits@champion".'
        )
    return str(reference)
