"""deploy.spec"""

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import (
    Artifact,
    Batching,
    Cache,
    Canary,
    DeploymentTarget,
    Draft,
    EngineOptions,
    Lineage,
    ModelVersion,
    PromptLookup,
    Scale,
    Scope,
    Signature,
)
from meuse.deploy.spec import artifact_for, parse

MINE = Scope("acme")


def test_a_model_alone_takes_all_traffic() -> None:
    """{model} is one target of weight 100, one replica, nobody else allowed."""
    made = parse(MINE, "digits", {"model": "digits:1"})
    assert (DeploymentTarget("digits:1", 100),) == made.targets
    assert (Scale(1, 1), ()) == (made.scale, made.access)


def test_targets_share_by_weight() -> None:
    """Several targets with weights that add up to 100, and access by tenant."""
    rows = [{"model": "d:1", "weight": 90}, {"model": "d:2", "weight": 10}]
    made = parse(MINE, "d", {"targets": rows, "access": {"tenants": "*"}, "scale": {"min": 2}})
    assert [t.weight for t in made.targets] == [90, 10]
    assert (("*",), Scale(2, 2)) == (made.access, made.scale)


def test_every_part_has_defaults() -> None:
    """An empty part, or true, takes the defaults; null and false leave a feature off."""
    made = parse(MINE, "d", {"model": "d:1", "canary": {}, "cache": True, "batching": {}})
    assert (Canary(), Cache(), Batching(), None) == (
        made.canary, made.cache, made.batching, made.shadow,
    )  # fmt: skip
    off = parse(MINE, "d", {"model": "d:1", "canary": None, "cache": False, "sticky": ""})
    assert (off.canary, off.cache, off.sticky) == (None, None, None)
    assert parse(MINE, "d", {"model": "d:1", "sticky": "header:X-Session"}).sticky == (
        "header:x-session"
    )


def test_zero_replicas_may_grow_to_one() -> None:
    """min alone is also max, but a deployment that may sleep may also wake."""
    assert parse(MINE, "d", {"model": "d:1", "scale": {"min": 0}}).scale == Scale(0, 1)
    assert parse(MINE, "d", {"model": "d:1", "scale": {"min": 3}}).scale == Scale(3, 3)


def test_a_canary_has_one_model() -> None:
    """Weights of one's own and weights of a canary exclude each other."""
    targets = [{"model": "d:1", "weight": 50}, {"model": "d:2", "weight": 50}]
    with pytest.raises(MeuseError) as refusal:
        parse(MINE, "d", {"targets": targets, "canary": True})
    assert refusal.value.field == "canary"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "model"),
        ({"model": "d:1", "targets": []}, "model"),
        ({"model": 3}, "model"),
        ({"targets": []}, "targets"),
        ({"targets": "d:1"}, "targets"),
        ({"targets": [{"weight": 100}]}, "targets[0].model"),
        ({"targets": [{"model": "d:1", "weight": 60}]}, "targets"),
        ({"targets": [{"model": "d:1", "weight": 50}, {"model": "d:1", "weight": 50}]}, "targets"),
        ({"targets": [{"model": "d:1", "weight": "all"}]}, "targets[0].weight"),
        ({"targets": [{"model": "d:1", "wait": 1}]}, "targets[0].wait"),
        ({"model": "d:1", "scale": {"min": -1}}, "scale.min"),
        ({"model": "d:1", "scale": {"max": 0}}, "scale.max"),
        ({"model": "d:1", "scale": {"target": "many"}}, "scale.target"),
        ({"model": "d:1", "scale": {"stable_s": 5, "panic_s": 6}}, "scale.panic_s"),
        ({"model": "d:1", "scale": {"zero_after_s": float("nan")}}, "scale.zero_after_s"),
        ({"model": "d:1", "objective_ms": 30_001}, "objective_ms"),
        ({"model": "d:1", "batching": {"max_rows": 0}}, "batching.max_rows"),
        ({"model": "d:1", "batching": {"rows": 8}}, "batching.rows"),
        ({"model": "d:1", "sticky": "cookie"}, "sticky"),
        ({"model": "d:1", "sticky": "header:X Y"}, "sticky"),
        ({"model": "d:1", "shadow": {}}, "shadow.model"),
        ({"model": "d:1", "shadow": {"model": "d:2", "percent": 0}}, "shadow.percent"),
        ({"model": "d:1", "canary": {"steps": []}}, "canary.steps"),
        ({"model": "d:1", "canary": {"steps": [10, 10, 100]}}, "canary.steps"),
        ({"model": "d:1", "canary": {"steps": [1, 50]}}, "canary.steps"),
        ({"model": "d:1", "canary": {"max_error_rate": 2}}, "canary.max_error_rate"),
        ({"model": "d:1", "cache": {"max_bytes": 1}}, "cache.max_bytes"),
        ({"model": "d:1", "cache": 60}, "cache"),
        ({"model": "d:1", "scale": {"min": 2, "max": 1}}, "scale.max"),
        ({"model": "d:1", "scale": {"min": True}}, "scale.min"),
        ({"model": "d:1", "scale": []}, None),
        ({"model": "d:1", "scale": 3}, "scale"),
        ({"model": "d:1", "access": ["acme"]}, "access"),
        ({"model": "d:1", "access": {"tenants": ["A"]}}, "access.tenants[0]"),
        ({"model": "d:1", "access": {"tenants": "acme"}}, "access.tenants"),
        ({"model": "d:1", "timeout_ms": 0}, "timeout_ms"),
        ({"model": "d:1", "replicas": 3}, "replicas"),
        ({"model": "d:1", "engine": "onnx"}, "engine"),
        ({"model": "d:1", "engine": {"name": "tensorrt"}}, "engine.name"),
        ({"model": "d:1", "engine": {"cores": 0}}, "engine.cores"),
        ({"model": "d:1", "engine": {"threads": 1}}, "engine.threads"),
        ({"model": "d:1", "engine": {"prefix_cache": "yes"}}, "engine.prefix_cache"),
        ({"model": "d:1", "engine": {"kv_precision": "u4"}}, "engine.kv_precision"),
        ({"model": "d:1", "engine": {"draft_model": True}}, "engine.draft_model"),
        ({"model": "d:1", "engine": {"draft_model": {}}}, "engine.draft_model.model"),
        (
            {"model": "d:1", "engine": {"prompt_lookup": {"max_ngram_size": 0}}},
            "engine.prompt_lookup.max_ngram_size",
        ),
    ],
)
def test_mistakes_are_named(body: dict, field: str | None) -> None:
    """Every mistake names its field; an empty list where an object may be is no scale."""
    if field is None:
        assert Scale() == parse(MINE, "d", body).scale
        return
    with pytest.raises(MeuseError) as refusal:
        parse(MINE, "d", body)
    assert (Code.INVALID_FIELD, field) == (refusal.value.code, refusal.value.field)


