"""A deployment as a caller writes it: checks every field, resolves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import choice, integer, known
from meuse.core.ids import check_name
from meuse.core.nouns import (
    ENGINES,
    Artifact,
    Deployment,
    DeploymentTarget,
    EngineOptions,
    ModelVersion,
    Scale,
    Scope,
)

DEFAULT_TIMEOUT_MS = 30_000
MAX_REPLICAS = 64
MAX_CORES = 256


def parse(scope: Scope, name: str, body: Mapping[str, Any]) -> Deployment:
    """{model | targets, scale?, access?, timeout_ms?, engine?} → a spec of generation 0.

    Raises `invalid_field` that names the part at fault.
    """
    check_name(name)
    known(body, {"model", "targets", "scale", "access", "timeout_ms", "engine"}, "")
    return Deployment(
        name=name,
        scope=scope,
        generation=0,
        targets=_targets(body),
        scale=_scale(body.get("scale") or {}),
        access=_access(body.get("access") or {}),
        timeout_ms=integer("timeout_ms", body.get("timeout_ms", DEFAULT_TIMEOUT_MS), 1, 600_000),
        updated_ms=0,
        engine=_engine(body.get("engine") or {}),
    )


def artifact_for(version: ModelVersion, engine: EngineOptions, field: str = "engine") -> Artifact:
    """What the engine loads of a version: its first artifact that the engine runs.

    Without a name any engine will do. Raises `invalid_field`.
    """
    names = [engine.name] if engine.name else list(ENGINES)
    for artifact in version.artifacts:
        if any(artifact.format in ENGINES[name] for name in names):
            return artifact
    have = {artifact.format for artifact in version.artifacts}
    able = [name for name, formats in ENGINES.items() if have.intersection(formats)]
    raise invalid(
        f"{field}.name",
        f"{version.ref} has no artifact that the engine {engine.name!r} runs",
        f"Engines that run it: {', '.join(able) or 'none'}.",
    )


def _targets(body: Mapping[str, Any]) -> tuple[DeploymentTarget, ...]:
    if ("model" in body) == ("targets" in body):
        raise invalid(
            "model", "name either a model or targets", 'Send {"model": "digits@champion"}.'
        )
    rows = [{"model": body["model"]}] if "model" in body else body["targets"]
    if not isinstance(rows, list) or not rows:
        raise invalid("targets", "targets is a list of {model, weight}")
    targets = []
    for i, row in enumerate(rows):
        field = "model" if "model" in body else f"targets[{i}].model"
        if not isinstance(row, Mapping) or not isinstance(row.get("model"), str):
            raise invalid(field, "a model reference is missing", "Use name:3 or name@alias.")
        known(row, {"model", "weight"}, f"targets[{i}].")
        weight = integer(f"targets[{i}].weight", row.get("weight", 100), 0, 100)
        targets.append(DeploymentTarget(row["model"], weight))
    if sum(target.weight for target in targets) != 100:
        raise invalid("targets", "the weights do not add up to 100")
    if len({target.model for target in targets}) < len(targets):
        raise invalid("targets", "a model is named twice")
    return tuple(targets)


def _scale(body: Any) -> Scale:
    if not isinstance(body, Mapping):
        raise invalid("scale", "scale is an object", "{min, max}")
    known(body, {"min", "max"}, "scale.")
    low = integer("scale.min", body.get("min", 1), 1, MAX_REPLICAS)
    high = integer("scale.max", body.get("max", low), low, MAX_REPLICAS)
    return Scale(low, high)


def _engine(body: Any) -> EngineOptions:
    if not isinstance(body, Mapping):
        raise invalid("engine", "engine is an object", '{"name": "onnx", "cores": 1}')
    known(body, {"name", "cores"}, "engine.")
    name, cores = body.get("name"), body.get("cores")
    return EngineOptions(
        None if name is None else choice("engine.name", name, ENGINES),
        None if cores is None else integer("engine.cores", cores, 1, MAX_CORES),
    )


def _access(body: Any) -> tuple[str, ...]:
    if body == "*":
        return ("*",)
    if not isinstance(body, Mapping):
        raise invalid("access", "access is an object", '{"tenants": ["acme"]} or {"tenants": "*"}')
    known(body, {"tenants"}, "access.")
    tenants = body.get("tenants", [])
    if tenants == "*":
        return ("*",)
    if not isinstance(tenants, list):
        raise invalid("access.tenants", "a list of tenants, or *")
    return tuple(check_name(t, f"access.tenants[{i}]") for i, t in enumerate(tenants))
