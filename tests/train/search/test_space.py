"""Spaces, points in them, the order of proposals: pure parts of a search."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.train.search.methods import (
    Halving,
    halton_sample,
    method_of,
    radical_inverse,
    random_sample,
    rungs_of,
)
from meuse.train.search.outcomes import FAILED, SUCCEEDED, Outcome, best
from meuse.train.search.space import Choices, Range, overlaid
from meuse.train.search.spec import METHODS, Budget, SearchSpec

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-4, "high": 1, "log": True},
    "batch_size": {"low": 8, "high": 64, "log": True},
    "weight_decay": {"low": 0, "high": 1},
    "config.hidden": {"choices": [[8], [16, 8]]},
}
BARE: dict[str, Any] = {"model_name": "m", "data": "d", "space": SPACE}


def spec_of(**fields: Any) -> SearchSpec:
    return SearchSpec.from_dict({**BARE, **fields})


def outcome(run: int, score: float | None, rung: int = 0) -> Outcome:
    return Outcome(run, run, {}, rung, FAILED if score is None else SUCCEEDED, score=score)


def test_ranges_are_whole_where_the_option_is() -> None:
    """Whole numbers for a batch, fractions for a decay, though both ends are whole."""
    space = spec_of().space
    assert space["batch_size"] == Range(8, 64, True, True)
    assert space["weight_decay"] == Range(0, 1)
    assert space["config.hidden"] == Choices(([8], [16, 8]))


@pytest.mark.parametrize("method", METHODS)
def test_a_spec_round_trips(method: str) -> None:
    """to_dict gives JSON that from_dict turns into the same spec."""
    spec = spec_of(method=method, base={"epochs": 9, "split": {"by": "ratio"}}, metric="loss")
    assert SearchSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@settings(deadline=None)
@given(
    low=st.integers(1, 50), width=st.integers(1, 50), log=st.booleans(), whole=st.booleans(),
    share=st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_a_range_is_never_left(low: int, width: int, log: bool, whole: bool, share: float) -> None:
    """Any share gives a number between the ends, a whole one where that is meant."""
    value = Range(low, low + width, log, whole).at(share)
    assert low <= value <= low + width
    assert isinstance(value, int) == whole


def test_a_logarithmic_range_is_even_in_its_logarithm() -> None:
    """Half-way between 1e-4 and 1 is 1e-2; whole ends come as often as what lies between."""
    assert Range(1e-4, 1, log=True).at(0.5) == pytest.approx(1e-2)
    found = [Range(1, 4, whole=True).at(i / 4000) for i in range(4000)]
    assert all(abs(found.count(number) - 1000) <= 1 for number in (1, 2, 3, 4))


@pytest.mark.parametrize("base", [2, 3, 5])
def test_radical_inverses(base: int) -> None:
    """The first b^k numbers fall on the multiples of b^-k, each once."""
    found = sorted(radical_inverse(number, base) for number in range(base**3))
    assert found == pytest.approx([i / base**3 for i in range(base**3)])


def test_halton_points_are_more_even_than_random_ones() -> None:
    """Of 64 intervals more have a point; other seeds give other points."""
    space = {"x": Range(0, 1), "y": Range(0, 1)}

    def hit(sample: Any, name: str) -> int:
        return len({math.floor(sample(trial)[name] * 64) for trial in range(64)})

    for name in space:
        assert hit(halton_sample(space, 1), name) > hit(random_sample(space, 1), name) + 5
    assert halton_sample(space, 1)(0) != halton_sample(space, 2)(0)


@settings(deadline=None)
@given(
    trials=st.integers(1, 500), low=st.integers(1, 100), more=st.integers(0, 900),
    eta=st.integers(2, 10),
)  # fmt: skip
def test_rungs(trials: int, low: int, more: int, eta: int) -> None:
    """Runs become fewer, epochs more; the first has all trials, the last all epochs."""
    rungs = rungs_of(trials, Budget(low, low + more, eta))
    assert rungs[0].count == trials
    assert rungs[0].epochs >= low
    assert rungs[-1].epochs == low + more
    for level, (before, after) in enumerate(itertools.pairwise(rungs), 1):
        assert after.start == before.start + before.count
        assert after.count == trials // eta**level
        assert after.epochs >= eta * before.epochs


def test_halving_keeps_the_best_and_skips_what_failed() -> None:
    """The second rung has the best trials in order; with too few good ones it is shorter."""
    method = Halving(rungs_of(6, Budget(1, 3)), True, lambda trial: {"x": trial})
    assert (method.runs, method.needs(5), method.needs(6)) == (8, 0, 6)
    scores = [0.1, None, 0.9, 0.4, 0.9, None]
    first = [outcome(i, s) for i, s in enumerate(scores)]
    kept = [method.propose(run, first) for run in (6, 7)]
    assert [(k.trial, k.rung, k.epochs) for k in kept if k] == [(2, 1, 3), (4, 1, 3)]
    bad = [outcome(i, 0.5 if i == 3 else None) for i in range(6)]
    assert method.propose(7, bad) is None


def test_the_best_is_of_the_highest_rung() -> None:
    """A lucky short run does not win over one that was trained in full."""
    found = [outcome(0, 0.9), outcome(1, 0.8, 1), outcome(2, None, 2)]
    assert best(found, True) == found[1]
    assert best(found[2:], True) is None
    assert best([outcome(0, 0.5), outcome(1, 0.5)], False) == outcome(0, 0.5)


@pytest.mark.parametrize("parallel", [1, 3])
def test_tpe_repeats_its_sequence(parallel: int) -> None:
    """Proposals follow from the outcomes that may be known, and get better than random ones."""
    spec = spec_of(
        method="tpe", trials=30, parallel=parallel, space={"learning_rate": SPACE["learning_rate"]}
    )

    def sequence() -> list[float]:
        method, outcomes, found = method_of(spec, False), [], []
        for run in range(method.runs):
            needs = method.needs(run)
            assert needs == max(0, run - parallel + 1)
            proposal = method.propose(run, outcomes[:needs])
            assert proposal is not None
            rate = proposal.parameters["learning_rate"]
            found.append(rate)
            outcomes.append(outcome(run, None if run == 4 else abs(math.log10(rate) + 2)))
        return found

    found = sequence()
    assert found == sequence()
    early, late = (
        [abs(math.log10(rate) + 2) for rate in part] for part in (found[:10], found[20:])
    )
    assert sum(late) < sum(early)


def test_parameters_reach_into_the_config() -> None:
    """A dotted name changes one option of an object and leaves the others."""
    base = {"config": {"dropout": 0.1}, "epochs": 3}
    made = overlaid(base, {"config.hidden": [8], "epochs": 4})
    assert made == {"config": {"dropout": 0.1, "hidden": [8]}, "epochs": 4}
    assert base == {"config": {"dropout": 0.1}, "epochs": 3}
    trained = spec_of(base=base).training({"config.hidden": [8]}, 2, "loss")
    assert trained.config["dropout"] == 0.1
    assert (trained.loop.epochs, trained.loop.monitor) == (2, "loss")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"space": None}, "space"),
        ({"space": []}, "space"),
        ({"space": {f"config.x{i}": {} for i in range(17)}}, "space"),
        ({"space": {"learning_rate": 3}}, "space.learning_rate"),
        ({"space": {"learning_rate": {"low": 1}}}, "space.learning_rate.high"),
        ({"space": {"learning_rate": {"low": 2, "high": 1}}}, "space.learning_rate.high"),
        ({"space": {"learning_rate": {"low": "a", "high": 1}}}, "space.learning_rate.low"),
        ({"space": {"learning_rate": {"low": 1, "high": 2000}}}, "space.learning_rate.high"),
        (
            {"space": {"learning_rate": {"low": 1, "high": 2, "step": 1}}},
            "space.learning_rate.step",
        ),
        ({"space": {"weight_decay": {"low": 0, "high": 1, "log": True}}}, "space.weight_decay.low"),
        ({"space": {"weight_decay": {"low": 0, "high": 1, "log": 1}}}, "space.weight_decay.log"),
        ({"space": {"batch_size": {"low": 0, "high": 9}}}, "space.batch_size.low"),
        ({"space": {"batch_size": {"low": 1.5, "high": 9}}}, "space.batch_size.low"),
        ({"space": {"optimizer": {"choices": []}}}, "space.optimizer.choices"),
        ({"space": {"optimizer": {"choices": ["sgd", "sgd"]}}}, "space.optimizer.choices[1]"),
        ({"space": {"optimizer": {"choices": ["sgd", "x"]}}}, "space.optimizer.choices[1]"),
        ({"space": {"config.hidden": {"choices": [[-1]]}}}, "space.config.hidden.choices[0]"),
        ({"space": {"config": {"choices": [{}]}}}, "space.config"),
        ({"space": {"seed": {"low": 0, "high": 9}}}, "space.seed"),
        ({"space": {"recipe": {"choices": ["mlp"]}}}, "space.recipe"),
        ({"trials": 0}, "trials"),
        ({"trials": 501}, "trials"),
        ({"parallel": 65}, "parallel"),
        ({"method": "grid"}, "method"),
        ({"nonsense": 1}, "nonsense"),
        ({"budget": {"min_epochs": 1}}, "budget"),
        ({"method": "successive_halving", "budget": {"min_epochs": 99}}, "budget.min_epochs"),
        ({"method": "successive_halving", "budget": {"eta": 1}}, "budget.eta"),
        (
            {"method": "successive_halving", "space": {"epochs": {"low": 1, "high": 9}}},
            "space.epochs",
        ),
        ({"base": {"cv": 5}}, "base.cv"),
        ({"base": {"target": "x"}}, "base.target"),
        ({"base": {"learning_rate": 1}}, "base.learning_rate"),
        ({"base": {"epochs": 0}}, "base.epochs"),
        ({"base": {"monitor": "loss"}, "metric": "r2"}, "metric"),
        ({"metric": "loss", "space": {"loss": {"choices": ["mse", "mae"]}}}, "metric"),
        ({"model_name": "A B"}, "model_name"),
    ],
)
def test_bad_specs_name_the_field(fields: dict[str, Any], field: str) -> None:
    """Every mistake has its place."""
    with pytest.raises(MeuseError) as caught:
        spec_of(**fields)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert caught.value.message
