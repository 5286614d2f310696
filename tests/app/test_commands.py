"""app.commands: which spare process can become which replica"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meuse.app import commands, replica
from meuse.core.nouns import (
    Adapter,
    Artifact,
    Deployment,
    DeploymentTarget,
    EngineOptions,
    Lineage,
    ModelVersion,
    Scale,
    Scope,
    Signature,
    TensorSpec,
)
from meuse.settings import Settings

SETTINGS = Settings(home=Path("/home"), replica_threads=2)


@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        (EngineOptions(), "onnx"),
        (EngineOptions("openvino"), "openvino"),
        (EngineOptions("torch", 2), "torch"),
        (EngineOptions(cores=1), None),
    ],
)
def test_a_spare_has_the_cores_of_the_settings(engine: EngineOptions, kind: str | None) -> None:
    """Its engine is that of the replica; with other cores it would have the wrong threads."""
    tensors = (TensorSpec("x", "FP32", (-1, 4)),)
    artifacts = tuple(
        Artifact(f"model.{format}", format, "a" * 64, 1) for format in ("onnx", "safetensors")
    )
    version = ModelVersion(
        "d", 1, "regression", artifacts, Signature(tensors, tensors), {},
        Lineage("j", "d:1", "", "", 0, "y"), 0,
    )  # fmt: skip
    spec = Deployment(
        "d", Scope("acme"), 1, (DeploymentTarget("d:1"),), Scale(), (), 1000, 0, engine=engine
    )
    assert commands.spare_for(SETTINGS, spec, version) == kind
    words = commands.replica(SETTINGS, "r1", spec, version)
    if kind is not None:
        spare = commands.spare(SETTINGS, "r1", kind)
        for option in ("--engine", "--cores", "--home", "--id"):
            assert words[words.index(option) + 1] == spare[spare.index(option) + 1]


def test_what_vllm_is_told() -> None:
    """As its replica reads it; no word begins with a brace, which the supervisor would fill in."""
    version = ModelVersion(
        "m", 1, "text-generation", (Artifact("manifest.json", "llm", "a" * 64, 1),),
        Signature((), ()), {}, Lineage("j", "", "", "", 0, ""), 0,
    )  # fmt: skip
    engine = EngineOptions("vllm", max_model_len=64, max_sequences=4)
    spec = Deployment(
        "m", Scope("acme"), 1, (DeploymentTarget("m:1"),), Scale(), (), 1000, 0, engine=engine
    )
    words = commands.replica(SETTINGS, "r1", spec, version, {"polite": "b" * 64})
    assert [word for word in words if word.startswith("{")] == ["{sockets}", "{lifeline}"]
    filled = ["0" if word.startswith("{") else word for word in words]
    options = replica.parse(filled[words.index("replica") + 1 :])
    told = json.loads(options.vllm)
    assert (told["max_model_len"], told["max_sequences"]) == (64, 4)
    assert (told["max_loras"], told["adapters"]) == (None, {"polite": "b" * 64})
    assert commands.spare_for(SETTINGS, spec, version) is None


@pytest.mark.parametrize(
    ("layers", "told"), [(((), ("q_proj",)), ""), ((("v_proj",), ("q_proj",)), "q_proj,v_proj")]
)
def test_a_replica_with_adapters_is_told_their_layers(
    layers: tuple[tuple[str, ...], ...], told: str
) -> None:
    """Unless one of them may change any."""
    version = ModelVersion(
        "m", 1, "text-generation", (Artifact("manifest.json", "llm", "a" * 64, 1),),
        Signature((), ()), {}, Lineage("j", "", "", "", 0, ""), 0,
    )  # fmt: skip
    named = tuple(Adapter(str(number), "a:1", each) for number, each in enumerate(layers))
    spec = Deployment(
        "m", Scope("acme"), 1, (DeploymentTarget("m:1"),), Scale(), (), 1000, 0, adapters=named
    )
    words = commands.replica(SETTINGS, "r1", spec, version)
    filled = ["0" if word.startswith("{") else word for word in words]
    options = replica.parse(filled[words.index("replica") + 1 :])
    assert (options.max_adapters, options.adapter_layers) == (8, told)
