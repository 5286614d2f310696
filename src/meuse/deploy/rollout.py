"""Canaries: how a new version takes over from the stable one, and when it is sent back.

Pure: (state, what is seen) → next state and weights. Whoever acts keeps the state on disk, so
that a restart goes on from the same step with the same evidence.

The rule, the same for all three criteria. Each asks what share of a version's requests of
this step is bad: failed by our fault (`max_error_rate`, or the stable version's own rate over
the same time where that is higher), later than allowed (p95 above T means that more than 5 %
take longer than T), or answered otherwise than the stable version (`1 - min_agreement`).

- Worse: at least 3 are bad and the lower end of the Wilson interval (z = 2, one-sided 97.7 %)
  of their share is above what is allowed; for the last two, of at least 20. Rolls back, at
  once. An allowance of 0 is broken by the first one.
- Not shown: the plain share is above what is allowed. The step goes on until it is either.
- Otherwise, after `step_s` and `min_requests`, the next step; after the last one it is stable.

T = the larger of `max_p95_ratio` × the stable version's p95 and that p95 + 5 ms (a ratio of
tiny times says nothing); `max_p95_ms` where it is less. The stable version's p95 is that of
the same time; from the step where it had 20 requests last, once it has none (at 100 %).
A version whose replicas die or do not start 3 times is sent back as well. What callers do
wrong, limits and cancelled requests count for nobody.

Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from math import sqrt
from typing import Any

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Canary
from meuse.serve.stats import LATENCY_MS, TargetStats, quantile

Z = 2.0
LEAST_BAD = 3
LEAST_JUDGED = 20
LATE_SHARE = 0.05
SLACK_MS = 5.0
GIVE_UP_AFTER = 3
"""Starts that fail in a row, or ready replicas that die, of a candidate."""
HISTORY = 20

OUR_FAULT = frozenset(
    {
        Code.ENGINE_ERROR,
        Code.INTERNAL,
        Code.UPSTREAM_ERROR,
        Code.UNAVAILABLE,
        Code.DEADLINE_EXCEEDED,
        Code.QUARANTINED,
    }
)


class Verdict(StrEnum):
    NONE = "none"  # nothing to roll out
    STARTING = "starting"  # no weight: its replicas are not ready
    RUNNING = "running"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class Seen:
    """What workers have counted of one version. `latency`: counts per bucket."""

    ok: int = 0
    failed: int = 0  # by our fault
    agreed: int = 0
    differed: int = 0
    latency: tuple[int, ...] = (0,) * (len(LATENCY_MS) + 1)

    @property
    def requests(self) -> int:
        return self.ok + self.failed

    def since(self, before: Seen) -> Seen:
        """The difference. Counters that have fallen began anew, with the platform."""
        mine = (self.ok, self.failed, self.agreed, self.differed, *self.latency)
        then = (before.ok, before.failed, before.agreed, before.differed, *before.latency)
        if any(a < b for a, b in zip(mine, then, strict=True)):
            return self
        ok, failed, agreed, differed, *latency = (a - b for a, b in zip(mine, then, strict=True))
        return Seen(ok, failed, agreed, differed, tuple(latency))


def seen(parts: Iterable[TargetStats]) -> Seen:
    """The sum of a version's counters over workers."""
    total = Seen()
    for part in parts:
        ours = sum(n for code, n in part.failed.items() if code in OUR_FAULT)
        counts = part.request.counts
        total = Seen(
            total.ok + part.ok,
            total.failed + ours,
            total.agreed + part.agreed,
            total.differed + part.differed,
            tuple(a + b for a, b in zip(total.latency, counts, strict=True)),
        )
    return total


