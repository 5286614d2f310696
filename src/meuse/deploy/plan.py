"""Decide: (wanted, what runs, what is routed) → replicas to start and stop, routes.

Pure. Two rules above all: no weight on a target that is not ready, and nothing that takes
traffic is stopped before what replaces it is ready and published. Replicas that run older code
serve like all others and are replaced one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

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
            stop += [r.id for r in mine if r.id not in kept.get(r.version, ())]
        else:
            routes[want.name] = _meanwhile(want, mine, routed.get(want.name, ()))
    known = {want.name for want in wanted}
    stop += [r.id for r in replicas if r.deployment not in known]
    return Plan(tuple(start), tuple(stop), routes)


def settled(want: Wanted, mine: Sequence[Replica]) -> bool:
    """Every target has all its replicas ready."""
    current = [r for r in mine if r.revision == want.revision]
    return all(len(_ready(current, t.version)) >= want.replicas for t in want.targets)


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
    return starts


def _meanwhile(want: Wanted, mine: Sequence[Replica], before: Sequence[Route]) -> tuple[Route, ...]:
    """Until all is ready: what served before goes on; with nothing before, what is ready.

    When nothing is left that answers, the route stays: requests wait there for what comes.
    """
    old = tuple(Route(r.version, r.weight, _ready(mine, r.version)) for r in before)
    old = tuple(route for route in old if route.replicas)
    if old:
        return old
    new = tuple(Route(t.version, t.weight, _ready(mine, t.version)) for t in want.targets)
    new = tuple(route for route in new if route.replicas)
    if new or before or not want.rests:
        return new or tuple(Route(r.version, r.weight, ()) for r in before)
    return tuple(Route(t.version, t.weight, ()) for t in want.targets)
