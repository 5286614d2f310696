"""app.commands: which spare process can become which replica"""

from __future__ import annotations

from pathlib import Path

import pytest

from meuse.app import commands
from meuse.core.nouns import (
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
    replica = commands.replica(SETTINGS, "r1", spec, version)
    if kind is not None:
        spare = commands.spare(SETTINGS, "r1", kind)
        for option in ("--engine", "--cores", "--home", "--id"):
            assert replica[replica.index(option) + 1] == spare[spare.index(option) + 1]
