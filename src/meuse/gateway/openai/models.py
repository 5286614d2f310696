"""`GET /v1/models`: what a caller may name at the other calls of this API. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meuse.core.errors import Code, MeuseError
from meuse.gateway.dataplane import DataPlane
from meuse.gateway.openai.embeddings import embeds
from meuse.gateway.routes import Caller, Route


def listed(plane: DataPlane, caller: Caller) -> dict[str, Any]:
    routes = plane.visible(caller)
    data = [model for name, route in routes.items() for model in _models(name, route)]
    return {"object": "list", "data": data}


def one(plane: DataPlane, caller: Caller, name: str) -> dict[str, Any]:
    """Raises `not_found`."""
    deployment, _ = plane.adapted(caller, name)
    for model in _models(deployment, plane.route(caller, deployment)):
        if model["id"] == name:
            return model
    raise MeuseError(
        Code.NOT_FOUND, f"{name!r} neither produces text nor embeds it", field="model",
        hint="It is served under /v2 and /predictions.",
    )  # fmt: skip


def _models(name: str, route: Route) -> Iterator[dict[str, Any]]:
    """The deployment itself, and each adapter on it."""
    if not route.targets:
        return
    entry = route.main(None).entry
    if entry.generation is None and not embeds(entry):
        return
    model = {
        "id": name,
        "object": "model",
        "created": entry.created_ms // 1000,
        "owned_by": route.deployment.tenant,
    }
    yield model
    for adapter, lora in entry.generation.loras.items() if entry.generation is not None else ():
        created = lora.created_ms // 1000
        yield {**model, "id": f"{name}:{adapter}", "created": created, "parent": name}
