"""Figures of language models: against plain computation, paired, with intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from meuse.core.errors import Code, MeuseError
from meuse.evaluate.language.judge import chosen, judge, normalised
from meuse.evaluate.language.spec import LanguageSpec
from meuse.evaluate.record import Evaluation, Rows
from meuse.evaluate.side_by_side import side_by_side

FILE = "file-" + "0" * 31 + "1"


def rows(count: int) -> Rows:
    return Rows(FILE, "digest", "all", "all", "choice", count)


@pytest.mark.parametrize(
    ("written", "right", "same"),
    [
        (" The Seine.", "seine", True),
        ("An  answer\n", "answer!", True),
        ("theatre", "atre", False),
        ("42", "4 2", False),
        ("Île", "île", True),
    ],
)
def test_answers_match_as_those_of_squad(written: str, right: str, same: bool) -> None:
    assert (normalised(written) == normalised(right)) is same


def test_long_choices_are_not_punished_when_lengths_are_divided_out() -> None:
    """-6 over 10 characters beats -4 over 2; white space around does not count."""
    assert chosen([-4.0, -6.0], [" no", " certainly"]) == (0, 1)
    assert chosen([-2.0, -2.0], ["aa", "bb"]) == (0, 0)


def test_perplexity_is_of_all_tokens_with_an_interval() -> None:
    """Texts weigh by their tokens; the interval holds what resampling by hand gives."""
    random = np.random.default_rng(1)
    tokens = random.integers(5, 50, 200).astype(float)
    nats = tokens * random.normal(3, 0.5, 200)
    found = judge({"nats": nats, "tokens": tokens}, rows(200), seconds=2.0).evaluation
    assert found.figures["perplexity"] == pytest.approx(math.exp(nats.sum() / tokens.sum()))
    assert found.figures["nats_per_token"] == pytest.approx(nats.sum() / tokens.sum())
    drawn = random.integers(0, 200, (4000, 200))
    means = np.exp(nats[drawn].sum(axis=1) / tokens[drawn].sum(axis=1))
    expected = np.percentile(means, [2.5, 97.5])
    assert found.intervals["perplexity"] == pytest.approx(expected, rel=0.02)
    assert (found.tokens, found.rows_per_s, found.task) == (tokens.sum(), 100, "text-generation")
    assert Evaluation.from_dict(found.to_dict()) == found


def test_one_line_has_no_interval() -> None:
    found = judge({"nats": np.array([6.0]), "tokens": np.array([3.0])}, rows(1)).evaluation
    assert found.figures["nats_per_token"] == 2
    assert found.intervals == {}


def test_versions_are_paired_by_line() -> None:
    """The second is right wherever the first is, and on ten lines more."""
    first = np.repeat([1.0, 0.0], 50)
    second = first.copy()
    second[50:60] = 1
    judged = {
        name: judge({"accuracy": hits, "accuracy_norm": hits}, rows(100))
        for name, hits in (("m:1", first), ("m:2", second))
    }
    told = side_by_side(judged, rows(100))
    assert told["differences_from"] == "m:1"
    difference = told["models"][1]["differences"]["accuracy"]
    assert difference["difference"] == pytest.approx(0.1)
    low, high = difference["interval"]
    assert 0.03 < low < 0.1 < high < 0.17  # unpaired it would reach below 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"data": "lines"}, "data"),
        ({"data": None}, "data"),
        ({"models": []}, "models"),
        ({"models": ["a:1", "a:1"]}, "models"),
        ({"models": ["a:x"]}, "models[0]"),
        ({"model": "a:1"}, "model"),
        ({"metrics": "choice"}, "metrics"),
        ({"metrics": ["bleu"]}, "metrics[0]"),
        ({"window": 1}, "window"),
        ({"stride": 0}, "stride"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"split": "test"}, "split"),
    ],
)
def test_a_spec_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    spec = {"models": ["a:1"], "data": FILE}
    with pytest.raises(MeuseError) as caught:
        LanguageSpec.from_dict(spec | change)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)


def test_a_spec_comes_back_from_json() -> None:
    spec = LanguageSpec.from_dict(
        {"model": "a:1", "data": FILE, "metrics": ["exact_match"], "stop": "\n"}
    )
    assert (spec.models, spec.stop) == (("a:1",), ("\n",))
    assert LanguageSpec.from_dict(spec.to_dict()) == spec
