"""Deployments of language models: what their specs are completed with, and what they need.

Pure. Knows what an import reports of a version (`pull.facts.report`); runs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.nouns import (
    EXTERNAL,
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
from meuse.serve.generation.tuning import SHARES

ENGINE = "genai"
VLLM = "vllm"
"""The engine that is a server of its own, started and watched by a replica process."""
CHECKPOINT = "hf"
"""The layout that it runs, and no other engine."""
VLLM_BYTES = 2048 * 1024 * 1024
"""A guess of what its processes hold of this machine's memory, until they are measured. Its weights
and its cache are on the accelerators, whose memory `gpu_memory_utilization` bounds."""
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
SHARED = ("max_sequences", "max_batched_tokens", "max_adapters")
"""Of those, what vLLM has as well."""
VLLM_ONLY = (
    "tensor_parallel_size", "pipeline_parallel_size", "max_model_len",
    "gpu_memory_utilization", "max_loras",
)  # fmt: skip

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
    *,
    has_vllm: bool = False,
) -> Deployment:
    """The spec of a deployment of these versions; `said` are the fields that its caller sent,
    `adapters` the versions of those that it names, `draft` is what `engine.draft_model` means now.
    `has_vllm`: the operator has set one up.

    Raises `invalid_field` for what language models cannot have, or others cannot, and for one
    that `budget` bytes of memory cannot hold; `unavailable` for vLLM where there is none.
    """
    generating = [version for version in versions if version.task == GENERATION]
    if any(version.is_external for version in versions):
        return _external(wanted, said, versions)
    if not generating:
        for name in (*ONLY, *VLLM_ONLY):
            if getattr(wanted.engine, name) is not None:
                raise invalid(f"engine.{name}", "only language models have this option")
        return wanted
    if len(generating) < len(versions):
        raise invalid("targets", "language models and others cannot share a deployment")
    for name in ("cache", "shadow"):
        if getattr(wanted, name) is not None:
            raise invalid(name, "a deployment of a language model cannot have this")
    if wanted.engine.name == VLLM:
        return _vllm(wanted, said, versions, has_vllm=has_vllm)
    options = wanted.engine
    for name in VLLM_ONLY:
        if getattr(options, name) is not None:
            raise invalid(f"engine.{name}", f"the engine {VLLM} alone has this option")
    if draft is not None:
        options = replace(options, draft_model=drafted(options.draft_model, draft, generating))
        wanted = replace(wanted, engine=options)
    _check_options(wanted)
    for version in generating:
        _check(version, options, budget, held(adapters, options))
    timeout = wanted.timeout_ms if "timeout_ms" in said else TIMEOUT_MS
    return replace(wanted, engine=replace(wanted.engine, name=ENGINE), timeout_ms=timeout)


def _external(
    wanted: Deployment, said: Collection[str], versions: Sequence[ModelVersion]
) -> Deployment:
    if not all(version.is_external for version in versions):
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


def _vllm(
    wanted: Deployment, said: Collection[str], versions: Sequence[ModelVersion], *, has_vllm: bool
) -> Deployment:
    """Its spec; what it asks of the model's shape is checked when it starts."""
    if not has_vllm:
        raise MeuseError(
            Code.UNAVAILABLE,
            "vLLM is not set up here",
            field="engine.name",
            hint="The operator installs it in an environment of its own, and names that "
            "environment's Python in the setting vllm_python (docs/llm.md).",
        )
    for name in ONLY:
        if name not in SHARED and getattr(wanted.engine, name) is not None:
            raise invalid(f"engine.{name}", f"the engine {VLLM} does not have this option")
    if wanted.canary is not None:
        raise invalid("canary", "a deployment of vLLM cannot have this")
    if (wanted.scale.min, wanted.scale.max) != (1, 1):
        raise invalid(
            "scale",
            "a deployment of vLLM has one replica",
            "Leave it out; engine.tensor_parallel_size spreads it over several GPUs.",
        )
    if wanted.engine.max_loras is not None and not wanted.adapters:
        raise invalid("engine.max_loras", "there are no adapters", "Leave it out.")
    for version in versions:
        layout = version.report["generation"]["layout"]
        if layout != CHECKPOINT:
            raise invalid(
                "model",
                f"{version.ref} is {layout}, and the engine {VLLM} runs safetensors checkpoints",
                f"Name such a version, or leave engine.name to {ENGINE}.",
            )
    timeout = wanted.timeout_ms if "timeout_ms" in said else TIMEOUT_MS
    return replace(wanted, timeout_ms=timeout)


def is_served(version: ModelVersion) -> bool:
    """Whether its replicas are servers that workers ask by HTTP."""
    told = version.report.get("generation")
    return isinstance(told, dict) and told.get("layout") == CHECKPOINT


def drafted(
    asked: Draft | None,
    draft: ModelVersion,
    versions: Sequence[ModelVersion],
    field: str = "engine.draft_model",
) -> Draft:
    """What was asked with all that a replica needs to know of the draft. Raises `invalid_field`."""
    assert asked is not None
    if draft.task != GENERATION or draft.is_external:
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
    return replace(asked, model=draft.ref, digest=digest, weight_bytes=told["weight_bytes"])


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
    if is_served(version):
        return Load(version.artifacts[0].digest, VLLM_BYTES)
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
    if told["layout"] == CHECKPOINT:
        raise invalid(
            "model",
            f"{version.ref} is a safetensors checkpoint, which the engine {ENGINE} does not run",
            f"Compress it to OpenVINO's IR (meuse compress {version.ref}) or pull it as GGUF; on "
            f"a machine with a GPU name the engine {VLLM}.",
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
