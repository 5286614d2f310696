"""From the workers' counters to the replicas that each deployment should have now.

Keeps the history and the state that `autoscale` decides by; acts on nothing. Where `min` is
`max` there is nothing to decide. `look` is cheap while nothing is asked: a file that has not
changed is not read again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from meuse.core.nouns import Deployment, Scale
from meuse.deploy import autoscale
from meuse.deploy.autoscale import Ask, Sample, State
from meuse.deploy.plan import Replica, Wanted
from meuse.serve import stats
from meuse.serve.stats import RouteStats, WorkerStats

EXTRAPOLATE_MS = 1000.0
"""Workers write five times a second while anything is ongoing; one that does not is stuck."""
SETTLED_S = 1.0
"""A request is in the counters this long after it came."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """The counts that the API shows, each for every target."""

    desired: int
    ready: int
    reason: str


@dataclass(slots=True)
class _Scaler:
    """One elastic deployment; sums are over all workers and since it is watched."""

    spec: Deployment
    scale: Scale
    state: State
    history: list[Sample] = field(default_factory=list)
    ready: int = 0
    ongoing: int = 0
    area: float = 0.0
    queued: int = 0
    waited_ms: float = 0.0

    def add(self, now: float) -> bool:
        """Take a sample; whether anything is or was there since the last one."""
        sample = Sample(now, self.ongoing, self.area, self.queued, self.waited_ms)
        history = self.history
        if len(history) > 1 and all(replace(s, at=now) == sample for s in history[-2:]):
            history[-1] = sample  # averages stay what they are
            return self.ongoing > 0
        history.append(sample)
        oldest = now - self.scale.stable_s
        while len(history) > 2 and history[1].at < oldest:
            del history[0]
        return True


class Elastic:
    """Counters are in `folder`, `epochs` gives those of the workers that run, `most` replicas
    may run. `published` is the generation of each "owner/name" when this control started.

    `wake` may be called from any thread, the rest from one. `clock` is monotonic seconds,
    `wall` those that workers count by.
    """

    def __init__(
        self,
        folder: Path,
        epochs: Callable[[], Collection[int]],
        most: int,
        published: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._epochs = epochs
        self._most = most
        self._published = dict(published)
        self._clock = clock
        self._wall = wall
        self._files: dict[Path, tuple[int, WorkerStats]] = {}
        self._seen: dict[tuple[Path, str], tuple[float, int, float]] = {}
        self._scalers: dict[str, _Scaler] = {}  # by key
        self._scalings: dict[str, Scaling] = {}
        self._woken: set[str] = set()
        self._waking = threading.Lock()

    @property
    def is_watching(self) -> bool:
        """Whether there is a deployment whose count may change."""
        return bool(self._scalers)

    def wake(self, full_name: str) -> None:
        """A request waits where nothing runs, or a load is asked for: at least one replica."""
        with self._waking:
            self._woken.add(full_name)

    def unload(self, key: str) -> bool:
        """Take it to zero, where `min` allows it and nothing is ongoing; whether it goes."""
        scaler = self._scalers.get(key)
        if scaler is None or scaler.spec.scale.min > 0 or scaler.ongoing:
            return False
        scaler.state = State(0, "unloaded")
        return True

    def used_at(self, key: str) -> float:
        scaler = self._scalers.get(key)
        return scaler.state.used_at if scaler is not None else self._clock()

    def is_idle(self, key: str) -> bool:
        """It may be unloaded for others: it runs, and nothing is ongoing."""
        scaler = self._scalers.get(key)
        if scaler is None or scaler.spec.scale.min > 0 or not scaler.ready:
            return False
        return not scaler.ongoing and self._clock() - scaler.state.used_at >= SETTLED_S

    def scaling(self, key: str) -> Scaling | None:
        """As of the last `counts`."""
        return self._scalings.get(key)

    def look(self) -> bool:
        """Read the counters and decide; whether a count has changed."""
        self._read()
        with self._waking:
            woken, self._woken = self._woken, set()
        now = self._clock()
        changed = False
        for scaler in self._scalers.values():
            state = before = scaler.state
            busy = scaler.add(now)
            if scaler.spec.full_name in woken:
                state, busy = replace(state, desired=max(1, state.desired), used_at=now), True
            if busy or state.desired > 0:
                scaler.state = autoscale.decide(scaler.scale, scaler.history, scaler.ready, state)
            changed = changed or scaler.state.desired != before.desired
        return changed

    def counts(
        self, specs: Mapping[str, Deployment], wanted: Sequence[Wanted], running: Sequence[Replica]
    ) -> dict[str, int]:
        """The replicas that each target of a deployment should have, by key."""
        now = self._clock()
        ready = {want.name: _ready(want, running) for want in wanted}
        for want in wanted:
            self._follow(specs[want.name], want, ready[want.name], running, now)
        for key in self._scalers.keys() - specs.keys():
            del self._scalers[key]
        self.look()
        targets = {(w.name, t.version, w.revision) for w in wanted for t in w.targets}
        going = [r for r in running if (r.deployment, r.version, r.revision) not in targets]
        replaced = Counter(r.deployment for r in going if r.ready)
        asks = [self._ask(specs[want.name], want, replaced[want.name]) for want in wanted]
        given = autoscale.share(asks, self._most - len(going))
        for ask in asks:  # what made room stays at rest until it is asked for again
            if ask.idle and ask.least == 0 and given[ask.name] == 0 < ask.desired:
                self.unload(ask.name)
        self._scalings = {
            ask.name: self._shown(ask, given[ask.name], ready[ask.name]) for ask in asks
        }
        return given

    def _follow(
        self, spec: Deployment, want: Wanted, ready: int, running: Sequence[Replica], now: float
    ) -> None:
        """Keep a scaler for what is elastic. A new generation is loaded once, so that its
        status tells whether it works; what this control finds running or idle stays so."""
        if spec.scale.min == spec.scale.max:
            self._scalers.pop(spec.key, None)
            return
        scale = replace(spec.scale, target=spec.scale.target / _share(spec, want))
        scaler = self._scalers.get(spec.key)
        if scaler is None:
            found = [r.version for r in running if r.deployment == spec.key]
            count = max((found.count(t.version) for t in want.targets), default=0)
            if self._published.pop(spec.full_name, None) != spec.generation:
                count = max(count, 1)
            count = min(max(count, scale.min), scale.max)
            used_at = now if count else autoscale.NEVER
            state = State(count, "started", used_at=used_at, recent=((now, count),))
            self._scalers[spec.key] = scaler = _Scaler(spec, scale, state, [Sample(now)])
        elif scaler.spec.generation != spec.generation:
            count = min(max(scaler.state.desired, scale.min, 1), scale.max)
            scaler.state = State(count, "a new spec", used_at=now, recent=((now, count),))
        scaler.spec, scaler.scale, scaler.ready = spec, scale, ready

    def _ask(self, spec: Deployment, want: Wanted, replaced: int) -> Ask:
        """While a new version comes it may have as many replicas as serve of the one before,
        whatever the room: capacity must not shrink for a rollout."""
        scaler = self._scalers.get(spec.key)
        least, targets = spec.scale.min, max(1, len(want.targets))
        if scaler is None:
            return Ask(spec.key, least, least, targets)
        state = scaler.state
        least = max(least, min(replaced, state.desired))
        return Ask(spec.key, least, state.desired, targets, not scaler.ongoing, state.used_at)

    def _shown(self, ask: Ask, given: int, ready: int) -> Scaling:
        scaler = self._scalers.get(ask.name)
        reason = scaler.state.reason if scaler is not None else "min is max"
        if given < ask.desired:
            reason = f"{ask.desired} wanted ({reason}), but max_replicas are {self._most}"
        return Scaling(given, ready, reason)

    # -- counters ------------------------------------------------------------------------

    def _read(self) -> None:
        names = {scaler.spec.full_name: scaler for scaler in self._scalers.values()}
        if not names:
            return
        epochs, now_ms = set(self._epochs()), self._wall() * 1000.0
        for scaler in names.values():
            scaler.ongoing = 0
        for path in self._folder.glob("worker-*.stats"):
            worker = self._file(path)
            if worker is None:
                continue
            lives = worker.epoch in epochs
            at_ms = min(now_ms, worker.at_ms + EXTRAPOLATE_MS) if lives else worker.at_ms
            for name, route in worker.routes.items():
                if name in names:
                    names[name].ongoing += route.ongoing if lives else 0
                    self._take(names[name], (path, name), route, at_ms)

    def _file(self, path: Path) -> WorkerStats | None:
        """The counters of a slot, read only when they were written again."""
        try:
            written = path.stat().st_mtime_ns
        except OSError:
            return None
        known = self._files.get(path)
        if known is None or known[0] != written:
            fresh = stats.read(path)
            if fresh is None:
                return None
            known = self._files[path] = (written, fresh)
        return known[1]

    def _take(
        self, scaler: _Scaler, where: tuple[Path, str], route: RouteStats, at_ms: float
    ) -> None:
        """Add what has come since the last look. A worker's death may take some of it back."""
        area = route.area(at_ms) / 1000.0
        queued = sum(target.queue.count for target in route.targets.values())
        waited = sum(target.queue.sum for target in route.targets.values())
        before = self._seen.get(where)
        self._seen[where] = (area, queued, waited)
        if before is not None:
            scaler.area += max(0.0, area - before[0])
            scaler.queued += max(0, queued - before[1])
            scaler.waited_ms += max(0.0, waited - before[2])


def _ready(want: Wanted, running: Sequence[Replica]) -> int:
    mine = [
        r.version
        for r in running
        if r.ready and (r.deployment, r.revision) == (want.name, want.revision)
    ]
    return min((mine.count(t.version) for t in want.targets), default=0)


def _share(spec: Deployment, want: Wanted) -> float:
    """Of the load, what the heaviest target carries. The target of a canary may carry all."""
    if spec.canary is not None:
        return 1.0
    return max((t.weight for t in want.targets), default=100) / 100 or 1.0
