"""deploy.rollout: each rule by an example, and what holds whatever is seen"""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.errors import MeuseError
from meuse.core.nouns import Canary
from meuse.deploy.rollout import (
    GIVE_UP_AFTER,
    Look,
    Rollout,
    Seen,
    Verdict,
    above,
    advance,
    promoted,
    rolled_back,
    seen,
    waits_for,
    weight_of,
    weights,
    wilson_lower,
)
from meuse.serve.stats import LATENCY_MS, TargetStats

SPEC = Canary(step_s=10, min_requests=20)


def look(wanted: str = "m:2", **more: Any) -> Look:
    given: dict[str, Any] = {
        "spec": SPEC, "generation": 1, "wanted": wanted, "serving": ["m:1"], "ready": True,
        "now_ms": 0,
    }  # fmt: skip
    return Look(**{**given, **more})


def counted(ok: int = 0, failed: int = 0, ms: float = 5, **more: int) -> Seen:
    """`ok + failed` requests that all took about `ms`."""
    latency = [0] * (len(LATENCY_MS) + 1)
    latency[bisect_left(LATENCY_MS, ms)] = ok + failed
    return Seen(ok, failed, more.get("agreed", 0), more.get("differed", 0), tuple(latency))


def running(**more: Any) -> Rollout:
    """m:2 at the first step since 0, with nothing counted yet."""
    state = advance(None, look("m:1", **more))
    state = advance(advance(state, look(ready=False, **more)), look(**more))
    assert (state.verdict, state.step) == (Verdict.RUNNING, 0)
    return state


def test_the_first_version_is_stable_at_once() -> None:
    """With nothing before it there is nothing to compare with."""
    state = advance(None, look("m:1", serving=[]))
    assert weights(state, SPEC) == (("m:1", 100),)


def test_a_candidate_has_no_weight_before_it_is_ready() -> None:
    """It is wanted at weight 0 first; ready, it begins with the first step."""
    state = advance(advance(None, look("m:1")), look(ready=False))
    assert state.verdict == Verdict.STARTING
    assert weights(state, SPEC) == (("m:1", 100), ("m:2", 0))
    assert waits_for(state, look(ready=False)) == "its replicas are not ready"
    assert weights(advance(state, look()), SPEC) == (("m:1", 99), ("m:2", 1))


def test_what_serves_is_stable_when_a_canary_is_asked_for() -> None:
    """A deployment without a rollout begins with what takes most traffic."""
    state = advance(None, look("m:2", serving=["m:1", "m:0"], ready=False))
    assert (state.stable, state.candidate) == ("m:1", "m:2")


def test_steps_take_time_and_requests() -> None:
    """Neither step_s without min_requests nor the other way round; then 1, 10, 50, 100, stable."""
    state, taken = running(), []
    for step in range(4):
        start, base = state.since_ms, 20 * step
        few, enough = {"m:2": counted(base + 19)}, {"m:2": counted(base + 20)}
        assert advance(state, look(counts=few, now_ms=start + 60_000)) is state
        assert "19 of 20" in str(waits_for(state, look(counts=few, now_ms=start + 60_000)))
        assert advance(state, look(counts=enough, now_ms=start + 9_999)) is state
        taken.append(weight_of(state, SPEC))
        state = advance(state, look(counts=enough, now_ms=start + 10_000))
    assert taken == [1, 10, 50, 100]
    assert (state.verdict, state.stable, state.candidate) == (Verdict.PROMOTED, "m:2", None)
    assert weights(state, SPEC) == (("m:2", 100),)
    assert advance(state, look(counts=enough, now_ms=10**9)) is state


def test_errors_send_it_back_soon() -> None:
    """Three failures of three are enough, long before the step is over; two are not."""
    state = running()
    assert advance(state, look(counts={"m:2": counted(0, 2)}, now_ms=1)) is state
    back = advance(state, look(counts={"m:2": counted(0, 3)}, now_ms=1))
    assert (back.verdict, back.rejected, back.candidate) == (Verdict.ROLLED_BACK, "m:2", None)
    assert back.reason == "3 of 3 requests failed, allowed are 2.00%"
    assert weights(back, SPEC) == (("m:1", 100),)


def test_errors_within_what_is_allowed_do_not() -> None:
    """3 of 300 is 1 %: the step ends well."""
    counts = {"m:2": counted(297, 3)}
    assert advance(running(), look(counts=counts, now_ms=10_000)).step == 1


