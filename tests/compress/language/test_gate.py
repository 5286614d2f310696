"""The gate on perplexity: what it lets through, and that its numbers are right."""

from __future__ import annotations

import math

import numpy as np
import pytest

from meuse.compress.language.gate import check_texts, judge, score
from meuse.compress.language.spec import LanguageGoal
from meuse.core.errors import MeuseError
from meuse.evaluate.language.likelihood import Likelihood

TOKENS = np.array([100, 50, 150, 80])
NATS = np.array([210.0, 90.0, 330.0, 150.0])


def test_perplexity_is_that_of_all_tokens_with_an_interval_over_texts() -> None:
    found = score(Likelihood(NATS, TOKENS))
    assert found.value == pytest.approx(math.exp(NATS.sum() / TOKENS.sum()))
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]
    assert found.rows == 4


@pytest.mark.parametrize(("factor", "passes"), [(1.0, True), (1.049, True), (1.051, False)])
def test_a_rise_is_a_share_of_the_parents(factor: float, passes: bool) -> None:
    """All texts alike: the interval of the rise is the rise, for resamples are paired."""
    worse = NATS + TOKENS * math.log(factor)
    before, after = score(Likelihood(NATS, TOKENS)), score(Likelihood(worse, TOKENS))
    verdict = judge(before, after, LanguageGoal(0.05), 10)
    assert verdict.passed is passes
    assert verdict.drop == pytest.approx(factor - 1)
    assert verdict.interval == pytest.approx((factor - 1, factor - 1))
    assert verdict.field == (None if passes else "goal.max_drop")
    assert f"{before.value:.3f}" in verdict.reason
    assert "at most 5.00%" in verdict.reason


def test_size_is_judged_too() -> None:
    found = score(Likelihood(NATS, TOKENS))
    verdict = judge(found, found, LanguageGoal(0.05, 1000), 1001)
    assert (verdict.passed, verdict.field) == (False, "goal.max_bytes")
    assert "1,001 bytes" in verdict.reason


def test_one_text_has_no_interval() -> None:
    found = score(Likelihood(NATS[:1], TOKENS[:1]))
    assert found.interval is None
    verdict = judge(found, found, LanguageGoal(), 1)
    assert verdict.interval is None
    assert "unknown, of one text" in verdict.reason


def test_logits_that_are_not_finite_do_not_pass() -> None:
    good = score(Likelihood(NATS, TOKENS))
    bad = score(Likelihood(np.array([math.nan, 1, 1, 1]), TOKENS))
    assert not judge(good, bad, LanguageGoal(1.0), 1).passed


def test_a_few_words_judge_nothing() -> None:
    check_texts(256)
    with pytest.raises(MeuseError, match="at least 256") as caught:
        check_texts(255)
    assert caught.value.field == "data"
