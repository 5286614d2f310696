"""Which steps an automatic search tries next. Pure: the same outcomes give the same proposal.

A candidate is a level per family of methods (0: without it), each level stronger than the one
below. What lost too much is not made stronger: every candidate that has all of its levels or
higher is left out. Best-first: after each family has been tried alone, the smallest candidate
that keeps the goal is made stronger by one level of one family at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

JSON = dict[str, Any]
Levels = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """A method at growing strength: `levels` are its configs. One that `mends` makes nothing
    smaller: it is added to what lost too much, and never tried alone."""

    method: str
    levels: tuple[JSON, ...]
    mends: bool = False


FAMILIES = (
    Family("prune_structured", ({"rate": 0.2}, {"rate": 0.35}, {"rate": 0.5})),
    Family("low_rank", ({},)),
    Family("prune", ({"rate": 0.6}, {"rate": 0.8}, {"rate": 0.9}, {"rate": 0.95})),
    Family("distill", ({},), mends=True),
    Family("share", ({"bits": 6}, {"bits": 5}, {"bits": 4}, {"bits": 3})),
    Family("quantize", ({},)),
    Family("pack", ({},)),
)
"""In the order in which they are applied."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a candidate: `size` in bytes (None: it could not be made), whether it
    keeps what the metric may lose, and whether it is as fast as the goal asks."""

    levels: Levels
    size: int | None
    kept: bool
    fast: bool = True


def usable(families: Sequence[Family], methods: Sequence[str]) -> tuple[Family, ...]:
    """The families whose methods there are."""
    return tuple(family for family in families if family.method in methods)


def steps_of(families: Sequence[Family], levels: Levels) -> list[JSON]:
    """The candidate as a spec's steps. Distillation comes after what it mends, before weights
    take shared values; the order of `families` says so."""
    return [
        {"method": family.method, **family.levels[level - 1]}
        for family, level in zip(families, levels, strict=True)
        if level
    ]


def propose(families: Sequence[Family], done: Sequence[Outcome]) -> Levels | None:
    """The levels to try next; None when nothing is left to try."""
    seen = {outcome.levels for outcome in done}
    lost = [outcome.levels for outcome in done if not outcome.kept]
    root = (0,) * len(families)
    good = [o for o in done if o.kept and o.size is not None]
    good.sort(key=lambda o: (not o.fast, o.size, done.index(o)))
    # Mending last: it costs a training and may not help.
    mended = [o.levels for o in done if not o.kept and o.size is not None]
    sources = [(root, False), *((o.levels, False) for o in good), *((v, True) for v in mended)]
    for source, mending in sources:
        for levels in _stronger(families, source, mending):
            if levels not in seen and not any(_hopeless(families, levels, v) for v in lost):
                return levels
    return None


def _stronger(families: Sequence[Family], levels: Levels, mending: bool) -> Iterator[Levels]:
    for place, family in enumerate(families):
        if family.mends == mending and levels[place] < len(family.levels):
            yield (*levels[:place], levels[place] + 1, *levels[place + 1 :])


def _hopeless(families: Sequence[Family], levels: Levels, lost: Levels) -> bool:
    """Whether `levels` press at least as hard as what has lost too much, and mend no more."""
    return all(
        new <= old if family.mends else new >= old
        for family, new, old in zip(families, levels, lost, strict=True)
    )
