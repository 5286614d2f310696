"""What is published: keys, tenants and routes as the stores have them, in a snapshot."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import msgspec

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import GENERATION, Deployment, ModelVersion, TensorSpec
from meuse.core.ports import AccessStore, PlanStore
from meuse.deploy.plan import Route
from meuse.serve.snapshot import (
    AdapterEntry,
    CacheEntry,
    DeploymentEntry,
    GenerationEntry,
    KeyEntry,
    ReplicaEntry,
    ShadowEntry,
    Snapshot,
    TargetEntry,
    TenantEntry,
    TensorEntry,
    UpstreamEntry,
)

log = logging.getLogger(__name__)

FindVersion = Callable[[Deployment, str], ModelVersion]
"""(deployment, "model:3") → the version. Raises `not_found`."""
FindUpstream = Callable[[Deployment, ModelVersion, tuple[str, ...]], UpstreamEntry | None]
"""(deployment, a version of it, its ready replicas) → the server that answers for it, if any."""
FindAdapters = Callable[[Deployment, ModelVersion], dict[str, AdapterEntry]]
"""(deployment, a version of it) → the adapters that this version can have, by name."""


def keys(access: AccessStore) -> dict[str, KeyEntry]:
    return {
        key.id: KeyEntry(key.hash, key.scope.tenant, key.scope.project, key.scopes, key.expires_ms)
        for key in access.keys(None)
    }


def tenants(access: AccessStore, plans: PlanStore) -> dict[str, TenantEntry]:
    latest = {plan.name: plan.ref for plan in plans.plans()}  # ascending: the last one stays
    return {
        tenant.name: TenantEntry(latest.get(tenant.plan) if tenant.plan else None)
        for tenant in access.tenants()
    }


def deployments(
    specs: Iterable[Deployment],
    routes: Mapping[str, tuple[Route, ...]],
    find: FindVersion,
    shadows: Mapping[str, Route] | None = None,
    upstream: FindUpstream = lambda _, __, ___: None,
    adapters: FindAdapters = lambda _, __: {},
) -> dict[str, DeploymentEntry]:
    """By "owner/name". One that cannot be described is published without targets: a broken
    deployment must not hold up what everybody else publishes, revocations least of all."""
    entries = {}
    for spec in specs:
        try:
            targets = tuple(
                _target(
                    version,
                    route,
                    upstream(spec, version, route.replicas),
                    adapters(spec, version),
                )
                for route in routes.get(spec.key, ())
                for version in (find(spec, route.version),)
            )
        except MeuseError as error:
            log.error("%s is not routed: %s", spec.key, error)
            targets = ()
        shadow = (shadows or {}).get(spec.key)
        entries[spec.full_name] = DeploymentEntry(
            tenant=spec.scope.tenant,
            project=spec.scope.project,
            name=spec.name,
            generation=spec.generation,
            access=frozenset(spec.access),
            timeout_ms=spec.timeout_ms,
            targets=targets,
            objective_ms=spec.objective_ms,
            sticky=spec.sticky,
            shadow=_shadow(spec, shadow, find) if shadow else None,
            cache=CacheEntry(spec.cache.ttl_s, spec.cache.max_bytes) if spec.cache else None,
            wake=spec.scale.min == 0,
        )
    return entries


def routes_of(snapshot: Snapshot) -> dict[str, tuple[Route, ...]]:
    """The routes that a snapshot holds, by `Deployment.key`."""
    return {
        f"{entry.tenant}/{entry.project}/{entry.name}": tuple(
            Route(t.version, t.weight, tuple(r.id for r in t.replicas)) for t in entry.targets
        )
        for entry in snapshot.deployments.values()
    }


def _shadow(spec: Deployment, route: Route, find: FindVersion) -> ShadowEntry | None:
    try:
        return ShadowEntry(_target(find(spec, route.version), route), route.weight)
    except MeuseError as error:
        log.error("the shadow of %s is not published: %s", spec.key, error)
        return None


def _target(
    version: ModelVersion,
    route: Route,
    upstream: UpstreamEntry | None = None,
    adapters: dict[str, AdapterEntry] | None = None,
) -> TargetEntry:
    return TargetEntry(
        version=version.ref,
        weight=route.weight,
        inputs=_tensors(version.signature.inputs),
        outputs=_tensors(version.signature.outputs),
        replicas=tuple(ReplicaEntry(replica) for replica in route.replicas),
        classes=version.signature.classes,
        platform=version.artifacts[0].format,
        created_ms=version.created_ms,
        generation=_generation(version, adapters or {}),
        upstream=upstream,
    )


def _generation(version: ModelVersion, adapters: dict[str, AdapterEntry]) -> GenerationEntry | None:
    """What the version of a language model tells of itself (`pull.facts.report`)."""
    if version.task != GENERATION:
        return None
    try:
        told = msgspec.convert(version.report.get("generation"), GenerationEntry)
        return msgspec.structs.replace(told, loras=adapters)
    except msgspec.ValidationError as error:
        raise MeuseError(
            Code.INVALID_DATA, f"{version.ref} does not tell what it can take: {error}"
        ) from None


def _tensors(specs: Iterable[TensorSpec]) -> tuple[TensorEntry, ...]:
    return tuple(TensorEntry(s.name, s.datatype, s.shape, s.nullable) for s in specs)
