"""The Pareto front, and what a search proposes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.compress import catalog
from meuse.compress.pareto import dominates, front, spread
from meuse.compress.propose import FAMILIES, Family, Levels, Outcome, propose, steps_of, usable
from meuse.compress.spec import steps_from

POINTS = st.lists(st.tuples(*[st.integers(0, 6)] * 3), max_size=25)


@given(POINTS)
def test_the_front_is_what_nothing_dominates(points: list[tuple[int, int, int]]) -> None:
    """No point of the front is dominated; every other one is, and by one of the front."""
    on_front = front(points)
    assert on_front == sorted(set(on_front))
    assert bool(on_front) == bool(points)
    for place, point in enumerate(points):
        beaten = any(dominates(other, point) for other in points)
        assert beaten == (place not in on_front)
        if beaten:
            assert any(dominates(points[best], point) for best in on_front)


@given(st.integers(0, 30), st.integers(1, 10))
def test_a_spread_keeps_the_ends(count: int, keep: int) -> None:
    """At most so many, in order, none twice, the smallest always among them."""
    kept = spread(range(count), keep)
    assert len(kept) == min(count, keep)
    assert kept == sorted(set(kept))
    if count:
        assert kept[0] == 0
    if count and keep > 1:
        assert kept[-1] == count - 1


SMALL = (
    Family("a", ({}, {}, {})),
    Family("b", ({}, {})),
    Family("mend", ({},), mends=True),
)


def searched(lost: set[Levels], limit: int = 100) -> list[Outcome]:
    """All that is tried when candidates above any of `lost` lose too much."""
    done: list[Outcome] = []
    while len(done) < limit:
        levels = propose(SMALL, done)
        if levels is None:
            return done
        press = levels[:2]
        bad = any(all(x >= y for x, y in zip(press, bound, strict=True)) for bound in lost)
        done.append(Outcome(levels, 100 - 10 * sum(press), not bad or levels[2] == 1))
    raise AssertionError("the search does not end")


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 2)).filter(any), max_size=3))
def test_a_search_ends_and_finds_the_strongest_that_keeps(lost: set[Levels]) -> None:
    """Nothing is tried twice or is stronger than what has lost, unless it is mended; the
    strongest candidates that keep the goal are all found."""
    done = searched(lost)
    tried = [outcome.levels for outcome in done]
    assert len(set(tried)) == len(tried)
    assert (0, 0, 0) not in tried
    for place, outcome in enumerate(done):
        for earlier in done[:place]:
            if not earlier.kept and outcome.levels[2] <= earlier.levels[2]:
                assert any(x < y for x, y in zip(outcome.levels, earlier.levels, strict=True))
    for levels in itertools.product(range(4), range(3)):
        if levels != (0, 0) and not any(
            all(x >= y for x, y in zip(levels, bound, strict=True)) for bound in lost
        ):
            assert (*levels, 0) in tried or (*levels, 1) in tried


def test_each_family_alone_comes_first() -> None:
    """The first candidates are one family each, at its mildest; mending is none of them."""
    done = searched(set(), 100)
    assert [o.levels for o in done[:2]] == [(1, 0, 0), (0, 1, 0)]
    assert all(o.levels[2] == 0 for o in done)
    # Then the smallest so far is made stronger.
    assert done[2].levels == (2, 0, 0)


def test_what_cannot_be_made_is_not_made_stronger() -> None:
    """A family whose first level fails is left out of everything that follows."""
    done = [Outcome((1, 0, 0), None, False)]
    found = []
    while (levels := propose(SMALL, done)) is not None:
        found.append(levels)
        done.append(Outcome(levels, 50, True))
    assert found == [(0, 1, 0), (0, 2, 0)]


def test_fast_ones_go_before_small_ones() -> None:
    """Under a goal for latency, what meets it is made stronger first."""
    done = [Outcome((1, 0, 0), 10, True, fast=False), Outcome((0, 1, 0), 50, True, fast=True)]
    assert propose(SMALL, done) == (1, 1, 0)


@pytest.mark.parametrize("family", usable(FAMILIES, list(catalog.METHODS)), ids=lambda f: f.method)
def test_every_level_is_a_config_of_its_method(family: Family) -> None:
    """What a search may propose is accepted as a step."""
    for level in range(1, len(family.levels) + 1):
        (step,) = steps_of((family,), (level,))
        assert steps_from([step])[0].method == family.method


def test_the_families_are_in_an_order_that_steps_allow() -> None:
    """All families at once are steps in an order that is not refused."""
    families = usable(FAMILIES, list(catalog.METHODS))
    assert families
    steps = steps_of(families, (1,) * len(families))
    assert [s.method for s in steps_from(steps)] == [f.method for f in families]
