"""deploy.generation: what a deployment of a language model is completed with, and refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meuse.core.errors import MeuseError
from meuse.core.nouns import (
    GENERATION,
    Artifact,
    Deployment,
    Draft,
    EngineOptions,
    Lineage,
    ModelVersion,
    Scope,
    Signature,
)
from meuse.deploy import generation
from meuse.deploy.footprint import Load
from meuse.deploy.spec import artifact_for, parse

MIB = 1024 * 1024
SCOPE = Scope("acme")
TOLD = {"layout": "gguf", "context": 1000, "kv_bytes_per_token": 1024, "weight_bytes": 100 * MIB}


def version(task: str = GENERATION, **told: Any) -> ModelVersion:
    format = "llm" if task == GENERATION else "onnx"
    return ModelVersion(
        "m", 1, task, (Artifact("a", format, "d" * 64, 9),), Signature((), ()), {},
        Lineage("job", "", "", "", 0, ""), 0, {"generation": {**TOLD, **told}},
    )  # fmt: skip


def complete(body: dict[str, Any], *versions: ModelVersion, budget: int = 1 << 40) -> Deployment:
    body = {"model": "m:1", **body} if "targets" not in body else body
    return generation.complete(parse(SCOPE, "chat", body), body, versions, budget)


def test_it_runs_by_its_engine_and_has_time() -> None:
    found = complete({}, version())
    assert found.engine == EngineOptions(name="genai")
    assert found.timeout_ms == generation.TIMEOUT_MS
    assert complete({"timeout_ms": 9}, version()).timeout_ms == 9
    assert artifact_for(version(), found.engine).format == "llm"


def test_others_stay_as_they_were() -> None:
    plain = complete({"timeout_ms": 9}, version("regression"))
    assert (plain.engine, plain.timeout_ms) == (EngineOptions(), 9)


def test_another_option_of_the_engine_makes_another_revision() -> None:
    """Its replicas are replaced; without such options nothing is, as before there were any."""
    plain = parse(SCOPE, "chat", {"model": "m:1"})
    assert plain.revision == "//64/1024/"
    options: tuple[dict[str, Any], ...] = (
        {}, {"cache_mb": 64}, {"max_sequences": 64}, {"max_batched_tokens": 64},
        {"kv_precision": "f16"}, {"prefix_cache": True}, {"prompt_lookup": True},
        {"prompt_lookup": {"max_ngram_size": 2}}, {"draft_model": "s:1"},
    )  # fmt: skip
    found = {
        parse(SCOPE, "chat", {"model": "m:1", "engine": engine}).revision for engine in options
    }
    assert len(found) == len(options)


@pytest.mark.parametrize(
    ("body", "versions", "field"),
    [
        ({"engine": {"cache_mb": 64}}, [version("regression")], "engine.cache_mb"),
        ({"engine": {"max_sequences": 4}}, [version("regression")], "engine.max_sequences"),
        ({"cache": True}, [version()], "cache"),
        ({"shadow": {"model": "m:2"}}, [version()], "shadow"),
        ({}, [version(), version("regression")], "targets"),
        ({}, [version(layout="hf")], "model"),
        ({"engine": {"prefix_cache": True}}, [version("regression")], "engine.prefix_cache"),
        ({"engine": {"kv_precision": "bf16"}}, [version()], "engine.kv_precision"),
        (
            {"engine": {"prefix_cache": True}, "access": {"tenants": ["other"]}},
            [version()],
            "engine.prefix_cache",
        ),
        (
            {"engine": {"prefix_cache": True}, "access": {"tenants": "*"}},
            [version()],
            "engine.prefix_cache",
        ),
        (
            {"engine": {"prompt_lookup": True, "draft_model": "s:1"}},
            [version()],
            "engine.draft_model",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(
    body: dict[str, Any], versions: list[ModelVersion], field: str
) -> None:
    with pytest.raises(MeuseError) as caught:
        complete(body, *versions)
    assert caught.value.field == field


def test_a_prefix_cache_is_for_one_tenant_alone() -> None:
    """The owner's own callers share it; nobody else may call."""
    assert complete({"engine": {"prefix_cache": True}}, version()).engine.prefix_cache is True


@pytest.mark.parametrize("name", generation.NOT_WITH_ADAPTERS)
def test_adapters_go_without_what_knows_tokens_alone(name: str) -> None:
    value = "s:1" if name == "draft_model" else True
    body = {"adapters": {"polite": "p:1"}, "engine": {name: value}}
    with pytest.raises(MeuseError) as caught:
        complete(body, version(layout="ir"))
    assert caught.value.field == f"engine.{name}"


def guessed(draft: ModelVersion, *versions: ModelVersion) -> EngineOptions:
    body = {"model": "m:1", "engine": {"draft_model": "small@best"}}
    wanted = parse(SCOPE, "chat", body)
    return generation.complete(wanted, body, versions, 1 << 40, draft=draft).engine


def test_a_draft_is_pinned_with_what_a_replica_needs() -> None:
    """Its version, the digest of its manifest, and its memory beside the model's."""
    small = replace(version(layout="ir", weight_bytes=10 * MIB, vocabulary=9), model="small")
    large = version(vocabulary=9)
    options = guessed(small, large)
    assert options.draft_model == Draft("small:1", 3, "d" * 64, 10 * MIB)
    assert generation.need(large, options) > generation.need(large, EngineOptions())


