"""Deployments of language models: what their specs are completed with, and what they need.

Pure. Knows what an import reports of a version (`pull.facts.report`); runs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import (
    GENERATION,
    Deployment,
    Draft,
    EngineOptions,
    ModelVersion,
    Scale,
)
from meuse.deploy.adapters import held, is_adapter
from meuse.deploy.footprint import Load
from meuse.deploy.spec import artifact_for
from meuse.registry.external import is_external
from meuse.serve.generation.tuning import SHARES

ENGINE = "genai"
EXTERNAL = "external"
"""The engine of what other servers run, and the format of such versions."""
CACHE_MB = 1024
SEQUENCES = 64
TIMEOUT_MS = 300_000
"""An answer is many steps, and streamed."""

START_S = 900.0
"""Weights of many gigabytes are read and laid out before a replica is ready."""

MIB = 1024 * 1024
BASE = 192 * MIB
"""The engine, a tokenizer, and what one step works with."""
PER_BYTE = 2.0
LOADING = 2.7
"""Of the weights on disk: as the processor wants them, and the most while they are loaded.
Measured on GGUF files of 94 and 684 MiB (openvino-genai 2026.4): 387 and 1,585 MiB once they have
answered, 2,109 MiB at the peak of loading the larger one."""

ONLY = (
    "cache_mb", "max_sequences", "max_batched_tokens", "max_adapters", "adapter_turn_ms",
    "kv_precision", "prefix_cache", "prompt_lookup", "draft_model",
)  # fmt: skip
"""Options of this engine alone."""


NOT_WITH_ADAPTERS = {
    "prefix_cache": "the cache knows tokens alone: an answer would go on from another adapter's",
    "prompt_lookup": "the engine is not proven to guess and to switch adapters",
    "draft_model": "the engine is not proven to guess and to switch adapters",
}


def complete(
    wanted: Deployment,
    said: Collection[str],
    versions: Sequence[ModelVersion],
    budget: int,
    adapters: Sequence[ModelVersion] = (),
    draft: ModelVersion | None = None,
) -> Deployment:
    """The spec of a deployment of these versions; `said` are the fields that its caller sent,
    `adapters` the versions of those that it names, `draft` is what `engine.draft_model` means now.

    Raises `invalid_field` for what language models cannot have, or others cannot, and for one
    that `budget` bytes of memory cannot hold.
    """
    generating = [version for version in versions if version.task == GENERATION]
    if any(is_external(version) for version in versions):
        return _external(wanted, said, versions)
    if not generating:
        for name in ONLY:
            if getattr(wanted.engine, name) is not None:
                raise invalid(f"engine.{name}", "only language models have this option")
        return wanted
    if len(generating) < len(versions):
        raise invalid("targets", "language models and others cannot share a deployment")
    for name in ("cache", "shadow"):
        if getattr(wanted, name) is not None:
            raise invalid(name, "a deployment of a language model cannot have this")
    options = wanted.engine
    if draft is not None:
        options = replace(options, draft_model=_draft(options, draft, generating))
        wanted = replace(wanted, engine=options)
    _check_options(wanted)
    for version in generating:
        _check(version, options, budget, held(adapters, options))
    timeout = wanted.timeout_ms if "timeout_ms" in said else TIMEOUT_MS
    return replace(wanted, engine=replace(wanted.engine, name=ENGINE), timeout_ms=timeout)


def _external(
    wanted: Deployment, said: Collection[str], versions: Sequence[ModelVersion]
) -> Deployment:
    if not all(is_external(version) for version in versions):
        raise invalid("targets", "models of other servers and our own cannot share a deployment")
    for name in ("cache", "shadow", "canary"):
        if getattr(wanted, name) is not None:
            raise invalid(name, "a deployment of another server's model cannot have this")
    if wanted.scale != Scale():
        raise invalid("scale", "another server's model has no replicas here", "Leave it out.")
    if wanted.engine not in (EngineOptions(), EngineOptions(name=EXTERNAL)):
        raise invalid("engine", "another server's model has no options here", "Leave it out.")
    timeout = wanted.timeout_ms if "timeout_ms" in said else TIMEOUT_MS
    return replace(wanted, engine=EngineOptions(name=EXTERNAL), timeout_ms=timeout)


def _draft(options: EngineOptions, draft: ModelVersion, versions: Sequence[ModelVersion]) -> Draft:
    """The option with all that a replica needs to know of the draft. Raises `invalid_field`."""
    field = "engine.draft_model"
    assert options.draft_model is not None
    if draft.task != GENERATION or is_external(draft):
        raise invalid(field, f"{draft.ref} is no language model that runs here")
    told = draft.report["generation"]
    if told["layout"] != "ir":
        raise invalid(
            field,
            f"{draft.ref} is {told['layout']}; the engine {ENGINE} reads drafts as OpenVINO's IR",
            "Convert it to OpenVINO's IR first.",
        )
    for version in versions:
        words = version.report["generation"]["vocabulary"]
        if words != told["vocabulary"]:
            raise invalid(
                field,
                f"{draft.ref} has {told['vocabulary']:,} words, {version.ref} {words:,}",
                "A draft has the vocabulary of the model that checks it.",
            )
    digest = draft.artifacts[0].digest
    return replace(
        options.draft_model, model=draft.ref, digest=digest, weight_bytes=told["weight_bytes"]
    )


def _check_options(wanted: Deployment) -> None:
    """What options exclude each other. Raises `invalid_field`."""
    options = wanted.engine
    if options.prefix_cache and wanted.access:
        # Its hits are seen in the time to the first token.
        raise invalid(
            "engine.prefix_cache",
            "callers of several tenants would learn from it what others have asked",
            "Leave it out, or give access to no other tenant.",
        )
    if wanted.adapters:
        check_takes_adapters(options)
    if options.prompt_lookup is not None and options.draft_model is not None:
        raise invalid("engine.draft_model", "prompt_lookup guesses already", "Choose one of them.")
    if options.kv_precision == "bf16":
        raise invalid(
            "engine.kv_precision",
            "the engine keeps bf16 only where it also computes in it, which it does not here",
            f"Use one of: {', '.join(SHARES)}.",
        )


def check_takes_adapters(options: EngineOptions) -> None:
    """Raises `invalid_field` for an option that a deployment with adapters cannot have."""
    for name, why in NOT_WITH_ADAPTERS.items():
        if getattr(options, name) is not None:
            raise invalid(
                f"engine.{name}",
                why,
                "Leave it out, or serve the adapters in a deployment of their own.",
            )


def need(version: ModelVersion, options: EngineOptions, adapters: int = 0) -> int:
    """The bytes of one replica: weights, cache, `adapters`, and what is beside them."""
    told = version.report["generation"]
    weights, kept = told["weight_bytes"], cache(told, options)
    if options.draft_model is not None:
        # It has as many blocks of a cache of its own, each no larger.
        weights, kept = weights + options.draft_model.weight_bytes, 2 * kept
    return BASE + int(max(LOADING * weights, PER_BYTE * weights + kept + adapters))


def load(version: ModelVersion, options: EngineOptions, adapters: int = 0) -> Load:
    """What a replica of any version loads; of a language model all that it will need, for its
    cache fills while it serves."""
    if version.task == GENERATION:
        size = need(version, options, adapters)
        return Load(version.artifacts[0].digest, size, least=size)
    try:
        return Load.of(artifact_for(version, options))
    except MeuseError:
        return Load.of(version.artifacts[0])


def cache(told: Mapping[str, Any], options: EngineOptions) -> int:
    """The bytes of keys and values, when all of it is used."""
    given = (options.cache_mb or CACHE_MB) * MIB
    most = (options.max_sequences or SEQUENCES) * told["context"] * told["kv_bytes_per_token"]
    return min(given, most) if most else given


def _check(version: ModelVersion, options: EngineOptions, budget: int, adapters: int) -> None:
    told = version.report["generation"]
    if is_adapter(version):
        raise invalid(
            "model",
            f"{version.ref} is an adapter, which is nothing without its base",
            f'Deploy {told["base"]} or its IR with adapters {{"name": "{version.ref}"}}.',
        )
    if told["layout"] == "hf":
        raise invalid(
            "model",
            f"{version.ref} is a safetensors checkpoint, which the engine {ENGINE} does not run",
            "Pull it as GGUF or as OpenVINO's IR (optimum-cli export openvino).",
        )
    size = need(version, options, adapters)
    if size <= budget:
        return
    parts = f"{told['weight_bytes'] // MIB:,} MiB of weights"
    held = cache(told, options) // MIB
    raise invalid(
        "engine.cache_mb",
        f"a replica of {version.ref} needs {size // MIB:,} MiB ({parts}, {held:,} MiB of cache), "
        f"and all replicas together may have {budget // MIB:,} MiB",
        "Ask for a smaller cache, or the operator to raise replica_memory_bytes.",
    )
