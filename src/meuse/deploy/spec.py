"""A deployment as a caller writes it: checks every field, resolves nothing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from meuse.core.errors import invalid
from meuse.core.fields import choice, integer, known, real
from meuse.core.ids import check_name
from meuse.core.nouns import (
    ENGINES,
    Adapter,
    Artifact,
    Batching,
    Cache,
    Canary,
    Deployment,
    DeploymentTarget,
    Draft,
    EngineOptions,
    ModelVersion,
    PromptLookup,
    Scale,
    Scope,
    Shadow,
)

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 600_000
MAX_REPLICAS = 64
MAX_CORES = 256
MAX_ADAPTERS = 1000
MAX_GPUS = 1024
_MIB = 1024 * 1024
_HEADER = re.compile(r"header:[a-z0-9-]{1,64}")

T = TypeVar("T")
Read = Callable[[str, Any], Any]
"""(field, value) → the value checked."""

FIELDS = frozenset(
    {
        "model", "targets", "scale", "access", "timeout_ms", "objective_ms",
        "batching", "sticky", "shadow", "canary", "cache", "engine", "adapters",
    }
)  # fmt: skip


def parse(scope: Scope, name: str, body: Mapping[str, Any]) -> Deployment:
    """{model | targets, …} → a spec of generation 0; the parts are those of `core.nouns`.

    Raises `invalid_field` that names the part at fault.
    """
    check_name(name)
    known(body, FIELDS, "")
    timeout_ms = integer(
        "timeout_ms", body.get("timeout_ms", DEFAULT_TIMEOUT_MS), 1, MAX_TIMEOUT_MS
    )
    objective_ms = body.get("objective_ms")
    if objective_ms is not None:
        objective_ms = integer("objective_ms", objective_ms, 1, timeout_ms)
    deployment = Deployment(
        name=name,
        scope=scope,
        generation=0,
        targets=_targets(body),
        scale=_scale(body.get("scale") or {}),
        access=_access(body.get("access") or {}),
        timeout_ms=timeout_ms,
        updated_ms=0,
        objective_ms=objective_ms,
        batching=_part("batching", body.get("batching") or {}, Batching, _BATCHING),
        sticky=_sticky(body.get("sticky")),
        shadow=_optional("shadow", body.get("shadow"), Shadow, _SHADOW),
        canary=_canary(body.get("canary")),
        cache=_optional("cache", body.get("cache"), Cache, _CACHE),
        engine=_part("engine", body.get("engine") or {}, EngineOptions, _ENGINE),
        adapters=_adapters(body.get("adapters") or {}),
    )
    _check_together(deployment)
    return deployment


def artifact_for(version: ModelVersion, engine: EngineOptions) -> Artifact:
    """What a replica loads of a version: its first artifact that the engine runs.

    Without a name any engine will do. Raises `invalid_field`.
    """
    names = [engine.name] if engine.name else list(ENGINES)
    for artifact in version.artifacts:
        if any(artifact.format in ENGINES[name] for name in names):
            return artifact
    have = {artifact.format for artifact in version.artifacts}
    able = [name for name, formats in ENGINES.items() if have.intersection(formats)]
    raise invalid(
        "engine.name",
        f"{version.ref} has no artifact that the engine {engine.name!r} runs",
        f"Engines that run it: {', '.join(able) or 'none'}.",
    )


def _whole(low: int, high: int) -> Read:
    return lambda field, value: integer(field, value, low, high)


def _number(low: float, high: float) -> Read:
    def read(field: str, value: Any) -> float:
        told = f"Use a number from {low:g} to {high:g}."
        found = real(field, value, told)
        if not low <= found <= high:
            raise invalid(field, f"{value!r} is not allowed", told)
        return found

    return read


def _or_none(read: Read) -> Read:
    return lambda field, value: None if value is None else read(field, value)


def _steps(field: str, value: Any) -> tuple[int, ...]:
    told = "Use rising percentages that end with 100, such as [1, 10, 50, 100]."
    if not isinstance(value, list) or not 1 <= len(value) <= 20:
        raise invalid(field, "not a list of weights", told)
    steps = tuple(integer(f"{field}[{i}]", step, 1, 100) for i, step in enumerate(value))
    if steps[-1] != 100 or any(b <= a for a, b in itertools.pairwise(steps)):
        raise invalid(field, f"{list(steps)} does not rise to 100", told)
    return steps


def _reference(field: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(field, "a model reference is missing", "Use name:3 or name@alias.")
    return value


_SCALE: dict[str, Read] = {
    "min": _whole(0, MAX_REPLICAS),
    "max": _whole(1, MAX_REPLICAS),
    "target": _number(0.1, 10_000),
    "stable_s": _number(1, 3600),
    "panic_s": _number(0.5, 600),
    "zero_after_s": _number(1, 7 * 24 * 3600),
    "queue_wait_ms": _or_none(_whole(1, MAX_TIMEOUT_MS)),
}
_BATCHING: dict[str, Read] = {"max_rows": _whole(1, 4096), "max_queue": _whole(1, 65536)}
_SHADOW: dict[str, Read] = {"model": _reference, "percent": _whole(1, 100)}
_CANARY: dict[str, Read] = {
    "steps": _steps,
    "step_s": _number(0.5, 7 * 24 * 3600),
    "min_requests": _whole(0, 1_000_000),
    "max_error_rate": _number(0, 1),
    "max_p95_ratio": _or_none(_number(1, 100)),
    "max_p95_ms": _or_none(_number(0.1, MAX_TIMEOUT_MS)),
    "min_agreement": _or_none(_number(0, 1)),
}
_CACHE: dict[str, Read] = {
    "ttl_s": _number(0.1, 7 * 24 * 3600),
    "max_bytes": _whole(1024, 1024 * _MIB),
}
_LOOKUP: dict[str, Read] = {
    "max_ngram_size": _whole(1, 16),
    "num_assistant_tokens": _whole(1, 16),
}
_DRAFT: dict[str, Read] = {"model": _reference, "num_assistant_tokens": _whole(1, 16)}
_ENGINE: dict[str, Read] = {
    "name": _or_none(lambda field, value: choice(field, value, ENGINES)),
    "cores": _or_none(_whole(1, MAX_CORES)),
    "cache_mb": _or_none(_whole(16, 1 << 20)),
    "max_sequences": _or_none(_whole(1, 4096)),
    "max_batched_tokens": _or_none(_whole(1, 1 << 20)),
    "max_adapters": _or_none(_whole(1, MAX_ADAPTERS)),
    "adapter_turn_ms": _or_none(_whole(1, MAX_TIMEOUT_MS)),
    "kv_precision": _or_none(lambda field, value: choice(field, value, ("u8", "f16", "bf16"))),
    "prefix_cache": lambda field, value: _flag(field, value) or None,
    "prompt_lookup": lambda field, value: _optional(field, value, PromptLookup, _LOOKUP),
    "draft_model": lambda field, value: draft(field, value),  # noqa: PLW0108 - stands below
    "tensor_parallel_size": _or_none(_whole(1, MAX_GPUS)),
    "pipeline_parallel_size": _or_none(_whole(1, MAX_GPUS)),
    "max_model_len": _or_none(_whole(1, 1 << 30)),
    "gpu_memory_utilization": _or_none(_number(0.01, 1)),
    "max_loras": _or_none(_whole(1, MAX_ADAPTERS)),
}


def _part(name: str, body: Any, kind: type[T], reads: Mapping[str, Read]) -> T:
    """One object of the spec; what is not given keeps its default."""
    if not isinstance(body, Mapping):
        raise invalid(name, f"{name} is an object", f"Fields: {', '.join(reads)}.")
    known(body, reads, f"{name}.")
    for part in fields(kind):  # type: ignore[arg-type]
        if part.default is MISSING and part.name not in body:
            raise invalid(f"{name}.{part.name}", f"{part.name} is missing")
    return kind(**{key: reads[key](f"{name}.{key}", value) for key, value in body.items()})


def _optional(name: str, body: Any, kind: type[T], reads: Mapping[str, Read]) -> T | None:
    """As `_part`; absent, null and false mean that the feature is off, true its defaults."""
    if body is None or body is False:
        return None
    return _part(name, {} if body is True else body, kind, reads)


def _flag(field: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise invalid(field, f"{value!r} is not allowed", "Use true or false.")
    return bool(value)


def draft(field: str, value: Any) -> Draft | None:
    """A reference, or {model, num_assistant_tokens}."""
    if value is True:
        raise invalid(field, "which model guesses is missing", "Use name:3 or name@alias.")
    return _optional(field, {"model": value} if isinstance(value, str) else value, Draft, _DRAFT)


def _scale(body: Any) -> Scale:
    if isinstance(body, Mapping) and "max" not in body:
        low = body.get("min", 1)
        body = {**body, "max": low if isinstance(low, int) and low > 0 else 1}
    scale = _part("scale", body, Scale, _SCALE)
    if scale.max < scale.min:
        raise invalid("scale.max", f"{scale.max} is less than min, {scale.min}")
    if scale.panic_s > scale.stable_s:
        raise invalid("scale.panic_s", "the panic window is longer than the stable window")
    return scale


def _canary(body: Any) -> Canary | None:
    return _optional("canary", body, Canary, _CANARY)


def _sticky(value: Any) -> str | None:
    if value is None or value is False or value == "":
        return None
    text = value.lower() if isinstance(value, str) else value
    if not isinstance(text, str) or not (text == "key" or _HEADER.fullmatch(text)):
        raise invalid("sticky", f"{value!r} is not allowed", 'Use "key" or "header:x-session".')
    return text


def _check_together(deployment: Deployment) -> None:
    """What single fields cannot show."""
    canary = deployment.canary
    if canary is not None:
        if len(deployment.targets) > 1:
            raise invalid(
                "canary", "a canary follows one model", "Name one model, or weigh targets yourself."
            )
        if canary.min_agreement is not None and deployment.shadow is not None:
            # The new version itself is compared then; two shadows would be asked at once.
            raise invalid("shadow", "canary.min_agreement shadows the new version itself")


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


def _adapters(body: Any) -> tuple[Adapter, ...]:
    told = 'Send {"polite": "smollm2-polite:1"}.'
    if not isinstance(body, Mapping):
        raise invalid("adapters", "adapters is an object of versions by name", told)
    if len(body) > MAX_ADAPTERS:
        raise invalid("adapters", f"{len(body)} adapters are too many", f"Up to {MAX_ADAPTERS}.")
    adapters = []
    for name, model in body.items():
        check_name(name, "adapters")
        if not isinstance(model, str) or not model:
            raise invalid(f"adapters.{name}", "a model reference is missing", told)
        adapters.append(Adapter(name, model))
    return tuple(sorted(adapters, key=lambda adapter: adapter.name))


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
