"""What trials were asked and what they found; which of them is best. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SUCCEEDED, DIVERGED, FAILED = "succeeded", "diverged", "failed"


def trial_name(run: int) -> str:
    """Names the files of a run."""
    return f"trial-{run:04}"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A run to make: of trial `trial`, with these parameters. `rung` and `epochs` are those of
    successive halving; epochs None: as the spec says."""

    run: int
    trial: int
    parameters: dict[str, Any]
    rung: int = 0
    epochs: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found. `score` is the figure that decides, None unless it `succeeded`;
    `figures` are those of its best epoch on validation."""

    run: int
    trial: int
    parameters: dict[str, Any]
    rung: int
    status: str
    epochs: int = 0
    best_epoch: int = 0
    score: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Outcome:
        return cls(**body)


def ranked(outcomes: Iterable[Outcome], higher: bool) -> list[Outcome]:
    """The successful ones, the best first; among equals the earlier one."""
    sign = -1.0 if higher else 1.0
    good = [outcome for outcome in outcomes if outcome.score is not None]
    return sorted(good, key=lambda outcome: (sign * (outcome.score or 0.0), outcome.run))


def best(outcomes: Iterable[Outcome], higher: bool) -> Outcome | None:
    """The best run of the highest rung that any run has ended well in."""
    good = [outcome for outcome in outcomes if outcome.score is not None]
    top = max((outcome.rung for outcome in good), default=0)
    return next(iter(ranked((o for o in good if o.rung == top), higher)), None)


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many runs ended in each way."""
    return {
        status: sum(outcome.status == status for outcome in outcomes)
        for status in (SUCCEEDED, DIVERGED, FAILED)
    }
