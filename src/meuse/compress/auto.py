"""Automatic compression: candidates tried on the validation split, the best of them kept.

Trials are kept in the job's folder as they end: a killed job goes on after the last of them.
Knows proposals and the pipeline by what it gives; knows no method and no test split.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from meuse.compress import propose
from meuse.compress.pareto import front, spread
from meuse.compress.propose import Family, Levels, Outcome
from meuse.compress.spec import Auto, Goal, Step, steps_from
from meuse.core.errors import Code, MeuseError
from meuse.core.ports import JobContext, Paused
from meuse.train.parts import keep, kept, outcome_of

JSON = dict[str, Any]

SHARE = 0.85
"""The trials' share of a job's progress; the rest is the judgement of what is kept."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a candidate measured, on the validation split and in the engine."""

    metric: float
    drop: float
    bytes: int
    p50_ms: float
    p95_ms: float


Try = Callable[[Sequence[Step]], Tried]
"""Applies steps to the parent and measures the candidate. Raises what methods raise."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate of a search. `error` is why it could not be made."""

    number: int
    levels: Levels
    steps: tuple[JSON, ...]
    seconds: float
    tried: Tried | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """Such as `prune 0.9 + share 4 + pack`."""
        return " + ".join(_short(step) for step in self.steps)

    def to_dict(self) -> JSON:
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Trial:
        tried = None if body["tried"] is None else Tried(**body["tried"])
        levels, steps = tuple(body["levels"]), tuple(body["steps"])
        return cls(**{**body, "levels": levels, "steps": steps, "tried": tried})


@dataclass(frozen=True, slots=True)
class Found:
    """All trials of a search, the numbers of those on the front, of those to be kept (the
    smallest first), and why the search ended."""

    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    chosen: tuple[int, ...]
    ended: str


def search(
    job: JobContext,
    families: Sequence[Family],
    goal: Goal,
    auto: Auto,
    digest: str,
    attempt: Try,
) -> Found:
    """Try candidates until the budget is spent or nothing is left to try.

    `digest` names parent, data, code and goal: trials of another search are not taken over.
    Raises `Paused`, and what a trial raises that says nothing of its steps.
    """
    trials: list[Trial] = []
    ended = f"{auto.trials} trials were made."
    while len(trials) < auto.trials:
        if auto.seconds is not None and sum(trial.seconds for trial in trials) >= auto.seconds:
            ended = f"{auto.seconds:g} s were spent on trials."
            break
        levels = propose.propose(families, [outcome_for(trial, goal) for trial in trials])
        if levels is None:
            ended = "Nothing was left to try."
            break
        trials.append(_trial(job, families, levels, len(trials), digest, attempt))
        job.progress(SHARE * len(trials) / auto.trials, note=f"trial {len(trials)}/{auto.trials}")
    on_front, chosen = choose(trials, goal, auto.keep)
    return Found(tuple(trials), tuple(on_front), tuple(chosen), ended)


def choose(trials: Sequence[Trial], goal: Goal, most: int) -> tuple[list[int], list[int]]:
    """(numbers on the Pareto front of bytes, metric and, under a goal for it, latency; those of
    at most `most` on it that keep the goal on validation, the smallest first)."""
    made = [(trial.number, trial.tried) for trial in trials if trial.tried is not None]
    made = [(n, t) for n, t in made if np.isfinite(t.metric)]
    costs = [
        (t.bytes, -t.metric, *([t.p95_ms] if goal.max_latency_ms is not None else []))
        for _, t in made
    ]
    best = [made[place] for place in front(costs)]
    best.sort(key=lambda entry: (entry[1].bytes, -entry[1].metric, entry[0]))
    good = [number for number, tried in best if keeps(tried, goal)]
    return [number for number, _ in best], spread(good, most)


def keeps(tried: Tried, goal: Goal) -> bool:
    """Whether a candidate meets the whole goal, by what was measured in the search."""
    return bool(
        tried.drop <= goal.max_drop + 1e-9
        and (goal.max_bytes is None or tried.bytes <= goal.max_bytes)
        and (goal.max_latency_ms is None or tried.p95_ms <= goal.max_latency_ms)
    )


def outcome_for(trial: Trial, goal: Goal) -> Outcome:
    """A trial as proposals see it: too large is no reason to press less, too bad is."""
    if trial.tried is None:
        return Outcome(trial.levels, None, False)
    kept_ = bool(trial.tried.drop <= goal.max_drop + 1e-9)  # NaN: not
    fast = goal.max_latency_ms is None or trial.tried.p95_ms <= goal.max_latency_ms
    return Outcome(trial.levels, trial.tried.bytes, kept_, fast)


def told(found: Found, metric: float, size: int, recommended: int | None = None) -> JSON:
    """The search for the report; `metric` (on validation) and `size` are the parent's."""
    trials = []
    for trial in found.trials:
        entry: JSON = {
            "number": trial.number,
            "name": trial.name,
            "steps": list(trial.steps),
            "seconds": trial.seconds,
            "error": trial.error,
            "metric": None, "drop": None, "bytes": None, "p50_ms": None, "p95_ms": None,
            "front": trial.number in found.front,
            "recommended": trial.number == recommended,
        }  # fmt: skip
        trials.append(entry | (asdict(trial.tried) if trial.tried is not None else {}))
    return {"metric": metric, "bytes": size, "trials": trials, "ended": found.ended}


def _trial(
    job: JobContext,
    families: Sequence[Family],
    levels: Levels,
    number: int,
    digest: str,
    attempt: Try,
) -> Trial:
    path = outcome_of(job.folder, f"auto-{number:03}")
    before = kept(path, digest)
    if before is not None and tuple(before["levels"]) == levels:
        return Trial.from_dict(before)
    if job.paused():
        raise Paused
    steps = propose.steps_of(families, levels)
    trial = Trial(number, levels, tuple(steps), 0.0)
    job.log(f"trial {number + 1}: {trial.name}")
    begun = time.monotonic()
    try:
        tried = attempt(steps_from(steps))
        if not np.isfinite([tried.metric, tried.drop]).all():
            trial = replace(trial, error="some outputs are not finite")
        else:
            trial = replace(trial, tried=tried)
    except MeuseError as error:
        if error.code not in (Code.INVALID_DATA, Code.INVALID_FIELD) or error.field == "data":
            raise
        trial = replace(trial, error=str(error))
    trial = replace(trial, seconds=round(time.monotonic() - begun, 3))
    keep(path, digest, json.loads(json.dumps(trial.to_dict())))
    _tell(job, trial)
    return trial


def _tell(job: JobContext, trial: Trial) -> None:
    if trial.tried is None:
        job.log(f"trial {trial.number + 1} could not be made: {trial.error}", level="warning")
        return
    found = trial.tried
    job.log(
        f"trial {trial.number + 1}: {found.bytes:,} bytes, metric {found.metric:.4f} (drop "
        f"{found.drop:.4f}), p95 {found.p95_ms:.3f} ms"
    )
    figures = {"trial_metric": found.metric, "trial_bytes": float(found.bytes)}
    job.metrics(figures, trial=trial.number, steps=trial.name)


def _short(step: Mapping[str, Any]) -> str:
    values = [
        f"{v:g}" if isinstance(v, float) else str(v) for k, v in step.items() if k != "method"
    ]
    return " ".join([str(step["method"]), *values])
