"""How many replicas: (scale, what was counted, what is ready) → a count and why.

Pure, in the manner of Knative's pod autoscaler (KPA): the average of ongoing requests over a
stable window decides; in a burst the average over a short panic window does, and nothing is
taken away until a whole stable window has passed without one. What was asked for within the
stable window is kept. Beside it an objective for the wait in the replicas' queues, which adds
one replica at a time. Knows no process and no file; times are seconds of one monotonic clock.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from meuse.core.nouns import Scale

PANIC = 2
"""A burst: the panic window asks for this many times what is ready."""
SLACK = 0.9
"""What a replica is given of the rate at which requests waited too long for it."""
SPILL = 0.05
"""So much of a replica's load is no reason for one more: averages are not that exact."""
NEVER = -math.inf


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters of one deployment at a moment; all but `ongoing` only grow."""

    at: float
    ongoing: int = 0  # admitted and unanswered, those that wait for a replica included
    area: float = 0.0  # integral of `ongoing` over time, in request-seconds
    queued: int = 0  # requests that have left a replica's queue
    waited_ms: float = 0.0  # the time that they were in it, together


@dataclass(frozen=True, slots=True)
class State:
    """What one decision hands to the next: the count, why, and what must be remembered."""

    desired: int
    reason: str = ""
    used_at: float = NEVER  # when a request was last there
    panic_at: float | None = None  # when a burst was last there; None: no panic
    panic_most: int = 0
    recent: tuple[tuple[float, int], ...] = ()  # counts of the stable window that may still rule
    ready: int = 0
    ready_since: float = NEVER
    too_much: float | None = None  # requests/s for one replica at which they waited too long


def decide(scale: Scale, history: Sequence[Sample], ready: int, before: State) -> State:
    """What is wanted now, which is the time of the last of `history` (rising in time, not empty).

    `ready` replicas take requests. The count is within `min` and `max`, at least 1 while
    anything is ongoing, and 0 only where `min` is 0 and nothing was asked for `zero_after_s`.
    """
    last = history[-1]
    now = last.at
    state = before
    if ready != state.ready:
        state = replace(state, ready=ready, ready_since=now)
    if last.ongoing or (len(history) > 1 and last.area > history[-2].area):
        state = replace(state, used_at=now)
    stable, burst = average(history, scale.stable_s), average(history, scale.panic_s)
    count, reason = _replicas(stable, scale), f"{stable:.1f} ongoing requests"
    state = _panic(state, scale, min(_replicas(burst, scale), scale.max), now)
    if state.panic_at is not None and state.panic_most > count:
        count, reason = state.panic_most, f"a burst; now {burst:.1f} ongoing requests"
    state = _waits(state, scale, history)
    waiting = _for_the_wait(state, scale, history)
    if waiting > count:
        count, reason = waiting, f"requests wait longer than {scale.queue_wait_ms} ms with fewer"
    count = min(max(count, scale.min), scale.max)
    kept = [(at, n) for at, n in state.recent if at > now - scale.stable_s and n > count]
    if kept:
        reason = f"kept from the last {scale.stable_s:g} s; now {reason}"
    recent = (*kept, (now, count))
    count = recent[0][1]
    if count <= 1 and scale.min == 0 and now - state.used_at >= scale.zero_after_s:
        return State(0, f"no request for {scale.zero_after_s:g} s", state.used_at, ready=ready,
                     ready_since=state.ready_since, too_much=state.too_much)  # fmt: skip
    return replace(state, desired=max(count, 1), reason=reason, recent=recent)


def average(history: Sequence[Sample], window_s: float) -> float:
    """Ongoing requests on average over the last `window_s`, or over what there is of them."""
    end = history[-1]
    begin = max(end.at - window_s, history[0].at)
    if begin >= end.at:
        return float(end.ongoing)
    return (end.area - _at(history, begin).area) / (end.at - begin)


def _at(history: Sequence[Sample], at: float) -> Sample:
    """The counters at a moment within the history, in proportion between two samples."""
    i = bisect_right(history, at, key=lambda sample: sample.at)
    if i == len(history):
        return history[-1]
    a, b = history[i - 1], history[i]
    part = (at - a.at) / (b.at - a.at)
    return Sample(
        at,
        a.ongoing,
        a.area + part * (b.area - a.area),
        a.queued + round(part * (b.queued - a.queued)),
        a.waited_ms + part * (b.waited_ms - a.waited_ms),
    )


def _replicas(ongoing: float, scale: Scale) -> int:
    return math.ceil(ongoing / scale.target - SPILL)


def _panic(state: State, scale: Scale, wanted: int, now: float) -> State:
    """`wanted` is what the panic window asks for. A burst is judged by what is ready for it."""
    if wanted >= PANIC * max(1, state.ready):
        return replace(state, panic_at=now, panic_most=max(state.panic_most, wanted))
    if state.panic_at is None or now - state.panic_at >= scale.stable_s:
        return replace(state, panic_at=None, panic_most=0)
    return replace(state, panic_most=max(state.panic_most, wanted))


def _waits(state: State, scale: Scale, history: Sequence[Sample]) -> State:
    """Remember the rate per replica at which requests waited longer than the objective.

    On average over the panic window and still at its end: a backlog that is being cleared
    says nothing. Before as many have been ready for a whole window, a rate can only be raised.
    """
    now = history[-1].at
    if scale.queue_wait_ms is None or not state.ready:
        return state
    _, wait = _queue(history, scale.panic_s)
    latest = min(scale.panic_s / 2, now - state.ready_since)
    rate, still = _queue(history, latest)
    if min(wait, still) <= scale.queue_wait_ms:
        return state
    each = rate / state.ready
    if state.too_much is not None and each < state.too_much:
        if now - state.ready_since < scale.panic_s:
            return state
        each = _queue(history, scale.panic_s)[0] / state.ready
    return replace(state, too_much=each)


def _queue(history: Sequence[Sample], window_s: float) -> tuple[float, float]:
    """(requests/s that left the queue, their mean wait in ms), as `average`."""
    last = history[-1]
    first = _at(history, max(last.at - window_s, history[0].at))
    queued = last.queued - first.queued
    if queued <= 0 or last.at <= first.at:
        return 0.0, 0.0
    return queued / (last.at - first.at), (last.waited_ms - first.waited_ms) / queued


def _for_the_wait(state: State, scale: Scale, history: Sequence[Sample]) -> int:
    """The replicas that keep each below the rate that was too much; one more at a time."""
    if scale.queue_wait_ms is None or state.too_much is None:
        return 0
    rate, _ = _queue(history, scale.stable_s)
    return min(int(rate / (SLACK * state.too_much)) + 1, max(state.ready, 1) + 1)


@dataclass(frozen=True, slots=True)
class Ask:
    """A deployment's claim on the room for replicas; each count is for `targets` targets."""

    name: str
    least: int  # given whatever the room
    desired: int
    targets: int = 1
    idle: bool = False  # nothing is ongoing
    used_at: float = NEVER


def share(asks: Sequence[Ask], most: int) -> dict[str, int]:
    """Counts by name whose sum over targets is within `most`, unless the least are more.

    Max-min fair: one at a time to who has fewest. Among those with none, what is in use comes
    before what is idle, and what was used last before the rest.
    """
    given = {ask.name: min(ask.least, ask.desired) for ask in asks}
    room = most - sum(given[ask.name] * ask.targets for ask in asks)
    queue = [(given[a.name], a.idle, -a.used_at, a.name, a.targets, a.desired) for a in asks]
    heapq.heapify(queue)
    while queue:
        count, idle, used, name, targets, desired = heapq.heappop(queue)
        if count >= desired or targets > room:
            continue
        room -= targets
        given[name] = count + 1
        heapq.heappush(queue, (count + 1, idle, used, name, targets, desired))
    return given
