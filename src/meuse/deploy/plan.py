"""Decide: (wanted, what runs, what is routed) → replicas to start and stop, routes.

Pure. Two rules above all: no weight on a target that is not ready, and nothing that takes
traffic is stopped before what replaces it is ready and published. Which versions are wanted
at which weight is given (a canary's weights come from `rollout`). Replicas that run older code
serve like all others and are replaced one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from meuse.core.states import DeploymentStatus

FAILED_AFTER = 3


@dataclass(frozen=True, slots=True)
class WantedTarget:
    version: str  # "digits:2"
    weight: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """One deployment with its references resolved; `error` when they cannot be."""

    name: str  # "owner/name"
    generation: int
    targets: tuple[WantedTarget, ...]
    replicas: int  # of each target
    error: str | None = None
    revision: str = ""  # how replicas are run; those of another are replaced
    enough: int | None = None  # what counts as ready while more are on their way; None: all
    rests: bool = False  # it may have no replicas: requests wait for one, from the start
    weighted: bool = False
    """The weights hold at once, for those targets that are ready; the first one is the stable
    version. Otherwise they hold once every target is ready."""
    shadow: WantedTarget | None = None
    """Asked for `weight` percent of the requests and never routed; its absence holds up nothing."""


@dataclass(frozen=True, slots=True)
class Replica:
    id: str
    deployment: str
    version: str
    ready: bool
    revision: str = ""
    outdated: bool = False  # runs older code than it would when started now


@dataclass(frozen=True, slots=True)
class Route:
    """A version that takes traffic, and the replicas that answer for it."""

    version: str
    weight: int
    replicas: tuple[str, ...]  # none: requests wait for one


Routes = Mapping[str, tuple[Route, ...]]


@dataclass(frozen=True, slots=True)
class Start:
    deployment: str
    version: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """`stop` may be acted on only after `routes` is published."""

    start: tuple[Start, ...]
    stop: tuple[str, ...]
    routes: dict[str, tuple[Route, ...]]
    shadows: dict[str, Route]


def plan(
    wanted: Sequence[Wanted],
    replicas: Sequence[Replica],
    routed: Routes,
    blocked: Collection[Start] = (),
) -> Plan:
    """The next steps. `blocked` starts wait for their back-off."""
    start: list[Start] = []
    stop: list[str] = []
    routes: dict[str, tuple[Route, ...]] = {}
    shadows: dict[str, Route] = {}
    leaving = _leaving(wanted, replicas, blocked)
    for want in wanted:
        mine = [r for r in replicas if r.deployment == want.name]
        staying = [r for r in mine if r.id != leaving]
        if want.error is None:
            start += [s for s in _missing(want, staying) if s not in blocked]
        if want.error is None and settled(want, staying):
            current = [r for r in staying if r.revision == want.revision]
            kept = {t.version: _ready(current, t.version)[: want.replicas] for t in want.targets}
            routes[want.name] = tuple(
                Route(t.version, t.weight, kept[t.version]) for t in want.targets
            )
            surplus = [r for r in mine if r.id not in kept.get(r.version, ())]
            stop += [r.id for r in surplus if r.id not in _shadowed(want, staying)]
        elif want.error is None and want.weighted:
            routes[want.name] = _weighted(want, mine, routed.get(want.name, ()))
        else:
            routes[want.name] = _meanwhile(want, mine, routed.get(want.name, ()))
        if want.shadow is not None:
            there = tuple(r for r in _ready(mine, want.shadow.version) if r not in stop)
            if there:
                shadows[want.name] = Route(want.shadow.version, want.shadow.weight, there)
    known = {want.name for want in wanted}
    stop += [r.id for r in replicas if r.deployment not in known]
    return Plan(tuple(start), tuple(stop), routes, shadows)


def settled(want: Wanted, mine: Sequence[Replica]) -> bool:
    """Every target has all its replicas ready."""
    current = [r for r in mine if r.revision == want.revision]
    return all(len(_ready(current, t.version)) >= want.replicas for t in want.targets)


def is_ready(name: str, version: str, count: int, replicas: Sequence[Replica]) -> bool:
    """Whether a version has as many replicas as it is to have, and at least one."""
    mine = [r for r in replicas if r.deployment == name]
    return len(_ready(mine, version)) >= max(count, 1)


def status(
    want: Wanted, mine: Sequence[Replica], routes: Sequence[Route], failures: int
) -> DeploymentStatus:
    """`failures`: starts in a row that ended before their replica was ready."""
    serving = {route.version for route in routes if route.replicas}
    same = serving == {t.version for t in want.targets}
    if want.error is None and (settled(want, mine) or (same and _enough(want, mine))):
        if want.replicas > 0 or serving:
            return DeploymentStatus.READY
        return DeploymentStatus.FAILED if failures >= FAILED_AFTER else DeploymentStatus.IDLE
    if not serving:
        broken = want.error is not None or failures >= FAILED_AFTER
        return DeploymentStatus.FAILED if broken else DeploymentStatus.PENDING
    if want.error is not None or failures >= FAILED_AFTER:
        return DeploymentStatus.DEGRADED
    same = same and all(r.revision == want.revision for r in mine)
    return DeploymentStatus.DEGRADED if same else DeploymentStatus.ROLLING


def _enough(want: Wanted, mine: Sequence[Replica]) -> bool:
    enough = want.replicas if want.enough is None else min(want.enough, want.replicas)
    current = [r for r in mine if r.revision == want.revision]
    return all(len(_ready(current, t.version)) >= max(enough, 1) for t in want.targets)


def _leaving(
    wanted: Sequence[Wanted], replicas: Sequence[Replica], blocked: Collection[Start]
) -> str | None:
    """The outdated replica that is replaced now, if any: all at once would double the load.

    One whose successor is on its way comes first, one whose successor cannot start waits.
    """
    sound = [w for w in wanted if w.error is None]
    targets = {Start(w.name, t.version, w.revision) for w in sound for t in w.targets}
    targets |= {Start(w.name, own, w.revision) for w in sound if (own := _own_shadow(w))}

    def start(r: Replica) -> Start:
        return Start(r.deployment, r.version, r.revision)

    coming = {start(r) for r in replicas if not (r.ready or r.outdated)}
    candidates = [
        (start(r) not in coming, r.id)
        for r in replicas
        if r.outdated and start(r) in targets - set(blocked)
    ]
    return min(candidates)[1] if candidates else None


def _ready(mine: Sequence[Replica], version: str) -> tuple[str, ...]:
    return tuple(sorted(r.id for r in mine if r.version == version and r.ready))


def _missing(want: Wanted, mine: Sequence[Replica]) -> list[Start]:
    starts = []
    for target in want.targets:
        start = Start(want.name, target.version, want.revision)
        have = sum((r.version, r.revision) == (start.version, start.revision) for r in mine)
        starts += [start] * max(0, want.replicas - have)
    shadow = _own_shadow(want)
    if shadow is not None and want.replicas:
        start = Start(want.name, shadow, want.revision)
        if all((r.version, r.revision) != (start.version, start.revision) for r in mine):
            starts.append(start)
    return starts


def _own_shadow(want: Wanted) -> str | None:
    """The shadow's version where it runs for that alone; then one replica has to do."""
    if want.shadow is None or any(t.version == want.shadow.version for t in want.targets):
        return None
    return want.shadow.version


