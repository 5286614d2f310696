"""A search for steps: its budget, what it keeps over a kill, what it chooses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_jobs import RecordedJob
from meuse.compress.auto import Found, Trial, Tried, choose, keeps, search, told
from meuse.compress.propose import FAMILIES, usable
from meuse.compress.spec import Auto, CompressSpec, Goal, Step
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.ports import Paused

FAMILY = usable(FAMILIES, ["quantize"])


def small(steps: Sequence[Step]) -> Tried:
    """Every step halves the file and costs 0.004."""
    return Tried(0.9 - 0.004 * len(steps), 0.004 * len(steps), 1000 >> len(steps), 1.0, 1.2)


def test_a_search_tries_until_nothing_is_left(tmp_path: Path) -> None:
    """One family of one level is one trial, kept with its figures, and told."""
    job = RecordedJob(tmp_path)
    found = search(job, FAMILY, Goal(), Auto(trials=5), "d", small)
    assert [trial.name for trial in found.trials] == ["quantize"]
    assert (found.front, found.chosen, found.ended) == ((0,), (0,), "Nothing was left to try.")
    body = told(found, 0.9, 1000, 0)
    assert body["trials"][0]["recommended"]
    assert body["trials"][0]["bytes"] == 500
    assert job.figures == [
        ({"trial_metric": 0.896, "trial_bytes": 500.0}, {"trial": 0, "steps": "quantize"})
    ]


def test_a_killed_search_goes_on_after_its_last_trial(tmp_path: Path) -> None:
    """Trials that ended are not made again by the same search; by another they are."""
    made: list[int] = []

    def counted(steps: Sequence[Step]) -> Tried:
        made.append(len(steps))
        return small(steps)

    first = search(RecordedJob(tmp_path), FAMILY, Goal(), Auto(), "d", counted)
    again = search(RecordedJob(tmp_path), FAMILY, Goal(), Auto(), "d", counted)
    assert again == first
    assert len(made) == 1
    search(RecordedJob(tmp_path), FAMILY, Goal(), Auto(), "other", counted)
    assert len(made) == 2


def test_a_pause_and_a_budget_stop_between_trials(tmp_path: Path) -> None:
    """A paused job begins no trial; neither does one whose seconds are spent."""
    job = RecordedJob(tmp_path)
    job.is_paused = True
    with pytest.raises(Paused):
        search(job, FAMILY, Goal(), Auto(), "d", small)
    many = (*FAMILY, *usable(FAMILIES, ["quantize"]))

    def slow(steps: Sequence[Step]) -> Tried:
        time.sleep(0.02)
        return small(steps)

    found = search(RecordedJob(tmp_path), many, Goal(), Auto(seconds=0.01), "d", slow)
    assert (len(found.trials), found.ended) == (1, "0.01 s were spent on trials.")
    found = search(RecordedJob(tmp_path), many, Goal(), Auto(trials=1), "e", small)
    assert (len(found.trials), found.ended) == (1, "1 trials were made.")


def test_a_candidate_that_cannot_be_made_is_recorded(tmp_path: Path) -> None:
    """What a method refuses is an outcome of the search, other faults end it."""

    def refusing(steps: Sequence[Step]) -> Tried:
        raise invalid("steps.0.method", "nothing can be quantized")

    found = search(RecordedJob(tmp_path / "a"), FAMILY, Goal(), Auto(), "d", refusing)
    assert "nothing can be quantized" in str(found.trials[0].error)
    assert (found.front, found.chosen) == ((), ())

    def broken(steps: Sequence[Step]) -> Tried:
        raise MeuseError(Code.INTERNAL, "the disk is full")

    with pytest.raises(MeuseError, match="disk"):
        search(RecordedJob(tmp_path / "b"), FAMILY, Goal(), Auto(), "d", broken)


def test_outputs_that_are_not_finite_are_no_candidate(tmp_path: Path) -> None:
    """NaN as a metric is an error of the trial."""
    lost = Tried(float("nan"), 0.0, 10, 1.0, 1.0)
    found = search(RecordedJob(tmp_path), FAMILY, Goal(), Auto(), "d", lambda steps: lost)
    assert found.trials[0].error == "some outputs are not finite"
    assert found.chosen == ()


TRIED = st.builds(
    Tried, metric=st.floats(0, 1), drop=st.floats(-0.1, 0.1), bytes=st.integers(1, 9),
    p50_ms=st.just(1.0), p95_ms=st.floats(0.1, 3),
)  # fmt: skip


@given(
    st.lists(TRIED, max_size=12), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 9)),
    st.one_of(st.none(), st.floats(0.1, 3)),
)  # fmt: skip
def test_what_is_chosen_keeps_the_goal(
    tried: list[Tried], most: int, max_bytes: int | None, max_latency: float | None
) -> None:
    """At most so many of the front, each within the goal, the smallest first; the smallest that
    keeps the whole goal is never missed when it is on the front."""
    goal = Goal(0.01, max_bytes, max_latency)
    trials = [Trial(i, (1,), ({"method": "x"},), 1.0, each) for i, each in enumerate(tried)]
    on_front, chosen = choose(trials, goal, most)
    assert len(chosen) <= most
    assert set(chosen) <= set(on_front)
    assert all(keeps(tried[number], goal) for number in chosen)
    sizes = [tried[number].bytes for number in chosen]
    assert sizes == sorted(sizes)
    good = [n for n in on_front if keeps(tried[n], goal)]
    assert bool(chosen) == bool(good)
    if good:
        assert tried[chosen[0]].bytes == min(tried[n].bytes for n in good)


def test_a_trial_survives_json() -> None:
    """What a file keeps of a trial gives the trial back."""
    for trial in (
        Trial(3, (1, 0), ({"method": "quantize"},), 1.5, Tried(0.9, 0.0, 10, 1.0, 1.2)),
        Trial(4, (0, 2), ({"method": "quantize"},), 1.5, None, "refused"),
    ):
        assert Trial.from_dict(trial.to_dict()) == trial
    assert Found((), (), (), "").trials == ()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"auto": {"trials": 3}}, "auto"),
        ({"steps": "auto", "auto": {"trials": 0}}, "auto.trials"),
        ({"steps": "auto", "auto": {"keep": 99}}, "auto.keep"),
        ({"steps": "auto", "auto": {"seconds": 0}}, "auto.seconds"),
        ({"steps": "auto", "auto": {"minutes": 1}}, "auto.minutes"),
        ({"steps": "auto", "auto": 3}, "auto"),
    ],
)
def test_a_bad_budget_is_refused_by_name(fields: dict[str, object], field: str) -> None:
    """A search is asked for as a whole, and every part of its budget has bounds."""
    with pytest.raises(MeuseError) as caught:
        CompressSpec.from_dict({"model": "m:1", **fields})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)


def test_a_spec_of_a_search_round_trips() -> None:
    """`auto` has no steps and a budget; to_dict gives it back."""
    spec = CompressSpec.from_dict({"model": "m:1", "steps": "auto", "auto": {"trials": "7"}})
    assert (spec.steps, spec.auto) == ((), Auto(7, None, 5))
    assert CompressSpec.from_dict(spec.to_dict()) == spec