def test_a_doubt_holds_the_step() -> None:
    """1 of 20 is 5 %, which chance may do: neither back nor on, until it is clear."""
    state = running()
    doubtful = look(counts={"m:2": counted(19, 1)}, now_ms=10_000)
    assert advance(state, doubtful) is state
    assert "1 of 20 requests failed" in str(waits_for(state, doubtful))
    assert advance(state, look(counts={"m:2": counted(49, 1)}, now_ms=20_000)).step == 1
    assert advance(state, look(counts={"m:2": counted(30, 6)}, now_ms=20_000)).rejected == "m:2"


def test_the_stable_version_s_own_failures_are_allowed() -> None:
    """What fails as often before is not the candidate's fault."""
    counts = {"m:1": counted(900, 100), "m:2": counted(90, 10)}
    assert advance(running(), look(counts=counts, now_ms=10_000)).step == 1


def test_late_answers_send_it_back() -> None:
    """p95 against the stable version's over the same time, or against a limit."""
    counts = {"m:1": counted(400, ms=20), "m:2": counted(20, ms=50)}
    back = advance(running(), look(counts=counts, now_ms=1))
    assert "20 of 20 requests took more than" in str(back.reason)
    counts = {"m:1": counted(400, ms=1), "m:2": counted(20, ms=4)}  # less than 5 ms more
    assert advance(running(), look(counts=counts, now_ms=10_000)).step == 1
    limit = replace(SPEC, max_p95_ratio=None, max_p95_ms=30)
    counts = {"m:2": counted(20, ms=50)}
    assert advance(running(spec=limit), look(spec=limit, counts=counts)).rejected == "m:2"


def test_at_100_percent_the_stable_p95_is_remembered() -> None:
    """The stable version has no requests there; what it did in the step before counts."""
    state, counts = running(), {"m:1": counted(100, ms=20), "m:2": counted(100, ms=20)}
    for n in (1, 2, 3):
        counts = {"m:1": counted(100 * n, ms=20), "m:2": counted(100 * n, ms=20)}
        state = advance(state, look(counts=counts, now_ms=10_000 * n))
    assert weight_of(state, SPEC) == 100
    slow = counted(20, ms=100)
    base = counts["m:2"]
    total = Seen(base.ok + 20, 0, 0, 0,
                 tuple(a + b for a, b in zip(base.latency, slow.latency, strict=True)))  # fmt: skip
    back = advance(state, look(counts={**counts, "m:2": total}, now_ms=30_001))
    assert back.rejected == "m:2"


def test_other_answers_send_it_back() -> None:
    """Agreement with the stable version, where it is asked for; it must be shown, too."""
    spec = replace(SPEC, min_agreement=0.9)
    state = running(spec=spec)
    counts = {"m:2": counted(20, agreed=10)}
    asked = look(spec=spec, counts=counts, now_ms=10_000)
    assert advance(state, asked) is state
    assert "10 of 20 comparisons" in str(waits_for(state, asked))
    counts = {"m:2": counted(20, agreed=95, differed=5)}
    assert advance(state, look(spec=spec, counts=counts, now_ms=10_000)).step == 1
    counts = {"m:2": counted(2, agreed=60, differed=40)}
    assert "40 of 100 answers differed" in str(
        advance(state, look(spec=spec, counts=counts, now_ms=1)).reason
    )


def test_crashes_and_failed_starts_send_it_back() -> None:
    """Three replicas that die, over any number of looks, or three starts that fail in a row."""
    state = running()
    for _ in range(GIVE_UP_AFTER - 1):
        state = advance(state, look(crashes=1, now_ms=1))
        assert state.candidate == "m:2"
    assert "died 3 times" in str(advance(state, look(crashes=1, now_ms=1)).reason)
    starting = advance(advance(None, look("m:1")), look(ready=False))
    back = advance(starting, look(ready=False, failures=3, failure="no such file"))
    assert back.reason == "its replicas do not start: no such file"


def test_no_step_while_replicas_are_away() -> None:
    """Time does not pass for a version that is not there."""
    counts = {"m:2": counted(20)}
    state = running()
    assert advance(state, look(counts=counts, ready=False, now_ms=10_000)) is state