def _shadowed(want: Wanted, mine: Sequence[Replica]) -> tuple[str, ...]:
    """The replicas that the shadow keeps: one that is ready, and one that replaces it."""
    version = _own_shadow(want)
    if version is None or not want.replicas:
        return ()
    all_of_it = [r for r in mine if r.version == version]
    current = [r for r in all_of_it if r.revision == want.revision]
    if ready := _ready(current, version):
        return ready[:1]
    return (*_ready(all_of_it, version)[:1], *[r.id for r in current][:1])


def _weighted(want: Wanted, mine: Sequence[Replica], before: Sequence[Route]) -> tuple[Route, ...]:
    """What is ready, by its weight; all to the stable version when nothing else is."""
    live = [Route(t.version, t.weight, _ready(mine, t.version)) for t in want.targets]
    live = [route for route in live if route.replicas]
    if any(route.weight for route in live):
        return tuple(live)
    stable = [route for route in live if route.version == want.targets[0].version]
    return tuple(replace(r, weight=100) for r in stable) or _meanwhile(want, mine, before)


def _meanwhile(want: Wanted, mine: Sequence[Replica], before: Sequence[Route]) -> tuple[Route, ...]:
    """Until all is ready: what served before goes on; with nothing before, what is ready.

    When nothing is left that answers, the route stays: requests wait there for what comes.
    """
    for versions in (before, want.targets):
        live = tuple(Route(v.version, v.weight, _ready(mine, v.version)) for v in versions)
        live = tuple(route for route in live if route.replicas)
        if any(route.weight for route in live):  # what has no weight answers for nobody
            return live
    waiting = want.targets if want.rests and not before else before
    return tuple(Route(w.version, w.weight, ()) for w in waiting)
