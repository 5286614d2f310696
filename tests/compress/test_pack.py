"""Packing as a step: shared, packed, judged, and read by the serving engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from helpers_jobs import RecordedJob
from meuse.compress.artifact import Artifact
from meuse.compress.configs.pack import Pack
from meuse.compress.methods.pack import pack
from meuse.compress.run import run
from meuse.compress.spec import CompressSpec
from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Engine
from meuse.serve import engines, packed


def load(artifact: Artifact) -> Engine:
    return engines.load(artifact.format, artifact.data, threads=1)


def weights_of(model: bytes) -> dict[str, np.ndarray]:
    graph = onnx.load_from_string(model).graph
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    return {name: value for name, value in found.items() if value.ndim == 2 and value.size > 100}


def test_a_shared_model_is_packed(classifier: Any, tmp_path: Path) -> None:
    """Three bits a weight: the file that is served holds 8 values per layer, and takes a ninth
    of the parent's bytes."""
    steps = [{"method": "share", "bits": 3, "epochs": 1}, {"method": "pack"}]
    spec = CompressSpec.from_dict({"model": "digits:1", "steps": steps, "goal": {"max_drop": 0.05}})
    result = run(RecordedJob(tmp_path), classifier.parent, classifier.splits, spec, load)
    assert (result.model_path.suffix, result.files[result.model_path]) == (".packed", "packed")
    data = result.model_path.read_bytes()
    assert result.report["after"]["bytes"] == len(data) < len(classifier.model) / 9
    found = weights_of(packed.unpack(data))
    assert len(found) == len(weights_of(classifier.model)) > 1
    assert all(len(np.unique(weight)) <= 8 for weight in found.values())


def test_packing_changes_no_answer(classifier: Any, tmp_path: Path) -> None:
    """Alone it makes the file a little smaller, and the model answers bit for bit the same."""
    spec = CompressSpec.from_dict({"model": "digits:1", "steps": "pack", "goal": {"max_drop": 0}})
    result = run(RecordedJob(tmp_path), classifier.parent, classifier.splits, spec, load)
    assert result.report["drop"] == 0
    assert 0.8 < result.report["after"]["bytes"] / len(classifier.model) < 0.97
    assert weights_of(packed.unpack(result.model_path.read_bytes())).keys()


def test_int8_models_are_packed_as_well(classifier: Any, tmp_path: Path) -> None:
    """After quantization the file still shrinks, and the engine gives the same answers."""
    steps = "share,quantize,pack"
    spec = CompressSpec.from_dict(
        {"model": "digits:1", "steps": steps, "goal": {"max_drop": 0.05}, "seed": 1}
    )
    result = run(RecordedJob(tmp_path), classifier.parent, classifier.splits, spec, load)
    data = result.model_path.read_bytes()
    int8 = packed.unpack(data)
    assert len(data) < 0.7 * len(int8) < 0.35 * len(classifier.model)
    rows = classifier.splits.test.frame.numbers[:20]
    plain, small = (engines.load(*pair) for pair in (("onnx", int8), ("packed", data)))
    inputs = {plain.signature.inputs[0].name: rows}
    for name, value in plain.run(inputs).items():
        np.testing.assert_array_equal(small.run(inputs)[name], value)


def test_only_onnx_is_packed(tmp_path: Path) -> None:
    """Another format is refused, and says what to do."""
    material: Any = None
    for format in ("openvino", "packed"):
        with pytest.raises(MeuseError) as caught:
            pack(Artifact(format, b""), material, Pack())
        assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "method")
