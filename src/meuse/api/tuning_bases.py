"""What `model` of a fine-tuning job means: which version is trained, and where it is served."""

from __future__ import annotations

from meuse.api.context import Control
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import GENERATION, Deployment, ModelVersion, Scope
from meuse.deploy import generation
from meuse.registry import references

TRAINABLE = ("hf", "gguf")
SERVES_ADAPTERS = "ir"


def base_of(parts: Control, scope: Scope, text: str) -> tuple[ModelVersion, str | None]:
    """(the version to train, the deployment that shall serve the adapter, or None).

    A deployment goes before a model of the same name, as on the data plane. Raises
    `not_found` and `invalid_field` at `model`.
    """
    deployment = _deployment(parts, scope, text)
    if deployment is None:
        try:
            served = references.resolve(parts.registry, scope, text)
        except MeuseError as error:
            raise MeuseError(
                error.code, error.message, field="model",
                hint="Name a version, such as smollm2:1, or a deployment that serves one.",
            ) from None  # fmt: skip
        return _trainable(parts, scope, served), None
    if len(deployment.targets) != 1:
        raise invalid(
            "model", f"the deployment {text!r} serves several versions", "Name one of them."
        )
    served = references.resolve(parts.registry, scope, deployment.targets[0].model)
    attaches = _layout(served) == SERVES_ADAPTERS
    if attaches:
        _check_takes_adapters(deployment, served)
    return _trainable(parts, scope, served), deployment.name if attaches else None


def _check_takes_adapters(deployment: Deployment, served: ModelVersion) -> None:
    """Before anything is trained that could not be served there."""
    try:
        generation.check_takes_adapters(deployment.engine)
    except MeuseError as error:
        raise invalid(
            "model",
            f"the deployment {deployment.name!r} has {error.field}, and no adapter beside it: "
            f"{error.message}",
            f"Take the option out of the deployment, or name the version: {served.ref}.",
        ) from None


def _deployment(parts: Control, scope: Scope, name: str) -> Deployment | None:
    return next((d for d in parts.deployments.list(scope) if d.name == name), None)


def _layout(version: ModelVersion) -> str | None:
    layout: str | None = version.report.get("generation", {}).get("layout")
    return layout


def _trainable(parts: Control, scope: Scope, version: ModelVersion) -> ModelVersion:
    """The version itself, or of a converted one the nearest that it came from."""
    if version.task != GENERATION:
        raise invalid("model", f"{version.ref} is not a language model", "Use POST /api/jobs.")
    found, layout = version, _layout(version)
    while layout == SERVES_ADAPTERS and found.lineage.parent:
        found = references.resolve(parts.registry, scope, found.lineage.parent)
        layout = _layout(found)
    if layout not in TRAINABLE:
        raise invalid(
            "model",
            f"{version.ref} is kept as {_layout(version)!r}, and did not come from what can be "
            "trained on",
            "Name a version that was imported as GGUF or safetensors.",
        )
    return found
