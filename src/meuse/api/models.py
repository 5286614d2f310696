"""Models, versions and aliases."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Response

from meuse.api.context import Body, Number, Parts, requires
from meuse.core.clock import to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid, not_found
from meuse.core.ids import check_name
from meuse.core.nouns import ModelVersion, Principal
from meuse.registry import references

router = APIRouter(prefix="/api/models", tags=["models"])
Caller = Annotated[Principal, requires("models")]


def describe(version: ModelVersion) -> dict[str, Any]:
    body = asdict(version)
    del body["created_ms"]
    return body | {"ref": version.ref, "created": to_rfc3339(version.created_ms)}


@router.get("")
def listing(parts: Parts, caller: Caller) -> dict[str, Any]:
    items = []
    for name in parts.registry.models(caller.scope):
        versions = parts.registry.versions(caller.scope, name)
        items.append(
            {
                "name": name,
                "latest": versions[-1].version,
                "versions": len(versions),
                "aliases": parts.registry.aliases(caller.scope, name),
            }
        )
    return {"items": items}


@router.get("/{name}")
def model(parts: Parts, caller: Caller, name: str) -> dict[str, Any]:
    versions = parts.registry.versions(caller.scope, name)
    if not versions:
        raise not_found("model", name)
    return {
        "name": name,
        "versions": [describe(version) for version in versions],
        "aliases": parts.registry.aliases(caller.scope, name),
    }


@router.get("/{name}/versions/{version}")
def one(parts: Parts, caller: Caller, name: str, version: Number) -> dict[str, Any]:
    return describe(parts.registry.get_version(caller.scope, name, version))


@router.get("/{name}/versions/{version}/artifacts/{artifact}")
def download(parts: Parts, caller: Caller, name: str, version: Number, artifact: str) -> Response:
    """The bytes of an artifact, verified against its digest."""
    for item in parts.registry.get_version(caller.scope, name, version).artifacts:
        if item.name == artifact:
            data = parts.blobs.read(caller.tenant, item.digest)
            return Response(data, media_type="application/octet-stream")
    raise not_found("artifact", artifact)


@router.get("/{name}/aliases/{alias}")
def alias(parts: Parts, caller: Caller, name: str, alias: str) -> dict[str, Any]:
    return describe(references.resolve(parts.registry, caller.scope, f"{name}@{alias}", "alias"))


@router.put("/{name}/aliases/{alias}")
def set_alias(parts: Parts, caller: Caller, name: str, alias: str, body: Body) -> dict[str, Any]:
    """Point an alias at a version: {version: 2}. Deployments on the alias roll to it."""
    check_name(alias, "alias")
    version = body.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or set(body) != {"version"}:
        raise invalid("version", "the body is {version: <number>}")
    if not 0 < version < 2**31:
        raise invalid("version", f"{version} is not a version")
    parts.registry.set_alias(caller.scope, name, alias, version)
    parts.reconciler.wake()  # workers route by version: they hear of it when the rollout is ready
    return {"model": name, "alias": alias, "version": version}


@router.delete("/{name}/aliases/{alias}", status_code=204)
def delete_alias(parts: Parts, caller: Caller, name: str, alias: str) -> Response:
    users = [
        d.name
        for d in parts.deployments.list(caller.scope)
        if any(t.model == f"{name}@{alias}" for t in d.targets)
    ]
    if users:
        raise MeuseError(
            Code.CONFLICT, f"the alias is used by deployments: {', '.join(users)}", field="alias"
        )
    parts.registry.delete_alias(caller.scope, name, alias)
    return Response(status_code=204)
