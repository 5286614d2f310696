"""A snapshot made ready for the hot path: who calls, and where a model name leads.

Immutable but for three caches that live and die with it: verified keys, the names that a
caller has resolved and the limits it meets there. So a revocation, a change of access or a
rollout is one swap. Knows no protocol and does no input or output.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

import msgspec

from meuse.access import keys
from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.gateway.cache import Cache
from meuse.gateway.counters import Counters
from meuse.gateway.links import Pool
from meuse.gateway.rawtensor import JSON_NEVER
from meuse.meter.checks import Plan
from meuse.meter.record import Template
from meuse.serve.snapshot import DeploymentEntry, KeyEntry, Snapshot, TargetEntry
from meuse.serve.stats import TargetStats

_CACHE = 10_000

Headers = Iterable[tuple[str | bytes, str | bytes]]
"""Names in lower case: of HTTP in bytes, of gRPC metadata in text."""


class Target:
    """One version that takes traffic, with the pool of its replicas; or `adapter` (a digest) on
    one, which is counted and recorded under the adapter's own version. `adapters` by name."""

    __slots__ = (
        "adapter", "adapters", "classes", "entry", "input_at", "label", "output_names", "outputs",
        "pool", "raw_only", "route", "stats",
    )  # fmt: skip

    def __init__(
        self,
        route: Route,
        entry: TargetEntry,
        label: str,
        pool: Pool,
        stats: TargetStats,
        adapter: str = "",
    ) -> None:
        self.adapter = adapter
        self.adapters: dict[str, Target] = {}
        self.route = route
        self.stats = stats
        self.entry = entry
        self.label = label
        self.pool = pool
        self.input_at = {spec.name: spec for spec in entry.inputs}
        self.outputs = {spec.name: spec for spec in entry.outputs}
        self.output_names = list(self.outputs)
        self.raw_only = {spec.name for spec in entry.outputs if spec.datatype in JSON_NEVER}
        self.classes = entry.classes


class Route:
    """A deployment: its targets by weight and by version."""

    __slots__ = ("_cumulative", "_header", "_versions", "cache", "deployment", "full_name",
                 "shadow", "stats", "targets")  # fmt: skip

    def __init__(
        self,
        full_name: str,
        deployment: DeploymentEntry,
        pool: Callable[[str, str], Pool],
        counters: Counters,
    ) -> None:
        self.full_name = full_name
        self.stats = counters.route(full_name)
        self.deployment = deployment
        self.cache: Cache | None = None
        models = {entry.version.rpartition(":")[0] for entry in deployment.targets}
        self.targets = [
            Target(
                self,
                entry,
                # Open Inference clients write a bare number; enough while one model is served.
                entry.version.rpartition(":")[2] if len(models) == 1 else entry.version,
                pool(full_name, entry.version),
                counters.target(full_name, entry.version),
            )
            for entry in deployment.targets
        ]
        for target in self.targets:
            self._add_adapters(target, counters)
        self._versions = {target.label: target for target in self.targets}
        self._versions |= {target.entry.version: target for target in self.targets}
        self._cumulative = list(itertools.accumulate(t.entry.weight for t in self.targets))
        sticky = deployment.sticky or ""
        name = sticky.removeprefix("header:") if sticky.startswith("header:") else ""
        self._header = (name, name.encode()) if name else None
        self.shadow: Target | None = None
        if (shadow := deployment.shadow) is not None:
            version = shadow.target.version
            self.shadow = Target(
                self,
                shadow.target,
                version,
                pool(full_name, version),
                counters.target(full_name, version),
            )

    def _add_adapters(self, target: Target, counters: Counters) -> None:
        entry = target.entry
        for name, lora in entry.generation.loras.items() if entry.generation else ():
            target.adapters[name] = Target(
                self,
                msgspec.structs.replace(entry, version=lora.version),
                lora.version,
                target.pool,
                counters.target(self.full_name, lora.version),
                lora.digest,
            )

    def adapted(self, target: Target, name: str) -> Target:
        """The adapter of this name on that target, or where that one cannot have it, on another:
        rather one that takes traffic, and has a replica. Raises `not_found`."""
        if (found := target.adapters.get(name)) is not None:
            return found
        if able := [each for each in self.targets if name in each.adapters]:
            best = max(able, key=lambda each: (each.entry.weight > 0, each.pool.is_ready))
            return best.adapters[name]
        raise MeuseError(
            Code.NOT_FOUND, f"there is no adapter {name!r}", field="model",
            hint="GET /v1/models lists those that you may call.",
        )  # fmt: skip

    def choose(self, version: str | None, key: str = "", headers: Headers = ()) -> Target:
        """The version asked for, or one by weight: by chance, or, where the deployment is
        sticky, always the same one for a key or a header. Raises `not_found`, `unavailable`."""
        targets = self.targets
        if version:
            target = self._versions.get(version)
            if target is None:
                raise MeuseError(
                    Code.NOT_FOUND,
                    f"there is no version {version!r} of this model",
                    field="version",
                    hint=f"Versions: {', '.join(t.label for t in targets) or 'none is ready'}.",
                )
            return target
        if not targets or self._cumulative[-1] <= 0:
            raise MeuseError(
                Code.UNAVAILABLE,
                "no version of this model is ready",
                field="model",
                hint="Try again later.",
            )
        if len(targets) == 1:
            return targets[0]
        by_chance = self.deployment.sticky is None
        point = random.random() if by_chance else self._point(key, headers)  # noqa: S311
        return targets[bisect_right(self._cumulative, point * self._cumulative[-1])]

    def _point(self, key: str, headers: Headers) -> float:
        """Where between 0 and 1 a caller stands: the same for every worker, at any time.

        Targets lie there one after the other, a new version last: as its weight rises it takes
        over callers of those before it, and nobody goes back.
        """
        stick: str | bytes | None = key
        if self._header is not None:
            stick = next((v for name, v in headers if name in self._header), None)
        if not stick:
            return random.random()  # noqa: S311
        raw = stick.encode() if isinstance(stick, str) else stick
        named = self.full_name.encode() + b"\0" + raw  # other deployments try others first
        return (int.from_bytes(blake2b(named, digest_size=8).digest()) >> 11) / 2**53

    def main(self, version: str | None) -> Target:
        """As `choose`, but always the same one: what metadata describes."""
        if version or len(self.targets) < 2:
            return self.choose(version)
        return max(self.targets, key=lambda target: target.entry.weight)


