"""Act: bring what runs to what is wanted, and publish who may route where.

A thread of control. Each turn it looks (deployments, replicas), asks `plan` what to do,
starts, publishes, and only then stops. It keeps no state that it cannot see again: routes
stand in the snapshot, replicas carry labels. How many replicas `elastic` says, and `memory`
what may start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meuse.billing.budgets.told import Told
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import GENERATION, Deployment, ModelVersion, Scope
from meuse.core.ports import (
    AccessStore,
    DeploymentStore,
    PlanStore,
    RegistryStore,
)
from meuse.core.states import DeploymentStatus
from meuse.deploy import adapters, generation, memory, picture
from meuse.deploy import plan as planning
from meuse.deploy.canaries import Canaries
from meuse.deploy.elastic import Elastic, Scaling
from meuse.deploy.footprint import Footprints, Load
from meuse.deploy.plan import Replica, Route, Start, Wanted, WantedTarget
from meuse.deploy.publisher import Publisher
from meuse.deploy.replicas import START_S, Failures, Replicas
from meuse.deploy.rollout import Rollout
from meuse.deploy.served import Served
from meuse.deploy.spec import artifact_for
from meuse.deploy.upstreams import PREFIX, Upstreams
from meuse.deploy.watch import batch_limit_s
from meuse.registry import references
from meuse.serve.snapshot import AdapterEntry, Snapshot, UpstreamEntry

log = logging.getLogger(__name__)

LISTEN_S = 0.005
WAITING_TURN_S = 0.25
LOOK_S = 0.5
IDLE_TURN_S = 1.0
BUSY_FOR_S = 5.0
STREAMS_S = 130.0
"""How long a replica that is no longer wanted may go on with texts that it had begun."""


@dataclass(frozen=True, slots=True)
class State:
    """What the API shows of a deployment beside its spec."""

    status: DeploymentStatus
    generation: int  # what was looked at
    observed_generation: int  # what was ready last
    routes: tuple[Route, ...]
    error: str | None
    scaling: Scaling | None = None


class Reconciler:
    """`command(replica, deployment, version)` gives the argument list of a replica process,
    `spare_for(deployment, version)` the kind of spare process that can become it, if any."""

    def __init__(
        self,
        *,
        deployments: DeploymentStore,
        registry: RegistryStore,
        access: AccessStore,
        plans: PlanStore,
        limits: Told,
        replicas: Replicas,
        elastic: Elastic,
        footprints: Footprints,
        publisher: Publisher,
        canaries: Canaries,
        command: Callable[[str, Deployment, ModelVersion], list[str]],
        spare_for: Callable[[Deployment, ModelVersion], str | None],
        wake: threading.Event,
        upstreams: Upstreams | None = None,
        served: Served | None = None,
    ) -> None:
        self._upstreams = upstreams
        self._served = served
        self._deployments = deployments
        self._registry = registry
        self._access = access
        self._plans = plans
        self._limits = limits
        self._replicas = replicas
        self._elastic = elastic
        self._footprints = footprints
        self._spare_for = spare_for
        self._publisher = publisher
        self._canaries = canaries
        self._command = command
        self._wake = wake
        self._turning = threading.Lock()
        self._looked_at = 0.0
        self._versions: dict[tuple[Scope, str], ModelVersion] = {}
        self._fits: dict[tuple[Scope, str, str], bool] = {}  # by adapter and base
        self._states: dict[str, State] = {}
        self._routes = picture.routes_of(publisher.current)
        self._shadows: dict[str, Route] = {}
        self._counts: dict[str, int] = {}  # replicas per target, of the last turn

    def run(self) -> None:
        """Turn for ever (in a daemon thread): fast after a change, slow when nothing moves."""
        changed_at = turn_at = time.monotonic()
        while True:
            now = time.monotonic()
            try:
                if now >= turn_at or self._is_news():
                    changed, waiting = self.turn()
                    now = time.monotonic()
                    changed_at = now if changed else changed_at
                    turn_at = now + (WAITING_TURN_S if waiting else IDLE_TURN_S)
            except Exception:
                log.exception("a turn of the reconciler failed")
                turn_at = now + WAITING_TURN_S
            pause = turn_at - now
            if self._replicas.starting and now - changed_at < BUSY_FOR_S:
                pause = min(pause, LISTEN_S)
            elif self._elastic.is_watching:
                pause = min(pause, LOOK_S)
            if self._wake.wait(max(0.0, pause)):
                self._wake.clear()
                changed_at = turn_at = time.monotonic()

    def _is_news(self) -> bool:
        """Between two turns: a replica has come, or another number of them is wanted."""
        if self._replicas.starting and self._replicas.news():
            return True
        if not self._elastic.is_watching or time.monotonic() - self._looked_at < LOOK_S:
            return False
        self._looked_at = time.monotonic()
        with self._turning:
            return self._elastic.look()

    def wake(self) -> None:
        self._wake.set()

    @property
    def budget(self) -> int:
        """The memory of all replicas together, in bytes."""
        return self._footprints.budget

    def load(self, deployment: Deployment) -> None:
        """See to it that one that is at zero gets a replica."""
        self._elastic.wake(deployment.full_name)
        self._wake.set()

    def unload(self, deployment: Deployment) -> None:
        """Give its memory back. Raises `conflict` where it may not go, or is in use."""
        with self._turning:
            goes = self._elastic.unload(deployment.key)
        if not goes:
            raise MeuseError(
                Code.CONFLICT,
                f"{deployment.name} is in use, or may not go to zero replicas",
                field="model",
                hint="Deploy it with scale.min 0, and try again when nothing is asked.",
            )
        self._wake.set()

    def state(self, deployment: Deployment) -> State:
        """As of the last turn; a generation that no turn has seen yet is on its way."""
        known = self._states.get(deployment.key)
        if known is None:
            return State(DeploymentStatus.PENDING, 0, 0, (), None)
        if known.generation == deployment.generation:
            return known
        serves = any(route.replicas for route in known.routes)
        status = DeploymentStatus.ROLLING if serves else DeploymentStatus.PENDING
        return replace(known, status=status, error=None)

    def promote(self, deployment: Deployment) -> None:
        """Give a candidate everything now. Raises `conflict` when none is ready."""
        with self._turning:
            self._canaries.promote(deployment)
        self.wake()

    def roll_back(self, deployment: Deployment) -> None:
        """Send a candidate back. Raises `conflict` when there is none."""
        with self._turning:
            self._canaries.roll_back(deployment)
        self.wake()

    def rollout(self, deployment: Deployment) -> dict[str, Any] | None:
        """How its rollout stands; None without a canary."""
        return self._canaries.describe(deployment)

    def publish(self) -> bool:
        """Publish keys, access, plans and limits as they stand now, with the present routes."""
        return self._publisher.publish(self._snapshot)

    def turn(self) -> tuple[bool, bool]:
        """One look and its consequences: (something changed, something is on its way)."""
        with self._turning:
            specs = {d.key: d for d in self._deployments.list(None)}
            running = self._replicas.kill_hung(
                self._replicas.look(),
                {key: batch_limit_s(spec.timeout_ms) for key, spec in specs.items()},
            )
            died = self._replicas.died()
            self._canaries.keep_only(specs.values())
            wanted = [self._weigh(spec, running, died) for spec in specs.values()]
            self._replicas.forget(
                {
                    Start(want.name, target.version, want.revision)
                    for want in wanted
                    for target in (*want.targets, want.shadow)
                    if target is not None
                }
            )
            wanted = self._counted(specs, wanted, running)
            self._counts = {want.name: want.replicas for want in wanted}
            own, running = running, running + self._elsewhere(specs, wanted)
            step = planning.plan(wanted, running, self._routes, self._replicas.blocked())
            have = Counter(r.deployment for r in running)
            urgent = sorted(step.start, key=lambda start: have[start.deployment])
            starts, lacking = self._afford(specs, urgent, own)
            for start in starts:
                self._start(specs[start.deployment], start)
            changed = step.routes != self._routes or bool(starts)
            self._routes, self._shadows = step.routes, step.shadows
            published = self.publish()
            if published:
                for replica in step.stop:
                    if not replica.startswith(PREFIX):
                        self._replicas.stop(replica)
            self._states = {
                want.name: self._state(specs[want.name], want, running, lacking) for want in wanted
            }
            on_its_way = (DeploymentStatus.PENDING, DeploymentStatus.ROLLING)
            unsettled = any(state.status in on_its_way for state in self._states.values())
            if not (unsettled or self._replicas.starting):
                self._keep_spares(specs, wanted)
            return changed, unsettled or self._replicas.starting or not published

    def _resolve(self, spec: Deployment) -> Wanted:
        targets, error = [], None
        for target in spec.targets:
            try:
                version = references.resolve(self._registry, spec.scope, target.model)
                artifact_for(version, spec.engine)
            except MeuseError as missing:
                error = str(missing)
            else:
                self._versions[spec.scope, version.ref] = version
                targets.append(WantedTarget(version.ref, target.weight))
        return Wanted(
            spec.key, spec.generation, tuple(targets), spec.scale.min, error, spec.revision
        )

    def _weigh(
        self, spec: Deployment, running: list[Replica], died: Counter[tuple[str, str]]
    ) -> Wanted:
        """Its targets at the weights of now, and its shadow."""
        want = self._resolve(spec)
        if spec.canary is not None and want.error is None:
            version = want.targets[0].version
            failures = self._replicas.failures(want.name, version)
            count = self._counts.get(want.name, want.replicas)
            targets = self._canaries.targets(
                spec,
                version,
                self._routes.get(want.name, ()),
                ready=planning.is_ready(want.name, version, count, running),
                failures=max((f.count for f in failures), default=0),
                failure=next((f.reason for f in failures), ""),
                crashes=died[want.name, version],
            )
            want = replace(want, targets=targets, weighted=True)
            try:  # the stable version as well: a new spec may name another engine
                for target in targets:
                    artifact_for(self._version(spec, target.version), spec.engine)
            except MeuseError as error:
                want = replace(want, error=str(error))
        return replace(want, shadow=self._shadow(spec))

    def _shadow(self, spec: Deployment) -> WantedTarget | None:
        if spec.shadow is None:
            return self._canaries.shadow(spec)
        try:
            version = references.resolve(self._registry, spec.scope, spec.shadow.model)
            artifact_for(version, spec.engine)
        except MeuseError as missing:
            log.warning("the shadow of %s: %s", spec.key, missing)
            return None
        self._versions[spec.scope, version.ref] = version
        return WantedTarget(version.ref, spec.shadow.percent)

    def _counted(
        self, specs: dict[str, Deployment], wanted: list[Wanted], running: list[Replica]
    ) -> list[Wanted]:
        """The same with the numbers of replicas that the load asks for."""
        counts = self._elastic.counts(specs, wanted, running)
        return [
            replace(w, replicas=counts[w.name], enough=max(1, least), rests=least == 0)
            for w in wanted
            for least in (specs[w.name].scale.min,)
        ]

    def _afford(
        self, specs: dict[str, Deployment], starts: Sequence[Start], running: list[Replica]
    ) -> tuple[list[Start], dict[str, int]]:
        """(what may start within the budget of memory, the bytes that others lack). Idle
        deployments are unloaded for them, by the next turn."""
        loads = {
            r.id: self._load(specs[r.deployment], r.version)
            for r in running
            if r.deployment in specs
        }
        self._footprints.look(running, loads)
        verdict = memory.admit(
            self._footprints.budget,
            self._footprints.held(running, loads, self._elastic.is_idle, self._elastic.used_at),
            [
                (
                    start.deployment,
                    self._footprints.expected(self._load(specs[start.deployment], start.version)),
                )
                for start in starts
            ],
        )
        for name in verdict.unload:
            if self._elastic.unload(name):
                self._wake.set()
        return [starts[i] for i in verdict.start], verdict.missing

    def _start(self, spec: Deployment, start: Start) -> None:
        version = self._version(spec, start.version)
        is_text = version.task == GENERATION
        self._replicas.start(
            start,
            lambda replica: self._command(replica, spec, version),
            self._spare_for(spec, version),
            patience_s=generation.START_S if is_text else START_S,
            grace_s=STREAMS_S if is_text else None,
        )

    def _keep_spares(self, specs: dict[str, Deployment], wanted: list[Wanted]) -> None:
        """One kind for every engine that an elastic deployment uses."""
        kinds = {
            self._spare_for(specs[want.name], self._version(specs[want.name], target.version))
            for want in wanted
            for target in want.targets
            if specs[want.name].scale.min < specs[want.name].scale.max
        }
        self._replicas.keep_spares([kind for kind in kinds if kind is not None])

    def _elsewhere(self, specs: dict[str, Deployment], wanted: list[Wanted]) -> list[Replica]:
        """The servers that others run for what is wanted, as replicas."""
        if self._upstreams is None:
            return []
        return self._upstreams.replicas(
            [
                (want, target.version, entry)
                for want in wanted
                for target in want.targets
                if (entry := self._upstream(specs[want.name], target.version)) is not None
            ]
        )

    def _upstream(self, spec: Deployment, ref: str) -> UpstreamEntry | None:
        if self._upstreams is None:
            return None
        return self._upstreams.entry(spec.scope, self._version(spec, ref))

    def _asked(
        self, spec: Deployment, version: ModelVersion, ready: tuple[str, ...]
    ) -> UpstreamEntry | None:
        """The server that workers ask for it, elsewhere or one of our replicas, if any."""
        own = None if self._served is None else self._served.entry(version, ready)
        return own or self._upstream(spec, version.ref)

    def _state(
        self, spec: Deployment, want: Wanted, running: list[Replica], lacking: dict[str, int]
    ) -> State:
        mine = [r for r in running if r.deployment == want.name]
        failures = [
            failed
            for target in want.targets  # a shadow's count for nothing
            for failed in self._replicas.failures(want.name, target.version)
        ]
        if self._upstreams is not None:
            found = [self._upstream(spec, target.version) for target in want.targets]
            health = self._upstreams.failing([entry for entry in found if entry is not None])
            if health is not None:
                failures.append(Failures(health.failures, reason=health.reason))
        routes = self._routes.get(want.name, ())
        status = planning.status(want, mine, routes, max((f.count for f in failures), default=0))
        before = self._states.get(want.name)
        observed = before.observed_generation if before else 0
        error = want.error or next((f.reason for f in failures), None)
        rollout = self._canaries.state(want.name)
        if rollout is not None and status is DeploymentStatus.READY:
            status, error = _rolled(rollout)
        if status in (DeploymentStatus.READY, DeploymentStatus.IDLE):
            observed = want.generation
        if want.name in lacking:
            error = error or f"{lacking[want.name]} bytes of memory are missing for a replica"
        scaling = self._elastic.scaling(want.name)
        return State(status, want.generation, observed, routes, error, scaling)

    def _snapshot(self) -> Snapshot:
        limits = self._limits.limits()
        tenants = picture.tenants(self._access, self._plans)
        return Snapshot(
            keys=picture.keys(self._access),
            tenants=tenants,
            deployments=picture.deployments(
                self._deployments.list(None),
                self._routes,
                self._version,
                self._shadows,
                self._asked,
                self._loras,
            ),
            limits=limits,
            prices=self._limits.prices(limits, [t.plan_version for t in tenants.values()]),
        )

    def _load(self, spec: Deployment, ref: str) -> Load:
        """What a replica of a version loads, or may have loaded under an earlier spec."""
        held = adapters.held([self._version(spec, a.model) for a in spec.adapters], spec.engine)
        return generation.load(self._version(spec, ref), spec.engine, held)

    def _loras(self, spec: Deployment, base: ModelVersion) -> dict[str, AdapterEntry]:
        """The adapters that this version of it can have: its alias may have moved to another."""
        found = {}
        for adapter in spec.adapters:
            version = self._version(spec, adapter.model)
            key = (spec.scope, version.ref, base.ref)
            if key not in self._fits:
                self._fits[key] = adapters.fits(self._registry, spec.scope, version, base)
            if self._fits[key]:
                digest = version.artifacts[0].digest
                found[adapter.name] = AdapterEntry(version.ref, digest, version.created_ms)
        return found

    def _version(self, spec: Deployment, ref: str) -> ModelVersion:
        known = self._versions.get((spec.scope, ref))
        if known is None:  # routed before this control started
            known = references.resolve(self._registry, spec.scope, ref)
            self._versions[spec.scope, ref] = known
        return known


def _rolled(rollout: Rollout) -> tuple[DeploymentStatus, str | None]:
    """Status and error of a deployment whose replicas are all there."""
    if rollout.candidate is not None:
        return DeploymentStatus.ROLLING, None
    if rollout.rejected is not None:
        return DeploymentStatus.DEGRADED, f"{rollout.rejected} was sent back: {rollout.reason}"
    return DeploymentStatus.READY, None
