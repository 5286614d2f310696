"""deploy.autoscale: each rule by example, then simulated loads that must keep them all"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.nouns import Scale
from meuse.deploy.autoscale import SPILL, Ask, Sample, State, average, decide, share

LOOK_S = 0.5
DEFAULT = Scale(min=1, max=20)


class Loop:
    """A deployment under a load that is given by the ongoing requests at each moment.

    Replicas are ready `cold_s` after they are asked for, and go at once.
    """

    def __init__(self, scale: Scale, start: int = 1, cold_s: float = 1.0) -> None:
        self.scale = scale
        self.cold_s = cold_s
        self.now = 0.0
        self.samples = [Sample(0.0)]
        self.state = State(start, used_at=0.0, ready=start)
        self.ready = start
        self.coming: list[float] = []
        self.counts: list[int] = []

    def look(self, sample: Sample) -> int:
        """One look; the count that is wanted after it."""
        self.now = sample.at
        self.samples.append(sample)
        self.ready += sum(at <= self.now for at in self.coming)
        self.coming = [at for at in self.coming if at > self.now]
        self.state = decide(self.scale, self.samples, self.ready, self.state)
        want = self.state.desired
        assert self.scale.min <= want <= self.scale.max
        if sample.ongoing:
            assert want >= 1
        self.ready = min(self.ready, want)
        del self.coming[max(0, want - self.ready) :]
        self.coming += [self.now + self.cold_s] * (want - self.ready - len(self.coming))
        self.counts.append(want)
        return want

    def hold(self, ongoing: int, seconds: float) -> list[int]:
        """As many ongoing requests all the time; the counts that were wanted."""
        first = len(self.counts)
        for _ in range(round(seconds / LOOK_S)):
            last = self.samples[-1]
            area = last.area + ongoing * LOOK_S
            self.look(replace(last, at=last.at + LOOK_S, ongoing=ongoing, area=area))
        return self.counts[first:]


def test_a_burst_is_met_within_three_seconds() -> None:
    """From 1 to 50 ongoing requests, 8 a replica: 7 are wanted within 3 s."""
    loop = Loop(DEFAULT)
    assert set(loop.hold(1, 60)) == {1}
    assert loop.hold(50, 3)[-1] == 7
    assert set(loop.hold(50, 60)) == {7}


def test_a_burst_ends_a_whole_stable_window_later() -> None:
    """Nothing is taken away in panic; then what was asked for in the last window is kept."""
    loop = Loop(DEFAULT)
    loop.hold(1, 60)
    loop.hold(50, 4)
    after = loop.hold(1, 60)
    held = [i * LOOK_S for i, count in enumerate(after) if count == 7]
    assert held == [i * LOOK_S for i in range(len(held))]
    assert held[-1] >= DEFAULT.stable_s
    assert after[-1] == 1
    assert after == sorted(after, reverse=True)


def test_a_slow_rise_does_not_panic() -> None:
    """Where the stable window already asks for what comes, there is no panic."""
    loop = Loop(DEFAULT, start=4)
    loop.hold(30, 60)
    loop.hold(34, 60)
    assert loop.state.panic_at is None
    assert loop.counts[-1] == 5


def test_zero_only_after_its_delay() -> None:
    """With min 0 the last replica goes once nothing was asked for zero_after_s, not before."""
    loop = Loop(Scale(min=0, max=3, zero_after_s=30))
    loop.hold(2, 10)
    quiet = loop.hold(0, 40)
    assert quiet.index(0) * LOOK_S >= 30 - LOOK_S
    assert set(quiet[quiet.index(0) :]) == {0}
    assert loop.hold(1, LOOK_S) == [1]


def test_a_short_request_between_two_looks_counts_as_use() -> None:
    """One that came and went is seen by its area alone."""
    loop = Loop(Scale(min=0, max=1, zero_after_s=1))
    for _ in range(20):
        last = loop.samples[-1]
        assert loop.look(replace(last, at=last.at + LOOK_S, area=last.area + 0.001)) == 1


def test_what_min_asks_for_stays() -> None:
    """Without any load, min replicas; under any load, at most max."""
    loop = Loop(Scale(min=2, max=4), start=2)
    assert set(loop.hold(0, 60)) == {2}
    loop.hold(1000, 10)
    assert loop.counts[-1] == 4


def test_averages_are_over_what_there_is() -> None:
    """A window is cut at the begin of the history and in the middle of a pause between looks."""
    history = [Sample(10.0, 0, 0.0), Sample(20.0, 4, 40.0)]
    assert average(history, 5.0) == pytest.approx(4.0)
    assert average(history, 60.0) == pytest.approx(4.0)
    assert average([Sample(10.0, 3, 7.0)], 5.0) == 3.0


class Queued(Loop):
    """An open load: requests come at `rate`, replicas serve one at a time at `speed`."""

    def __init__(self, scale: Scale, speed: float) -> None:
        super().__init__(scale)
        self.speed = speed
        self.backlog = 0.0
        self.area = self.done = self.waited_ms = 0.0

    def arrive(self, rate: float, seconds: float) -> None:
        step = 0.05
        for i in range(round(seconds / step)):
            able = self.ready * self.speed
            served = min(self.backlog + rate * step, able * step)
            wait_s = self.backlog / max(able, 0.001)
            self.backlog += rate * step - served
            busy = min(self.ready, self.backlog + rate / self.speed)
            self.done += served
            self.waited_ms += served * wait_s * 1000
            self.area += (self.backlog + busy) * step
            if (i + 1) % round(LOOK_S / step) == 0:
                ongoing = round(self.backlog + busy)
                at = self.samples[-1].at + LOOK_S
                self.look(Sample(at, ongoing, self.area, round(self.done), self.waited_ms))


def test_long_waits_add_one_replica_at_a_time() -> None:
    """25 requests/s where a replica does 10: one more and one more, until nobody waits."""
    loop = Queued(Scale(min=1, max=10, target=1000, queue_wait_ms=50), speed=10)
    loop.arrive(25, 60)
    steps = [b - a for a, b in zip(loop.counts, loop.counts[1:], strict=False)]
    assert max(steps) == 1
    assert loop.counts[-1] >= 3
    assert loop.backlog == pytest.approx(0, abs=1)


@settings(deadline=None, max_examples=25)
@given(rate=st.floats(1, 80), speed=st.floats(5, 20), target=st.sampled_from([8.0, 1000.0]))
def test_waits_and_constant_load_do_not_oscillate(rate: float, speed: float, target: float) -> None:
    """Under a constant rate the count comes to rest, and nobody waits longer than the objective."""
    scale = Scale(min=1, max=40, target=target, queue_wait_ms=50, stable_s=10)
    loop = Queued(scale, speed)
    loop.arrive(rate, 240)
    loop.counts.clear()
    loop.arrive(rate, 60)
    assert max(loop.counts) - min(loop.counts) <= 1
    ups = sum(a < b for a, b in zip(loop.counts, loop.counts[1:], strict=False))
    assert ups <= 1, loop.counts
    assert loop.backlog / (loop.ready * speed) <= 0.05 + LOOK_S


@settings(deadline=None, max_examples=50)
@given(
    ongoing=st.integers(0, 200),
    low=st.integers(0, 3),
    extra=st.integers(0, 30),
    target=st.floats(1, 20),
    cold_s=st.floats(0, 8),
)
def test_constant_load_does_not_oscillate(
    ongoing: int, low: int, extra: int, target: float, cold_s: float
) -> None:
    """As many callers all the time: one count, the right one, and never another."""
    scale = Scale(min=low, max=max(1, low + extra), target=target, zero_after_s=30)
    loop = Loop(scale, start=max(1, low), cold_s=cold_s)
    loop.hold(ongoing, 60)
    right = max(math.ceil(ongoing / target - SPILL), low, 1 if ongoing else 0)
    assert set(loop.hold(ongoing, 60)) == {min(right, scale.max)}


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 100), st.floats(0.5, 30)), min_size=1, max_size=8),
    st.integers(0, 2),
    st.sampled_from([1.0, 10.0, 60.0]),
)
def test_any_load_keeps_the_bounds(
    loads: list[tuple[int, float]], low: int, zero_after_s: float
) -> None:
    """Whatever comes: within min and max, and never zero while anything is ongoing.

    That all may be gone while the last request is younger than the delay is excluded too.
    """
    loop = Loop(Scale(min=low, max=10, zero_after_s=zero_after_s), start=max(1, low))
    for ongoing, seconds in loads:
        loop.hold(ongoing, seconds)
    for sample, count in zip(loop.samples[1:], loop.counts, strict=True):
        if count == 0:
            young = [s for s in loop.samples if 0 <= sample.at - s.at < zero_after_s]
            assert not any(s.ongoing for s in young)


def test_room_is_shared_fairly() -> None:
    """Who has fewest is served first; the least are given whatever the room."""
    asks = [Ask("a", 1, 9), Ask("b", 1, 2), Ask("c", 0, 9)]
    assert share(asks, 9) == {"a": 4, "b": 2, "c": 3}
    assert share(asks, 2) == {"a": 1, "b": 1, "c": 0}
    assert share([Ask("a", 3, 3), Ask("b", 2, 5)], 4) == {"a": 3, "b": 2}


def test_idle_ones_make_room_for_those_in_use() -> None:
    """Of what scales to zero, the least recently used idle one goes without."""
    asks = [
        Ask("old", 0, 1, idle=True, used_at=1.0),
        Ask("new", 0, 1, idle=True, used_at=2.0),
        Ask("busy", 0, 1, used_at=3.0),
    ]
    assert share(asks, 2) == {"old": 0, "new": 1, "busy": 1}


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 30), st.integers(1, 3)), min_size=1, max_size=6
    ),
    st.integers(1, 40),
)
def test_shares_hold_the_room(asked: list[tuple[int, int, int]], most: int) -> None:
    """Never more than asked or than the room, never less than the least, no room left unused."""
    asks = [Ask(str(i), min(a, b), b, t) for i, (a, b, t) in enumerate(asked)]
    given_ = share(asks, most)
    used = sum(given_[a.name] * a.targets for a in asks)
    least = sum(a.least * a.targets for a in asks)
    assert used <= max(most, least)
    for a in asks:
        assert a.least <= given_[a.name] <= a.desired
        if given_[a.name] < a.desired:
            assert most - used < a.targets