class Caller:
    """A verified key. Holds its header to be verified again under newer routes."""

    __slots__ = ("authorization", "expires_ms", "found", "key", "limits", "plan_version",
                 "project", "scopes", "snapshot", "templates", "tenant", "tier")  # fmt: skip

    def __init__(
        self,
        authorization: bytes,
        key: str,
        entry: KeyEntry,
        plan_version: str | None,
        snapshot: int = -1,
        tier: str = "standard",
    ) -> None:
        self.snapshot = snapshot  # the number of the one that it was verified under
        self.tier = tier
        self.authorization = authorization
        self.key = key
        self.tenant = entry.tenant
        self.project = entry.project
        self.scopes = entry.scopes
        self.expires_ms = entry.expires_ms
        self.plan_version = plan_version
        self.found: dict[str | None, Route] = {}
        self.limits: dict[Route, Plan | None] = {}
        self.templates: dict[tuple[Target, str], Template] = {}

    def require(self, scope: str) -> None:
        """Raises `forbidden` unless the key has this scope."""
        if scope not in self.scopes and "admin" not in self.scopes:
            raise MeuseError(
                Code.FORBIDDEN,
                f"the key lacks the scope {scope!r}",
                field="scope",
                hint=f"Use a key with the scope {scope!r}.",
            )


