"""Act: bring what runs to what is wanted, and publish who may route where.

A thread of control. Each turn it looks (deployments, replicas), asks `plan` what to do,
starts, publishes, and only then stops. It keeps no state that it cannot see again: routes
stand in the snapshot, replicas carry labels.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meuse.core.errors import MeuseError
from meuse.core.ids import new_id
from meuse.core.nouns import Deployment, ModelVersion, Scope
from meuse.core.ports import AccessStore, DeploymentStore, Launcher, PlanStore, RegistryStore
from meuse.core.states import DeploymentStatus
from meuse.deploy import plan as planning
from meuse.deploy.plan import Replica, Route, Start, Wanted, WantedTarget
from meuse.deploy.publisher import Publisher
from meuse.registry import references
from meuse.serve.snapshot import (
    DeploymentEntry,
    KeyEntry,
    ReplicaEntry,
    Snapshot,
    TargetEntry,
    TenantEntry,
    TensorEntry,
)

log = logging.getLogger(__name__)

IDLE_TURN_S = 1.0
BUSY_TURN_S = 0.03
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)


@dataclass(frozen=True, slots=True)
class State:
    """What the API shows of a deployment beside its spec."""

    status: DeploymentStatus
    generation: int  # what was looked at
    observed_generation: int  # what was ready last
    routes: tuple[Route, ...]
    error: str | None


@dataclass(slots=True)
class _Failures:
    count: int = 0
    again_at: float = 0.0
    reason: str = ""


class Reconciler:
    """`command(replica, version)` gives the argument list of a replica process."""

    def __init__(
        self,
        *,
        deployments: DeploymentStore,
        registry: RegistryStore,
        access: AccessStore,
        plans: PlanStore,
        launcher: Launcher,
        publisher: Publisher,
        sockets: Path,
        command: Callable[[str, Scope, ModelVersion], list[str]],
        wake: threading.Event,
    ) -> None:
        self._deployments = deployments
        self._registry = registry
        self._access = access
        self._plans = plans
        self._launcher = launcher
        self._publisher = publisher
        self._sockets = sockets
        self._command = command
        self._wake = wake
        self._turning = threading.Lock()
        self._ready: set[str] = set()
        self._started: dict[str, Start] = {}  # ours, not yet ready
        self._failures: dict[Start, _Failures] = {}
        self._versions: dict[tuple[Scope, str], ModelVersion] = {}
        self._states: dict[str, State] = {}
        self._routes: dict[str, tuple[Route, ...]] = {
            name: tuple(
                Route(t.version, t.weight, tuple(r.id for r in t.replicas)) for t in entry.targets
            )
            for name, entry in publisher.current.deployments.items()
        }

    def run(self) -> None:
        """Turn for ever (in a daemon thread)."""
        while True:
            try:
                busy = self.turn()
            except Exception:
                log.exception("a turn of the reconciler failed")
                busy = False
            self._wake.wait(BUSY_TURN_S if busy else IDLE_TURN_S)
            self._wake.clear()

    def wake(self) -> None:
        self._wake.set()

    def state(self, deployment: Deployment) -> State:
        """As of the last turn; a generation that no turn has seen yet is on its way."""
        known = self._states.get(deployment.full_name)
        if known is None:
            return State(DeploymentStatus.PENDING, 0, 0, (), None)
        if known.generation == deployment.generation:
            return known
        serves = any(route.replicas for route in known.routes)
        status = DeploymentStatus.ROLLING if serves else DeploymentStatus.PENDING
        return replace(known, status=status, error=None)

    def publish(self) -> bool:
        """Publish keys, access and plans as they stand now, with the present routes."""
        return self._publisher.publish(self._snapshot)

    def turn(self) -> bool:
        """One look and its consequences; True while something is on its way."""
        with self._turning:
            specs = {d.full_name: d for d in self._deployments.list(None)}
            wanted = [self._resolve(spec) for spec in specs.values()]
            self._forget(wanted)
            replicas = self._look()
            step = planning.plan(wanted, replicas, self._routes, self._blocked())
            for start in step.start:
                self._start(specs[start.deployment], start)
            changed = step.routes != self._routes
            self._routes = step.routes
            published = self.publish()
            if published:
                for replica in step.stop:
                    self._started.pop(replica, None)  # its end is no failure
                    self._launcher.stop(replica)
            self._remember(wanted, replicas, specs)
            on_its_way = (DeploymentStatus.PENDING, DeploymentStatus.ROLLING)
            unsettled = any(state.status in on_its_way for state in self._states.values())
            return changed or bool(self._started) or not published or unsettled

    # -- looking -----------------------------------------------------------------------

    def _resolve(self, spec: Deployment) -> Wanted:
        targets, error = [], None
        for target in spec.targets:
            try:
                version = references.resolve(self._registry, spec.scope, target.model)
            except MeuseError as missing:
                error = str(missing)
            else:
                self._versions[spec.scope, version.ref] = version
                targets.append(WantedTarget(version.ref, target.weight))
        return Wanted(spec.full_name, spec.generation, tuple(targets), spec.scale.min, error)

    def _look(self) -> list[Replica]:
        running = self._launcher.running()
        for replica, start in list(self._started.items()):
            if replica in running and _listens(self._sockets / f"{replica}.sock"):
                self._failures.pop(start, None)
                del self._started[replica]
            elif replica not in running:
                del self._started[replica]
                self._failed(replica, start)
        self._ready &= running.keys()
        replicas = []
        for replica, label in running.items():
            if replica not in self._ready and _listens(self._sockets / f"{replica}.sock"):
                self._ready.add(replica)
            ready = replica in self._ready
            replicas.append(Replica(replica, label["deployment"], label["version"], ready))
        return replicas

    def _failed(self, replica: str, start: Start) -> None:
        failures = self._failures.setdefault(start, _Failures())
        delay = BACKOFF_S[min(failures.count, len(BACKOFF_S) - 1)]
        failures.count += 1
        failures.again_at = time.monotonic() + delay
        try:
            failures.reason = (self._sockets / f"{replica}.error").read_text()
        except OSError:
            failures.reason = "the replica ended before it was ready; see logs/replica.log"
        log.warning("%s of %s: %s", start.version, start.deployment, failures.reason)

    def _forget(self, wanted: list[Wanted]) -> None:
        """Failures of versions that nobody asks for any more."""
        current = {Start(want.name, t.version) for want in wanted for t in want.targets}
        self._failures = {s: f for s, f in self._failures.items() if s in current}

    def _blocked(self) -> set[Start]:
        now = time.monotonic()
        return {start for start, failures in self._failures.items() if failures.again_at > now}

    # -- acting ------------------------------------------------------------------------

    def _start(self, spec: Deployment, start: Start) -> None:
        replica = new_id("replica")
        version = self._versions[spec.scope, start.version]
        label = {"deployment": start.deployment, "version": start.version}
        self._started[replica] = start
        self._launcher.start(replica, self._command(replica, spec.scope, version), label)

    def _remember(
        self, wanted: list[Wanted], replicas: list[Replica], specs: dict[str, Deployment]
    ) -> None:
        states = {}
        for want in wanted:
            mine = [r for r in replicas if r.deployment == want.name]
            failures = [f for s, f in self._failures.items() if s.deployment == want.name]
            routes = self._routes.get(want.name, ())
            count = max((f.count for f in failures), default=0)
            status = planning.status(want, mine, routes, count)
            error = want.error or next((f.reason for f in failures if f.reason), None)
            observed = (
                specs[want.name].generation
                if status is DeploymentStatus.READY
                else (
                    self._states[want.name].observed_generation if want.name in self._states else 0
                )
            )
            states[want.name] = State(status, want.generation, observed, routes, error)
        self._states = states

    def _snapshot(self) -> Snapshot:
        plans: dict[str, str] = {}
        for plan in self._plans.plans():
            plans[plan.name] = plan.ref  # ascending: the last is the latest
        return Snapshot(
            keys={
                key.id: KeyEntry(
                    key.hash, key.scope.tenant, key.scope.project, key.scopes, key.expires_ms
                )
                for key in self._access.keys(None)
            },
            tenants={
                t.name: TenantEntry(plans.get(t.plan) if t.plan else None)
                for t in self._access.tenants()
            },
            deployments={
                spec.full_name: self._entry(spec) for spec in self._deployments.list(None)
            },
        )

    def _entry(self, spec: Deployment) -> DeploymentEntry:
        return DeploymentEntry(
            tenant=spec.scope.tenant,
            project=spec.scope.project,
            name=spec.name,
            generation=spec.generation,
            access=frozenset(spec.access),
            timeout_ms=spec.timeout_ms,
            targets=tuple(
                self._target(self._version(spec.scope, route.version), route)
                for route in self._routes.get(spec.full_name, ())
            ),
        )

    def _version(self, scope: Scope, ref: str) -> ModelVersion:
        known = self._versions.get((scope, ref))
        if known is None:  # routed before this control started
            known = references.resolve(self._registry, scope, ref)
            self._versions[scope, ref] = known
        return known

    @staticmethod
    def _target(version: ModelVersion, route: Route) -> TargetEntry:
        def entries(specs: Any) -> tuple[TensorEntry, ...]:
            return tuple(TensorEntry(s.name, s.datatype, s.shape) for s in specs)

        return TargetEntry(
            version=version.ref,
            weight=route.weight,
            inputs=entries(version.signature.inputs),
            outputs=entries(version.signature.outputs),
            replicas=tuple(ReplicaEntry(replica) for replica in route.replicas),
            classes=version.signature.classes,
            platform=version.artifacts[0].format,
        )


def _listens(path: Path) -> bool:
    """A replica listens once it is warm."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
