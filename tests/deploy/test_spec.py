"""deploy.spec"""

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import (
    Artifact,
    DeploymentTarget,
    EngineOptions,
    Lineage,
    ModelVersion,
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
        ({"model": "d:1", "scale": {"min": 0}}, "scale.min"),
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


def test_options_that_differ_are_other_revisions() -> None:
    """What a replica is started with tells it apart; defaults are one and the same."""
    options = [EngineOptions(n, c) for n in (None, "onnx", "torch") for c in (None, 1, 2)]
    assert len({o.revision for o in options}) == len(options)
    made = parse(MINE, "d", {"model": "d:1", "engine": {"name": "ONNX", "cores": 2}})
    assert made.engine == EngineOptions("onnx", 2)
    assert parse(MINE, "d", {"model": "d:1"}).engine == EngineOptions()