def test_a_rejected_version_stays_so() -> None:
    """Until the reference moves, or a new spec is put: then it is tried again."""
    back = rolled_back(running(), 5, "by hand")
    assert advance(back, look(now_ms=10**9)) is back
    assert advance(back, look("m:3", ready=False)).candidate == "m:3"
    again = advance(advance(back, look("m:1")), look(ready=False))
    assert (again.candidate, again.rejected) == ("m:2", None)
    assert advance(back, look(generation=2, ready=False)).candidate == "m:2"


def test_another_version_supersedes() -> None:
    """The alias moves in the middle: the old candidate has no weight any more."""
    state = advance(running(), look("m:3", ready=False, now_ms=7))
    assert weights(state, SPEC) == (("m:1", 100), ("m:3", 0))
    state = advance(running(), look("m:1", now_ms=7))
    assert (state.verdict, weights(state, SPEC)) == (Verdict.NONE, (("m:1", 100),))
    assert state.reason == "m:2 is not wanted any more"


def test_a_new_spec_does_not_start_again() -> None:
    """A PUT that keeps the model keeps the step."""
    state = replace(running(), step=2)
    after = advance(state, look(generation=2, now_ms=1))
    assert (after.step, after.candidate, after.generation) == (2, "m:2", 2)


def test_a_state_from_before_a_time_without_canary_is_not_believed() -> None:
    """What serves is stable then, not what was long ago."""
    old = Rollout(1, "m:1")
    state = advance(old, look("m:5", generation=3, serving=["m:4"], ready=False))
    assert (state.stable, state.candidate) == ("m:4", "m:5")


def test_people_cannot_end_what_does_not_run() -> None:
    """Promote needs a version with weight, rollback one at all."""
    with pytest.raises(MeuseError):
        promoted(advance(None, look("m:1")), 1, "")
    with pytest.raises(MeuseError):
        promoted(advance(advance(None, look("m:1")), look(ready=False)), 1, "")
    with pytest.raises(MeuseError):
        rolled_back(advance(None, look("m:1")), 1, "")


def test_only_our_failures_count() -> None:
    """Bad input, limits and cancelled calls are the callers'."""
    stats = TargetStats(
        ok=5, failed={"engine_error": 2, "deadline_exceeded": 1, "invalid_input": 9, "cancelled": 9}
    )
    assert (seen([stats, stats]).ok, seen([stats, stats]).failed) == (10, 6)


def test_counters_that_begin_anew_are_taken_as_they_are() -> None:
    """A new platform counts from 0: the difference is what it has counted."""
    assert counted(3).since(counted(10)) == counted(3)
    assert counted(10).since(counted(3)).ok == 7


def test_above_is_linear_within_a_bucket() -> None:
    """100 between 60 and 100 ms: half of them above 80."""
    counts = [0] * (len(LATENCY_MS) + 1)
    counts[LATENCY_MS.index(100)] = 100
    assert [above(counts, x) for x in (10, 60, 80, 100, 500)] == [100, 100, 50, 0, 0]


def test_wilson_s_lower_end_is_known() -> None:
    """Against the published formula: 0 for none, below the share, close to it for many."""
    assert wilson_lower(0, 10) == 0
    assert wilson_lower(3, 3) == pytest.approx(0.4286, abs=1e-3)
    assert wilson_lower(5000, 10000) == pytest.approx(0.49, abs=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_states_survive_a_restart(data: st.DataObject) -> None:
    """Whatever happened, a state that was written and read again decides the same."""
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    state: Rollout | None = None
    totals = {"m:1": Seen(), "m:2": Seen(), "m:3": Seen()}
    now = 0
    for _ in range(20):
        now += chance.choice([0, 1000, 10_000])
        totals = {
            version: counted(was.ok + chance.randrange(40), was.failed + (chance.random() < 0.2))
            for version, was in totals.items()
        }
        seen_now = look(
            chance.choice(["m:1", "m:2", "m:2", "m:2", "m:3"]),
            ready=chance.random() < 0.8, crashes=int(chance.random() < 0.1),
            failures=chance.randrange(4), generation=1 + now // 50_000, counts=dict(totals),
            now_ms=now,
        )  # fmt: skip
        copy = state and Rollout.from_dict(json.loads(json.dumps(state.to_dict())))
        assert copy == state
        after = advance(state, seen_now)
        assert advance(copy, seen_now) == after
        parts = weights(after, SPEC)
        assert sum(weight for _, weight in parts) == 100
        assert parts[0][0] == after.stable
        if state is not None and after.candidate == state.candidate and after.candidate:
            assert weight_of(after, SPEC) >= weight_of(state, SPEC)  # never down but by going back
        state = after
