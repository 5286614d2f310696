"""Pruning as steps of a whole compress job, and of a job on its child."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from helpers_jobs import RecordedJob
from meuse.compress.artifact import Artifact, Load
from meuse.compress.run import run
from meuse.compress.spec import CompressSpec
from meuse.compress.weights import layers, zeros
from meuse.core.errors import Code, MeuseError
from meuse.serve.engines.onnx import OnnxEngine
from meuse.train import surgery, weights


def load(artifact: Artifact) -> OnnxEngine:
    return OnnxEngine(artifact.data, 1)


def matrices(model: bytes) -> list[np.ndarray[Any, Any]]:
    """The weight matrices in the initializers of an exported file."""
    found = [numpy_helper.to_array(i) for i in onnx.load_from_string(model).graph.initializer]
    return [a for a in found if a.ndim == 2 and a.dtype == np.float32]


def spec_of(*steps: dict[str, Any]) -> CompressSpec:
    return CompressSpec.from_dict({"model": "digits:1", "goal": {"max_drop": 0.1}, "steps": steps})


@pytest.mark.slow
def test_steps_of_pruning_compose_and_a_child_is_pruned_further(
    classifier: Any, tmp_path: Path
) -> None:
    """Narrower layers, then zeros, then limits: all are in the served file and in the weights
    file; a job on the child keeps what it finds and adds to it."""
    engine: Load = load  # type: ignore[assignment]
    result = run(
        RecordedJob(tmp_path / "first"), classifier.parent, classifier.splits,
        spec_of({"method": "prune_structured", "rate": 0.25, "rounds": 1, "epochs": 2},
                {"method": "prune", "rate": 0.6, "rounds": 2, "epochs": 1},
                {"method": "clip", "by": "percentile", "percentile": 99.5, "channels": False}),
        engine,
    )  # fmt: skip
    model = result.model_path.read_bytes()
    file = next(p for p, format in result.files.items() if format == "safetensors")
    child = weights.load(file.read_bytes())
    assert [layer.weight.shape[0] for layer in layers(child.network)] == [192, 96, 10]
    zero, size = zeros(child.network)
    assert zero == round(0.6 * size)
    assert sum(int((a == 0).sum()) for a in matrices(model)) == zero
    assert sum(a.size for a in matrices(model)) == size < 0.7 * 50_432
    parent = replace(classifier.parent, artifact=Artifact("onnx", model), weights=file.read_bytes())
    again = run(
        RecordedJob(tmp_path / "second"), parent, classifier.splits,
        spec_of({"method": "prune", "rate": 0.8, "rounds": 1, "epochs": 1},
                {"method": "prune_structured", "rates": {"0": 0}, "rate": 0.5, "rounds": 1,
                 "epochs": 1}),
        engine,
    )  # fmt: skip
    file = next(p for p, format in again.files.items() if format == "safetensors")
    grandchild = weights.load(file.read_bytes())
    assert [layer.weight.shape[0] for layer in layers(grandchild.network)] == [192, 48, 10]
    assert len(surgery.edits_of(grandchild.network)) > len(surgery.edits_of(child.network))
    first = layers(grandchild.network)[0].weight
    assert bool((first[layers(child.network)[0].weight == 0] == 0).all())


def test_a_refusal_names_the_step(classifier: Any, tmp_path: Path) -> None:
    """A layer that there is not is told as `steps.1.rates.NAME`."""
    engine: Load = load  # type: ignore[assignment]
    steps = (
        {"method": "clip"},
        {"method": "prune", "rates": {"body": 0.5}, "rounds": 1, "epochs": 0},
    )
    with pytest.raises(MeuseError) as caught:
        run(RecordedJob(tmp_path), classifier.parent, classifier.splits, spec_of(*steps), engine)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "steps.1.rates.body")
    assert "Layers: 0, 3, 6" in str(caught.value)