def test_guesses_have_a_short_way() -> None:
    """`true` and a name alone mean the defaults; false, null and absent mean off."""
    engine = {"prompt_lookup": True, "draft_model": "s:1", "prefix_cache": True}
    found = parse(MINE, "d", {"model": "d:1", "engine": engine}).engine
    assert found.prompt_lookup == PromptLookup(3, 5)
    assert found.draft_model == Draft("s:1")
    assert found.prefix_cache is True
    off = dict.fromkeys(engine, False)
    assert parse(MINE, "d", {"model": "d:1", "engine": off}).engine == EngineOptions()


def version(*formats: str) -> ModelVersion:
    artifacts = tuple(Artifact(f"model.{format}", format, format, 1) for format in formats)
    lineage = Lineage("job", "d:1", "", "", 0, "")
    return ModelVersion("d", 1, "custom", artifacts, Signature((), ()), {}, lineage, 0)


def test_an_engine_is_given_an_artifact_that_it_runs() -> None:
    """By name the first one of its formats; without a name the first that any engine runs."""
    both = version("onnx", "safetensors")
    for name, format in (("onnx", "onnx"), ("openvino", "onnx"), ("torch", "safetensors")):
        assert artifact_for(both, EngineOptions(name)).format == format
    assert artifact_for(both, EngineOptions()).format == "onnx"
    assert artifact_for(version("gguf", "openvino"), EngineOptions()).format == "openvino"
    with pytest.raises(MeuseError) as refusal:
        artifact_for(version("openvino"), EngineOptions("torch"))
    assert refusal.value.field == "engine.name"
    assert "openvino" in str(refusal.value.hint)


def test_what_replicas_are_started_with_is_their_revision() -> None:
    """Another engine, other cores or bounds give another; what workers decide does not."""
    bodies = [{"engine": {"name": n, "cores": c}} for n in (None, "onnx", "torch") for c in (1, 2)]
    bodies += [{}, {"batching": {"max_rows": 8}}, {"batching": {"max_queue": 8}}]
    bodies += [{"objective_ms": 8}]
    made = [parse(MINE, "d", {"model": "d:1", **body}) for body in bodies]
    assert len({d.revision for d in made}) == len(made)
    other = parse(MINE, "d", {"model": "d:2", "timeout_ms": 5, "cache": True, "engine": {}})
    assert (other.engine, other.revision) == (
        EngineOptions(),
        parse(MINE, "d", {"model": "d:1"}).revision,
    )
    named = parse(MINE, "d", {"model": "d:1", "engine": {"name": "ONNX", "cores": 2}})
    assert named.engine == EngineOptions("onnx", 2)
