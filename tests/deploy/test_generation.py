"""deploy.generation: what a deployment of a language model is completed with, and refused."""

from __future__ import annotations

from typing import Any

import pytest

from meuse.core.errors import MeuseError
from meuse.core.nouns import (
    GENERATION,
    Artifact,
    Deployment,
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
    found = {
        parse(SCOPE, "chat", {"model": "m:1", "engine": engine}).revision
        for engine in ({}, {"cache_mb": 64}, {"max_sequences": 64}, {"max_batched_tokens": 64})
    }
    assert len(found) == 4


@pytest.mark.parametrize(
    ("body", "versions", "field"),
    [
        ({"engine": {"cache_mb": 64}}, [version("regression")], "engine.cache_mb"),
        ({"engine": {"max_sequences": 4}}, [version("regression")], "engine.max_sequences"),
        ({"cache": True}, [version()], "cache"),
        ({"shadow": {"model": "m:2"}}, [version()], "shadow"),
        ({}, [version(), version("regression")], "targets"),
        ({}, [version(layout="hf")], "model"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    body: dict[str, Any], versions: list[ModelVersion], field: str
) -> None:
    with pytest.raises(MeuseError) as caught:
        complete(body, *versions)
    assert caught.value.field == field


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