@dataclass(frozen=True, slots=True)
class Rollout:
    """A deployment's rollout. `began`: counters at the start of the step, by version."""

    generation: int
    stable: str
    candidate: str | None = None
    verdict: Verdict = Verdict.NONE
    reason: str | None = None
    step: int = 0
    since_ms: int = 0
    began: Mapping[str, Seen] = field(default_factory=dict)
    stable_p95_ms: float | None = None
    crashes: int = 0
    rejected: str | None = None
    """Not tried again until the reference means another version, or a new spec is put."""
    history: tuple[Mapping[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Rollout:
        began = {
            version: Seen(**{**counts, "latency": tuple(counts["latency"])})
            for version, counts in body["began"].items()
        }
        more = {"verdict": Verdict(body["verdict"]), "history": tuple(body["history"])}
        return cls(**{**body, **more, "began": began})


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at a deployment. `ready`, `failures` and `crashes` are of what the reference
    means now (`wanted`): all its replicas are ready; starts that failed in a row; ready
    replicas that have died since the last look."""

    spec: Canary
    generation: int
    wanted: str
    serving: Sequence[str]  # versions that take traffic, the one with most first
    ready: bool
    failures: int = 0
    failure: str = ""
    crashes: int = 0
    counts: Mapping[str, Seen] = field(default_factory=dict)
    now_ms: int


def advance(state: Rollout | None, look: Look) -> Rollout:
    """The next state. The same object when nothing has changed."""
    state = _follow(state, look)
    if state.candidate is None:
        return state
    if look.crashes:
        state = replace(state, crashes=state.crashes + look.crashes)
    why = worse(state, look)
    if why is not None:
        return rolled_back(state, look.now_ms, why)
    if waits_for(state, look) is not None:
        return state
    if state.verdict is Verdict.STARTING:
        return _stepped(state, look, 0)
    if state.step + 1 >= len(look.spec.steps):
        return promoted(state, look.now_ms, "all steps went well")
    return _stepped(state, look, state.step + 1)


def weights(state: Rollout, spec: Canary) -> tuple[tuple[str, int], ...]:
    """(version, weight), the stable one first: where callers stick, they only move forward."""
    if state.candidate is None:
        return ((state.stable, 100),)
    weight = weight_of(state, spec)
    return ((state.stable, 100 - weight), (state.candidate, weight))


def weight_of(state: Rollout, spec: Canary) -> int:
    """Of the candidate, in percent."""
    if state.candidate is None or state.verdict is not Verdict.RUNNING:
        return 0
    return spec.steps[min(state.step, len(spec.steps) - 1)]


def promoted(state: Rollout, now_ms: int, reason: str) -> Rollout:
    """The candidate is the stable version now. Raises `conflict` for one without weight."""
    if state.candidate is None or state.verdict is not Verdict.RUNNING:
        raise _nothing("is ready to be promoted")
    return _note(
        replace(
            state,
            stable=state.candidate,
            candidate=None,
            verdict=Verdict.PROMOTED,
            reason=reason,
            since_ms=now_ms,
            began={},
            stable_p95_ms=None,
        )
    )


def rolled_back(state: Rollout, now_ms: int, reason: str) -> Rollout:
    """The candidate takes nothing any more. Raises `conflict` when there is none."""
    if state.candidate is None:
        raise _nothing("is being rolled out")
    return _note(
        replace(
            state,
            rejected=state.candidate,
            candidate=None,
            verdict=Verdict.ROLLED_BACK,
            reason=reason,
            since_ms=now_ms,
            began={},
        ),
        state.candidate,
    )


def worse(state: Rollout, look: Look) -> str | None:
    """Why the candidate must go back; None while it need not."""
    if look.failures >= GIVE_UP_AFTER:
        return f"its replicas do not start: {look.failure}"
    if state.crashes >= GIVE_UP_AFTER:
        return f"its replicas died {state.crashes} times"
    for criterion in _criteria(state, look):
        if criterion.is_worse:
            return str(criterion)
    return None


def waits_for(state: Rollout, look: Look) -> str | None:
    """Why the candidate takes no more than it does; None when the next step may begin."""
    if state.verdict is not Verdict.STARTING:
        new, weight = _delta(state, look, state.candidate or ""), weight_of(state, look.spec)
        left_s = look.spec.step_s - (look.now_ms - state.since_ms) / 1000
        if left_s > 0:
            return f"{left_s:.0f} s more at {weight} %"
        least = look.spec.min_requests
        if new.requests < least:
            return f"{new.requests} of {least} requests at {weight} %"
        compared = new.agreed + new.differed
        if look.spec.min_agreement is not None and weight < 100 and compared < least:
            return f"{compared} of {least} comparisons at {weight} %"
        for criterion in _criteria(state, look):
            if criterion.is_open:
                return str(criterion)
    return None if look.ready else "its replicas are not ready"


def wilson_lower(bad: int, of: int, z: float = Z) -> float:
    """The lower end of the Wilson score interval of a share; 0 without observations."""
    if of == 0:
        return 0.0
    share, z2 = bad / of, z * z
    middle = share + z2 / (2 * of)
    spread = z * sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return max(0.0, (middle - spread) / (1 + z2 / of))


def above(counts: Sequence[int], limit_ms: float) -> int:
    """How many durations were above a limit; linear within its bucket, rounded down."""
    total, low = 0.0, 0.0
    for count, high in zip(counts, (*LATENCY_MS, float("inf")), strict=True):
        if low >= limit_ms:
            total += count
        elif high > limit_ms and high != float("inf"):
            total += count * (high - limit_ms) / (high - low)
        low = high
    return int(total)


@dataclass(frozen=True, slots=True)
class _Criterion:
    """`bad` of `of` requests, a share of `allowed`; judged by at least `least` of them."""

    what: str
    bad: int
    of: int
    allowed: float
    least: int = 0

    @property
    def is_worse(self) -> bool:
        enough = self.bad >= (LEAST_BAD if self.allowed > 0 else 1) and self.of >= self.least
        return enough and wilson_lower(self.bad, self.of) > self.allowed

    @property
    def is_open(self) -> bool:
        """It looks worse, but chance may do that."""
        return self.of > 0 and self.bad / self.of > self.allowed

    def __str__(self) -> str:
        return f"{self.bad} of {self.of} {self.what}, allowed are {self.allowed:.2%}"


def _criteria(state: Rollout, look: Look) -> Iterable[_Criterion]:
    spec = look.spec
    new, old = _delta(state, look, state.candidate or ""), _delta(state, look, state.stable)
    allowed = spec.max_error_rate
    if old.requests >= LEAST_JUDGED:
        allowed = max(allowed, old.failed / old.requests)
    yield _Criterion("requests failed", new.failed, new.requests, allowed)
    limit_ms = _limit_ms(spec, old, state.stable_p95_ms)
    if limit_ms is not None:
        late = above(new.latency, limit_ms)
        what = f"requests took more than {limit_ms:.4g} ms"
        yield _Criterion(what, late, sum(new.latency), LATE_SHARE, LEAST_JUDGED)
    if spec.min_agreement is not None:
        compared, apart = new.agreed + new.differed, round(1 - spec.min_agreement, 9)
        yield _Criterion("answers differed", new.differed, compared, apart, LEAST_JUDGED)


def _limit_ms(spec: Canary, old: Seen, old_p95_ms: float | None) -> float | None:
    limits = [] if spec.max_p95_ms is None else [spec.max_p95_ms]
    p95 = _p95(old, old_p95_ms)
    if spec.max_p95_ratio is not None and p95 is not None:
        limits.append(max(p95 * spec.max_p95_ratio, p95 + SLACK_MS))
    return min(limits, default=None)


def _p95(old: Seen, before: float | None) -> float | None:
    return quantile(old.latency, 0.95) if sum(old.latency) >= LEAST_JUDGED else before


def _follow(state: Rollout | None, look: Look) -> Rollout:
    """What the reference and the spec say now, before anything is judged."""
    new_spec = state is None or state.generation != look.generation
    if state is None or state.generation > look.generation or (
        # It was without a canary for a while, and rolled over all at once.
        new_spec and look.serving and state.stable not in look.serving
    ):  # fmt: skip
        stable = look.serving[0] if look.serving else look.wanted
        state = Rollout(look.generation, stable, since_ms=look.now_ms)
    elif new_spec:
        state = replace(state, generation=look.generation, rejected=None)
    if look.wanted == state.stable:
        if state.candidate is None and state.rejected is None:
            return state
        why = f"{state.candidate or state.rejected} is not wanted any more"
        return replace(
            state,
            candidate=None,
            rejected=None,
            verdict=Verdict.NONE,
            reason=why,
            since_ms=look.now_ms,
            began={},
        )
    if look.wanted in (state.candidate, state.rejected):
        return state
    return _note(
        replace(
            state,
            candidate=look.wanted,
            rejected=None,
            verdict=Verdict.STARTING,
            reason=None,
            step=0,
            since_ms=look.now_ms,
            began={},
            stable_p95_ms=None,
            crashes=0,
        )
    )


def _stepped(state: Rollout, look: Look, step: int) -> Rollout:
    versions = (state.stable, state.candidate or "")
    moved = replace(
        state,
        verdict=Verdict.RUNNING,
        step=step,
        since_ms=look.now_ms,
        began={version: look.counts.get(version, Seen()) for version in versions},
        stable_p95_ms=_p95(_delta(state, look, state.stable), state.stable_p95_ms),
    )
    return _note(moved, weight=weight_of(moved, look.spec))


def _delta(state: Rollout, look: Look, version: str) -> Seen:
    now = look.counts.get(version, Seen())
    return now.since(state.began[version]) if version in state.began else Seen()


def _note(state: Rollout, version: str | None = None, **more: Any) -> Rollout:
    entry = {
        "at_ms": state.since_ms,
        "verdict": str(state.verdict),
        "version": version or state.candidate or state.stable,
        "reason": state.reason,
        **more,
    }
    return replace(state, history=(*state.history, entry)[-HISTORY:])


def _nothing(what: str) -> MeuseError:
    return MeuseError(
        Code.CONFLICT,
        f"no version {what}",
        field="name",
        hint="GET the deployment: `rollout` tells how it stands.",
    )
