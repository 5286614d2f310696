"""Deployments: ask for one, look at it, take it down."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse

from meuse.api.context import Body, Control, Parts, requires
from meuse.core.clock import to_rfc3339
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import EXTERNAL, Deployment, EngineOptions, Principal
from meuse.deploy import generation
from meuse.deploy import spec as specs
from meuse.deploy.completion import completed

router = APIRouter(prefix="/api/deployments", tags=["deployments"])
Caller = Annotated[Principal, requires("deploy")]


def describe(parts: Control, deployment: Deployment) -> dict[str, Any]:
    state = parts.reconciler.state(deployment)
    name = deployment.name
    return {
        "name": name,
        "owner": deployment.scope.tenant,
        "status": state.status,
        "generation": deployment.generation,
        "observed_generation": state.observed_generation,
        "targets": [asdict(target) for target in deployment.targets],
        "serving": [
            {"model": r.version, "weight": r.weight, "replicas": len(r.replicas)}
            for r in state.routes
        ],
        "replicas": sum(len(route.replicas) for route in state.routes),
        "scaling": state.scaling and asdict(state.scaling),
        "scale": asdict(deployment.scale),
        "access": {"tenants": "*" if deployment.access == ("*",) else list(deployment.access)},
        "timeout_ms": deployment.timeout_ms,
        "objective_ms": deployment.objective_ms,
        "batching": asdict(deployment.batching),
        "sticky": deployment.sticky,
        "shadow": deployment.shadow and asdict(deployment.shadow),
        "canary": deployment.canary and asdict(deployment.canary),
        "rollout": parts.reconciler.rollout(deployment),
        "cache": deployment.cache and asdict(deployment.cache),
        "engine": _engine(deployment.engine),
        "adapters": {adapter.name: adapter.model for adapter in deployment.adapters},
        "error": state.error,
        "endpoints": _endpoints(parts, deployment),
        "updated": to_rfc3339(deployment.updated_ms),
    }


def _engine(options: EngineOptions) -> dict[str, Any]:
    """As a caller writes it."""
    shown = asdict(options)
    if (draft := options.draft_model) is not None:
        told = {"model": draft.model, "num_assistant_tokens": draft.num_assistant_tokens}
        shown["draft_model"] = told
    return shown


def _endpoints(parts: Control, deployment: Deployment) -> list[str]:
    name = deployment.name
    if deployment.engine.name in (generation.ENGINE, generation.VLLM, EXTERNAL):
        paths = ("chat/completions", "completions")
        names = [name, *(f"{name}:{each.name}" for each in deployment.adapters)]
        return [f"{parts.http_url}/v1/{path} (model {n})" for n in names for path in paths]
    return [
        f"{parts.http_url}/predictions/{name}",
        f"{parts.http_url}/v2/models/{name}/infer",
        f"{parts.grpc_url}/inference.GRPCInferenceService/ModelInfer ({name})",
    ]


@router.put("/{name}", status_code=202)
def put(
    parts: Parts,
    caller: Caller,
    name: str,
    body: Body,
    if_match: Annotated[str | None, Header()] = None,
) -> JSONResponse:
    """Ask for {model | targets, scale?, access?, timeout_ms?, objective_ms?, batching?, sticky?,
    shadow?, canary?, cache?, engine?, adapters?}. A new spec supersedes one that is still on its
    way. `If-Match: <generation>` answers 412 when somebody was faster."""
    wanted = specs.parse(caller.scope, name, body)
    wanted = completed(
        parts.registry,
        wanted,
        body,
        parts.reconciler.budget,
        has_vllm=bool(parts.vllm_python),
    )
    _check_room(parts, wanted)
    for i, tenant in enumerate(wanted.access):
        if tenant != "*":
            try:
                parts.tenancy.store.tenant(tenant)
            except MeuseError:
                raise invalid(f"access.tenants[{i}]", f"there is no tenant {tenant!r}") from None
    match = None
    if if_match is not None:
        text = if_match.strip('"')
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise invalid("If-Match", f"{if_match!r} is not a generation")
        match = int(text)
    made = parts.deployments.put(wanted, match)
    published = parts.reconciler.publish()
    parts.reconciler.wake()
    return JSONResponse({"name": name, "generation": made.generation, "published": published}, 202)


def _check_room(parts: Control, wanted: Deployment) -> None:
    others = [d for d in parts.deployments.list(None) if d.full_name != wanted.full_name]
    taken = sum(_replicas(d) for d in others)
    if taken + _replicas(wanted) > parts.max_replicas:
        raise invalid(
            "scale.min",
            f"the platform runs at most {parts.max_replicas} replicas, {taken} are taken",
            "Ask for fewer, or the operator to raise max_replicas.",
        )


def _replicas(deployment: Deployment) -> int:
    """As many as are kept at least; while a version takes over there are more."""
    if deployment.engine.name == EXTERNAL:
        return 0
    return deployment.scale.min * len(deployment.targets) + (deployment.shadow is not None)


@router.get("")
def listing(parts: Parts, caller: Caller) -> dict[str, Any]:
    return {"items": [describe(parts, d) for d in parts.deployments.list(caller.scope)]}


@router.get("/{name}")
def one(parts: Parts, caller: Caller, name: str) -> dict[str, Any]:
    return describe(parts, parts.deployments.get(caller.scope, name))


@router.post("/{name}/promote")
def promote(parts: Parts, caller: Caller, name: str) -> dict[str, Any]:
    """Give the new version of a running canary everything now. 409 when there is none."""
    deployment = parts.deployments.get(caller.scope, name)
    parts.reconciler.promote(deployment)
    return describe(parts, deployment)


@router.post("/{name}/rollback")
def roll_back(parts: Parts, caller: Caller, name: str) -> dict[str, Any]:
    """Send the new version of a canary back. 409 when there is none."""
    deployment = parts.deployments.get(caller.scope, name)
    parts.reconciler.roll_back(deployment)
    return describe(parts, deployment)


@router.delete("/{name}")
def delete(parts: Parts, caller: Caller, name: str) -> Response:
    """Take it out of the routes, then stop its replicas."""
    parts.deployments.delete(caller.scope, name)
    published = parts.reconciler.publish()
    parts.reconciler.wake()
    return JSONResponse({"name": name, "published": published})


@router.post("/{name}/load", status_code=202)
def load(parts: Parts, caller: Caller, name: str) -> dict[str, Any]:
    """Start a replica of one that rests at zero, before the first request does."""
    deployment = parts.deployments.get(caller.scope, name)
    parts.reconciler.load(deployment)
    return describe(parts, deployment)


@router.post("/{name}/unload", status_code=202)
def unload(parts: Parts, caller: Caller, name: str) -> dict[str, Any]:
    """Stop the replicas of one that may rest at zero (`scale.min` 0) and is not in use; the
    next request wakes it. Answers 409 otherwise."""
    deployment = parts.deployments.get(caller.scope, name)
    parts.reconciler.unload(deployment)
    return describe(parts, deployment)
