"""What a compress job is asked to do, checked before anything starts.

Knows the names of methods and goals; knows neither torch nor onnxruntime, because the
control process validates with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import msgspec

from meuse.compress import catalog, order
from meuse.core.errors import invalid
from meuse.core.fields import integer, known, real
from meuse.core.references import parse, parse_data

AUTO = "auto"
MAX_STEPS = 32
MAX_TRIALS = 500
MAX_KEPT = 20
_MAX_BYTES = 2**40
LANGUAGE = "language"


@dataclass(frozen=True, slots=True)
class Step:
    """One method with its checked config. `gate` is how far the primary metric may have fallen
    on the validation split after it, against the parent; None: not judged."""

    method: str
    config: msgspec.Struct
    gate: float | None = None

    def to_dict(self) -> dict[str, Any]:
        told = {"method": self.method, **msgspec.to_builtins(self.config)}
        return told if self.gate is None else {**told, "gate": {"max_drop": self.gate}}


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
class Auto:
    """How long a search for steps goes on, and what is made of it.

    `trials` candidates at most, none begun after `seconds` were spent on them; `keep`: most
    versions that are registered.
    """

    trials: int = 24
    seconds: float | None = None
    keep: int = 5


@dataclass(frozen=True, slots=True)
class CompressSpec:
    """One compression. `model` is `name:version` or `name@alias`; `data` None means the
    dataset that the model was trained on. `steps` are methods of the network first, then those
    of the exported graph; with `auto` there are none: they are searched for. `sensitivity`:
    whether the report tells what each layer alone can bear."""

    model: str
    data: str | None = None
    goal: Goal = Goal()
    steps: tuple[Step, ...] = ()
    seed: int = 0
    auto: Auto | None = None
    sensitivity: bool = True

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> CompressSpec:
        """Check and complete a spec; numbers may come as text. Raises `invalid_field`."""
        known(spec, {f.name for f in fields(cls)})
        given = {name: value for name, value in spec.items() if value is not None}
        steps = given.get("steps", "quantize")
        searched = isinstance(steps, str) and steps.strip().lower() == AUTO
        if "auto" in given and not searched:
            raise invalid("auto", "the steps are given: nothing is searched", 'Use steps: "auto".')
        return cls(
            model=parent_of(given.get("model")),
            data=str(parse_data(given["data"])) if "data" in given else None,
            goal=_goal(given.get("goal", {})),
            steps=() if searched else steps_from(steps),
            auto=_auto(given.get("auto", {})) if searched else None,
            seed=integer("seed", given.get("seed", 0), 0, 2**31 - 1),
            sensitivity=_flag("sensitivity", given.get("sensitivity", True)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-able data; `from_dict` gives it back."""
        own: dict[str, Any] = {"model": self.model, "data": self.data, "seed": self.seed}
        own |= {"goal": asdict(self.goal), "sensitivity": self.sensitivity}
        if self.auto is not None:
            return {**own, "steps": AUTO, "auto": asdict(self.auto)}
        return {**own, "steps": [step.to_dict() for step in self.steps]}


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise invalid(field, f"{value!r} is not allowed", "Use true or false.")
    return value


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


def _auto(auto: object) -> Auto:
    if not isinstance(auto, Mapping):
        raise invalid("auto", f"{auto!r} is not an object", 'Use {"trials": 24}.')
    known(auto, {f.name for f in fields(Auto)}, "auto.")
    given = {name: value for name, value in auto.items() if value is not None}
    seconds: float | None = None
    if "seconds" in given:
        told = "Use a number of seconds above 0."
        seconds = real("auto.seconds", given["seconds"], told)
        if seconds <= 0:
            raise invalid("auto.seconds", f"{seconds!r} is not above 0", told)
    return Auto(
        trials=integer("auto.trials", given.get("trials", 24), 1, MAX_TRIALS),
        seconds=seconds,
        keep=integer("auto.keep", given.get("keep", 5), 1, MAX_KEPT),
    )


def steps_from(steps: object) -> tuple[Step, ...]:
    """Checked steps of a list, or of names with commas between them. Raises `invalid_field`."""
    if isinstance(steps, str):
        steps = [name.strip() for name in steps.split(",") if name.strip()]
    if not isinstance(steps, list | tuple) or not 1 <= len(steps) <= MAX_STEPS:
        told = f"steps is not a list of 1 to {MAX_STEPS} steps"
        raise invalid("steps", told, 'Use [{"method": "quantize"}] or "prune,quantize".')
    checked = tuple(checked_step(f"steps.{index}", step) for index, step in enumerate(steps))
    stages = [catalog.METHODS[step.method].stage for step in checked]
    if LANGUAGE in stages:
        at = stages.index(LANGUAGE)
        raise invalid(
            f"steps.{at}.method",
            f"{checked[at].method!r} is for language models, and this model takes rows",
            "Use quantize.",
        )
    order.check(checked)
    return checked


def checked_step(field: str, step: object) -> Step:
    """One step by name or as an object. Raises `invalid_field` at `field`."""
    step = {"method": step} if isinstance(step, str) else step
    if not isinstance(step, Mapping):
        raise invalid(field, f"{step!r} is not an object", 'Use {"method": "quantize"}.')
    method = catalog.find(step.get("method"), f"{field}.method")
    rest = {k: v for k, v in step.items() if k not in ("method", "gate") and v is not None}
    return Step(method.name, method.configure(rest, field), _gate(field, step.get("gate")))


def _gate(field: str, gate: object) -> float | None:
    if gate is None:
        return None
    told = 'Use {"max_drop": 0.01}, a share from 0 to 1.'
    if not isinstance(gate, Mapping):
        raise invalid(f"{field}.gate", f"{gate!r} is not an object", told)
    known(gate, ("max_drop",), f"{field}.gate.")
    drop = real(f"{field}.gate.max_drop", gate.get("max_drop"), told)
    if not 0 <= drop <= 1:
        raise invalid(f"{field}.gate.max_drop", f"{drop!r} is not allowed", told)
    return drop


def parent_of(value: object) -> str:
    """A reference with a version or an alias. Raises `invalid_field`."""
    reference = parse(value)
    if reference.version is None and reference.alias is None:
        raise invalid(
            "model", f"{value!r} names no version", 'Such as "digits:2" or "digits@champion".'
        )
    return str(reference)