@pytest.mark.parametrize(
    ("draft", "says"),
    [
        (version(layout="gguf", vocabulary=9), "IR"),
        (version(layout="ir", vocabulary=8), "8 words"),
        (version("regression"), "no language model"),
    ],
)
def test_a_draft_that_does_not_fit_is_refused(draft: ModelVersion, says: str) -> None:
    with pytest.raises(MeuseError, match=says) as caught:
        guessed(draft, version(vocabulary=9))
    assert caught.value.field == "engine.draft_model"


def test_it_needs_weights_cache_and_what_is_beside_them() -> None:
    def size(**options: int) -> int:
        return generation.need(version(context=1 << 20), EngineOptions(**options))

    weights = generation.BASE + int(generation.PER_BYTE * 100 * MIB)
    assert size(cache_mb=640) == weights + 640 * MIB
    assert size() == weights + generation.CACHE_MB * MIB
    # No more than all sequences at once can fill.
    few = EngineOptions(cache_mb=640, max_sequences=128)
    assert generation.need(version(), few) == weights + 128 * 1000 * 1024
    # Loading takes more than a small cache does later.
    assert size(cache_mb=16) == generation.BASE + int(generation.LOADING * 100 * MIB)


def test_what_a_replica_counts_before_it_is_measured() -> None:
    size = generation.need(version(), EngineOptions())
    assert generation.load(version(), EngineOptions()) == Load("d" * 64, size, least=size)
    other = version("regression")
    assert generation.load(other, EngineOptions()) == Load.of(other.artifacts[0])


def test_one_that_cannot_fit_is_refused_with_the_numbers() -> None:
    body = {"engine": {"cache_mb": 640}}
    large = version(context=1 << 20)
    size = generation.need(large, EngineOptions(cache_mb=640))
    complete(body, large, budget=size)
    with pytest.raises(MeuseError) as caught:
        complete(body, large, budget=size - 1)
    assert caught.value.field == "engine.cache_mb"
    for number in (size, 100 * MIB, 640 * MIB, size - 1):
        assert f"{number // MIB:,} MiB" in caught.value.message


VLLM: dict[str, Any] = {"engine": {"name": "vllm"}}


def on_vllm(body: dict[str, Any], *versions: ModelVersion, has_vllm: bool = True) -> Deployment:
    body = {"model": "m:1", **VLLM, **body}
    return generation.complete(
        parse(SCOPE, "chat", body), body, versions or (version(layout="hf"),), 0, has_vllm=has_vllm
    )


def test_vllm_runs_checkpoints() -> None:
    """Whatever their size: they are on accelerators."""
    engine = {"name": "vllm", "tensor_parallel_size": 4, "max_sequences": 9}
    found = on_vllm({"engine": engine})
    assert found.engine == EngineOptions("vllm", tensor_parallel_size=4, max_sequences=9)
    assert found.timeout_ms == generation.TIMEOUT_MS
    load = generation.load(version(layout="hf"), found.engine)
    assert load == Load("d" * 64, generation.VLLM_BYTES)


def test_without_vllm_the_fix_is_told() -> None:
    with pytest.raises(MeuseError) as caught:
        on_vllm({}, has_vllm=False)
    assert (caught.value.code, caught.value.field) == ("unavailable", "engine.name")
    assert "vllm_python" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("body", "versions", "field"),
    [
        ({}, [version()], "model"),
        ({}, [version(layout="ir")], "model"),
        ({"scale": {"min": 0}}, [], "scale"),
        ({"scale": {"max": 2}}, [], "scale"),
        ({"canary": {"steps": [100]}}, [], "canary"),
        ({"engine": {"name": "vllm", "cache_mb": 64}}, [], "engine.cache_mb"),
        ({"engine": {"name": "vllm", "draft_model": "s:1"}}, [], "engine.draft_model"),
        ({"engine": {"name": "vllm", "max_loras": 2}}, [], "engine.max_loras"),
        ({"engine": {"max_model_len": 9}}, [version()], "engine.max_model_len"),
        ({"engine": {"max_model_len": 9}}, [version("regression")], "engine.max_model_len"),
    ],
)
def test_what_vllm_cannot_have(
    body: dict[str, Any], versions: list[ModelVersion], field: str
) -> None:
    with pytest.raises(MeuseError) as caught:
        on_vllm(body, *versions)
    assert caught.value.field == field


def test_another_option_or_adapter_starts_vllm_anew() -> None:
    """It is told of all of them when it starts."""
    engines = ({}, {"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}, {"max_model_len": 2},
               {"gpu_memory_utilization": 0.5}, {"max_loras": 2})  # fmt: skip
    bodies: list[dict[str, Any]] = [{"engine": {"name": "vllm", **engine}} for engine in engines]
    bodies += [{**VLLM, "adapters": {"a": f"x:{n}"}} for n in (1, 2)]
    bodies += [{**VLLM, "adapters": {"b": "x:1"}}]
    found = {parse(SCOPE, "chat", {"model": "m:1", **body}).revision for body in bodies}
    assert len(found) == len(bodies)
