"""Which run comes next: random, Halton points, successive halving; `tpe` has its own module.

Every proposal follows from the spec and the outcomes of earlier runs alone, so a search that
goes on after a kill repeats the sequence. Pure, and standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from meuse.train.search.outcomes import Outcome, Proposal, ranked
from meuse.train.search.space import Space, point
from meuse.train.search.spec import Budget, SearchSpec
from meuse.train.seeds import derive

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)


class Method(Protocol):
    """Runs 0, 1, 2, … of a search."""

    @property
    def runs(self) -> int:
        """How many there are at most."""
        ...

    def needs(self, run: int) -> int:
        """Of how many first runs the outcomes must be known before this one is proposed."""
        ...

    def propose(self, run: int, outcomes: Sequence[Outcome]) -> Proposal | None:
        """The run, given the outcomes of runs 0 to `needs(run)` - 1; None when it falls away
        (too few others ended well). Called for every run in order, each once."""
        ...


Sample = Callable[[int], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Independent:
    """Trials that learn nothing from each other."""

    runs: int
    sample: Sample

    def needs(self, run: int) -> int:
        return 0

    def propose(self, run: int, outcomes: Sequence[Outcome]) -> Proposal | None:
        return Proposal(run, run, self.sample(run))


@dataclass(frozen=True, slots=True)
class Rung:
    """A round of successive halving: its first run, how many runs, and their epochs."""

    start: int
    count: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Halving:
    """Synchronous successive halving (Jamieson and Talwalkar 2016; the rungs of Li et al. 2017,
    Hyperband): all trials train for a few epochs, the best 1/eta of them for eta times as many
    from the start, and so on."""

    rungs: tuple[Rung, ...]
    higher: bool
    sample: Sample

    @property
    def runs(self) -> int:
        return sum(rung.count for rung in self.rungs)

    def needs(self, run: int) -> int:
        return self.rungs[self._level(run)].start

    def propose(self, run: int, outcomes: Sequence[Outcome]) -> Proposal | None:
        level = self._level(run)
        rung = self.rungs[level]
        if level == 0:
            return Proposal(run, run, self.sample(run), 0, rung.epochs)
        before = [outcome for outcome in outcomes if outcome.rung == level - 1]
        order, place = ranked(before, self.higher), run - rung.start
        if place >= len(order):
            return None
        kept = order[place]
        return Proposal(run, kept.trial, kept.parameters, level, rung.epochs)

    def _level(self, run: int) -> int:
        return max(level for level, rung in enumerate(self.rungs) if rung.start <= run)


def rungs_of(trials: int, budget: Budget) -> tuple[Rung, ...]:
    """Rungs from `trials` runs down, the last of `max_epochs`; each has 1/eta of the runs before
    it (at least one) and eta times their epochs, and the first no fewer than `min_epochs`."""
    levels = 1
    while (
        budget.max_epochs // budget.eta**levels >= budget.min_epochs
        and trials // budget.eta**levels >= 1
    ):
        levels += 1
    found: list[Rung] = []
    start = 0
    for level in range(levels):
        count = max(1, trials // budget.eta**level)
        found.append(Rung(start, count, budget.max_epochs // budget.eta ** (levels - 1 - level)))
        start += count
    return tuple(found)


def random_sample(space: Space, seed: int) -> Sample:
    """Uniform points, one generator for each trial."""

    def sample(trial: int) -> dict[str, Any]:
        generator = random.Random(derive(seed, f"trial:{trial}"))  # noqa: S311  not a secret
        return point(space, [generator.random() for _ in space])

    return sample


def halton_sample(space: Space, seed: int) -> Sample:
    """Points of the Halton sequence (Halton 1960), shifted by the seed modulo 1 (Cranley and
    Patterson 1976): they fill the space more evenly than random ones."""
    generator = random.Random(derive(seed, "halton"))  # noqa: S311
    shifts = [generator.random() for _ in space]

    def sample(trial: int) -> dict[str, Any]:
        # The first points of large bases lie on a line; it leaves them out.
        values = (radical_inverse(trial + 1 + _PRIMES[-1], base) for base in _PRIMES)
        return point(space, [(v + s) % 1.0 for v, s in zip(values, shifts, strict=False)])

    return sample


def radical_inverse(number: int, base: int) -> float:
    """The digits of `number` in `base`, mirrored at the point: from 0, below 1."""
    value, scale = 0, 1
    while number:
        number, digit = divmod(number, base)
        value, scale = value * base + digit, scale * base
    return value / scale


def method_of(spec: SearchSpec, higher: bool) -> Method:
    """The method of a spec; `higher`: whether a larger score is better."""
    if spec.method == "tpe":
        from meuse.train.search.tpe import Tpe

        return Tpe(spec, higher)
    if spec.method == "halton":
        return Independent(spec.trials, halton_sample(spec.space, spec.seed))
    sample = random_sample(spec.space, spec.seed)
    if spec.budget is not None:
        return Halving(rungs_of(spec.trials, spec.budget), higher, sample)
    return Independent(spec.trials, sample)
