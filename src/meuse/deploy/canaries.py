"""The rollouts of all deployments: their states on disk, and what the workers counted.

`rollout` decides; this keeps. Not for two threads at once: the reconciler's lock guards it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from meuse.core.clock import now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Deployment, Scope
from meuse.core.ports import RolloutStore
from meuse.deploy import rollout
from meuse.deploy.plan import Route, WantedTarget
from meuse.deploy.rollout import Look, Rollout, Seen, Verdict
from meuse.serve import stats

log = logging.getLogger(__name__)

AGREEMENT_PERCENT = 100
"""Of the stable version's requests that a candidate is asked as well, for `min_agreement`."""


class Canaries:
    """`folder` is where the workers' counters lie."""

    def __init__(
        self, store: RolloutStore, folder: Path, clock: Callable[[], int] = now_ms
    ) -> None:
        self._store = store
        self._folder = folder
        self._clock = clock
        self._states: dict[str, Rollout] = {}
        self._waits: dict[str, str] = {}
        for (scope, name), body in store.all().items():
            key = f"{scope.tenant}/{scope.project}/{name}"
            self._states[key] = Rollout.from_dict(body)

    def state(self, key: str) -> Rollout | None:
        return self._states.get(key)

    def targets(
        self,
        spec: Deployment,
        wanted: str,
        routes: Sequence[Route],
        *,
        ready: bool,
        failures: int = 0,
        failure: str = "",
        crashes: int = 0,
    ) -> tuple[WantedTarget, ...]:
        """The versions wanted of a deployment with a canary, the stable one first."""
        assert spec.canary is not None
        state = self._states.get(spec.key)
        serving = sorted((r for r in routes if r.replicas), key=lambda route: -route.weight)
        look = Look(
            spec=spec.canary,
            generation=spec.generation,
            wanted=wanted,
            serving=[route.version for route in serving],
            ready=ready,
            failures=failures,
            failure=failure,
            crashes=crashes,
            counts=self._counts(spec.full_name) if state and state.candidate else {},
            now_ms=self._clock(),
        )
        after = rollout.advance(state, look)
        if after is not state:
            self._keep(spec, after)
        if after.candidate is not None:
            self._waits[spec.key] = rollout.waits_for(after, look) or ""
        return tuple(WantedTarget(*pair) for pair in rollout.weights(after, spec.canary))

    def shadow(self, spec: Deployment) -> WantedTarget | None:
        """The candidate, where its answers are compared with the stable version's."""
        state = self._states.get(spec.key)
        if spec.canary is None or spec.canary.min_agreement is None or state is None:
            return None
        if state.candidate is None or state.verdict is not Verdict.RUNNING:
            return None
        return WantedTarget(state.candidate, AGREEMENT_PERCENT)

    def promote(self, spec: Deployment) -> None:
        """End a rollout well. Raises `conflict`."""
        self._keep(spec, rollout.promoted(self._running(spec), self._clock(), "by hand"))

    def roll_back(self, spec: Deployment) -> None:
        """End a rollout. Raises `conflict`."""
        self._keep(spec, rollout.rolled_back(self._running(spec), self._clock(), "by hand"))

    def keep_only(self, specs: Collection[Deployment]) -> None:
        """Forget the states of deployments that are gone or have no canary."""
        keys = {spec.key for spec in specs if spec.canary is not None}
        for key in self._states.keys() - keys:
            tenant, project, name = key.split("/")
            self._store.delete(Scope(tenant, project), name)
            del self._states[key]
            self._waits.pop(key, None)

    def describe(self, spec: Deployment) -> dict[str, Any] | None:
        """What the API shows; None without a canary."""
        state = self._states.get(spec.key)
        if spec.canary is None or state is None:
            return None
        running = state.candidate is not None
        return {
            "candidate": state.candidate,
            "stable": state.stable,
            "rejected": state.rejected,
            "step": state.step if running else None,
            "weight": rollout.weight_of(state, spec.canary) if running else None,
            "since": to_rfc3339(state.since_ms),
            "verdict": state.verdict,
            "reason": self._waits.get(spec.key) or None if running else state.reason,
            "history": [{**entry, "at": to_rfc3339(entry["at_ms"])} for entry in state.history],
        }

    def _running(self, spec: Deployment) -> Rollout:
        state = self._states.get(spec.key)
        if state is None:
            raise MeuseError(
                Code.CONFLICT,
                "this deployment has no canary",
                field="name",
                hint='PUT it with {"canary": true}.',
            )
        return state

    def _keep(self, spec: Deployment, state: Rollout) -> None:
        """On disk before it is acted on."""
        self._store.put(spec.scope, spec.name, state.to_dict())
        self._states[spec.key] = state
        log.info(
            "%s: %s, stable %s, candidate %s: %s",
            spec.key, state.verdict, state.stable, state.candidate, state.reason,
        )  # fmt: skip

    def _counts(self, deployment: str) -> dict[str, Seen]:
        parts: dict[str, list[stats.TargetStats]] = {}
        for worker in stats.read_all(self._folder):
            route = worker.routes.get(deployment)
            for version, counted in (route.targets if route else {}).items():
                parts.setdefault(version, []).append(counted)
        return {version: rollout.seen(counted) for version, counted in parts.items()}