class Routes:
    """Everything the data plane looks up, for one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        pepper: bytes,
        pool: Callable[[str, str], Pool],
        counters: Counters,
    ) -> None:
        self.snapshot = snapshot
        self._pepper = pepper
        self._verified: dict[bytes, Caller] = {}
        self._by_name = {
            name: Route(name, deployment, pool, counters)
            for name, deployment in snapshot.deployments.items()
        }

    def __iter__(self) -> Iterator[Route]:
        return iter(self._by_name.values())

    def authenticate(self, authorization: bytes | None) -> Caller:
        """`Bearer <key>` → the caller. Raises `unauthenticated`."""
        if authorization is None:
            raise _unauthenticated("an API key is missing")
        caller = self._verified.get(authorization)
        if caller is None:
            caller = self._verify(authorization)
        if caller.expires_ms is not None and caller.expires_ms <= now_ms():
            raise _unauthenticated("the API key has expired")
        return caller

    def _verify(self, authorization: bytes) -> Caller:
        scheme, _, key = authorization.decode("latin-1").strip().partition(" ")
        key = key.strip()
        if key.startswith(keys.PASS) and scheme.lower() == "bearer":
            return self._verify_pass(authorization, key)
        key_id = keys.key_id(key) if scheme.lower() == "bearer" else None
        entry = self.snapshot.keys.get(key_id) if key_id else None
        if key_id is None or entry is None or not keys.matches(self._pepper, key, entry.hash):
            raise _unauthenticated("the API key is not valid")
        return self._known(authorization, key_id, entry, "standard")

    def _verify_pass(self, authorization: bytes, text: str) -> Caller:
        """A batch acts for the key that made it, as long as that key is good, and infers only."""
        key_id, until_ms = keys.read_pass(self._pepper, text) or ("", 0)
        entry = self.snapshot.keys.get(key_id)
        if entry is None:
            raise _unauthenticated("the API key is not valid")
        ends = [until_ms, *([] if entry.expires_ms is None else [entry.expires_ms])]
        scopes = frozenset({"infer"} if entry.scopes & {"infer", "admin"} else ())
        narrowed = KeyEntry(b"", entry.tenant, entry.project, scopes, min(ends))
        return self._known(authorization, key_id, narrowed, keys.PASS_TIER)

    def _known(self, authorization: bytes, key_id: str, entry: KeyEntry, tier: str) -> Caller:
        if len(self._verified) >= _CACHE:
            self._verified.clear()
        tenant = self.snapshot.tenants.get(entry.tenant)
        plan = tenant.plan_version if tenant else None
        caller = self._verified[authorization] = Caller(
            authorization, key_id, entry, plan, self.snapshot.number, tier
        )
        return caller

    def find(self, caller: Caller, model: str | None) -> Route:
        """The deployment that a model name means to this caller. Raises `not_found`."""
        route = caller.found.get(model)
        if route is None:
            route = self._only(caller) if model is None else self._named(caller, model)
            caller.found[model] = route  # bounded: only names that exist are kept
        return route

    def visible(self, caller: Caller) -> dict[str, Route]:
        """Every deployment that the caller may call, by name: its own, then `owner/name`."""
        mine, tenant = f"{caller.tenant}/", caller.tenant
        names = sorted(self._by_name, key=lambda name: (not name.startswith(mine), name))
        return {
            name.removeprefix(mine): self._by_name[name]
            for name in names
            if self._by_name[name].deployment.allows(tenant)
        }

    def _named(self, caller: Caller, model: str) -> Route:
        own = self._by_name.get(f"{caller.tenant}/{model}")
        route = own or self._by_name.get(model)
        # The same answer whether it does not exist or may not be called.
        if route is None or not route.deployment.allows(caller.tenant):
            raise MeuseError(
                Code.NOT_FOUND,
                f"there is no model {model!r}",
                field="model",
                hint="Name a deployment of yours, or owner/name of one you have access to.",
            )
        return route

    def _only(self, caller: Caller) -> Route:
        """The caller's own deployment, if it is one: what others share, now or later, must
        never receive a call that did not name it."""
        tenant = caller.tenant
        own = [r for r in self._by_name.values() if r.deployment.tenant == tenant]
        if len(own) == 1:
            return own[0]
        shared = [
            full_name
            for full_name, r in self._by_name.items()
            if r.deployment.tenant != tenant and r.deployment.allows(tenant)
        ]
        names = [*sorted(r.deployment.name for r in own), *sorted(shared)]
        raise MeuseError(
            Code.INVALID_FIELD,
            f"no model is named, and you have {len(own)} deployments of your own",
            field="model",
            hint=f"One of: {', '.join(names[:50])}." if names else "Deploy a model first.",
        )


def _unauthenticated(message: str) -> MeuseError:
    return MeuseError(
        Code.UNAUTHENTICATED,
        message,
        field="authorization",
        hint="Send the header Authorization: Bearer <key>.",
    )
