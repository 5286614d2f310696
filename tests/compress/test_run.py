"""A whole compress job, and what its gate refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers_jobs import RecordedJob
from meuse.compress.report import measure, outputs_of
from meuse.compress.run import run
from meuse.compress.spec import CompressSpec
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Examples, Splits
from meuse.core.ports import Engine
from meuse.evaluate.metrics import classification
from meuse.serve.engines.onnx import OnnxEngine


def load(model: bytes) -> Engine:
    return OnnxEngine(model, 1)


def spec_of(**fields: object) -> CompressSpec:
    return CompressSpec.from_dict({"model": "digits:1", **fields})


def test_a_classifier_is_compressed(classifier: Any, tmp_path: Path) -> None:
    """The job leaves a smaller model, training's metrics, and a report before and after."""
    job = RecordedJob(tmp_path)
    result = run(job, classifier.model, classifier.splits, spec_of(), "classification", load)
    assert result.model_path == tmp_path / "model.onnx"
    assert set(result.metrics) == set(classifier.result.metrics)
    assert job.figures == [(result.metrics, {})]
    assert job.fractions == sorted(job.fractions)
    assert job.fractions[-1] == 1
    report = json.loads(json.dumps(result.report, allow_nan=False))
    assert (report["method"], report["metric_name"]) == ("quantize", "accuracy")
    keys = {"bytes", "metric", "p50_ms", "p95_ms", "p50_ms_batch32"}
    assert set(report["before"]) == set(report["after"]) == keys
    assert report["after"]["bytes"] == result.model_path.stat().st_size
    assert report["after"]["bytes"] < 0.4 * report["before"]["bytes"]
    assert report["before"]["metric"] == pytest.approx(classifier.result.metrics["test_accuracy"])
    assert report["after"]["metric"] == result.metrics["test_accuracy"]
    assert report["drop"] == pytest.approx(report["before"]["metric"] - report["after"]["metric"])
    assert report["interval"][0] <= report["drop"] <= report["interval"][1]
    assert "bytes; p50" in job.text
    assert len(result.code_digest) == 64


def test_a_regressor_is_compressed(regressor: Any, tmp_path: Path) -> None:
    """Regression is judged by R², within the tolerance."""
    job = RecordedJob(tmp_path)
    result = run(job, regressor.model, regressor.splits, spec_of(), "regression", load)
    assert result.report["metric_name"] == "r2"
    assert result.report["drop"] <= 0.01
    assert set(result.metrics) == set(regressor.result.metrics)


def spoiled(splits: Splits) -> Splits:
    """Calibration rows a thousand times too large: nearly all of int8's range is wasted."""
    validation = Examples(splits.validation.x * 1000, splits.validation.y)
    return Splits(
        splits.train,
        validation,
        splits.test,
        splits.features,
        splits.target,
        splits.task,
        splits.classes,
    )


def test_too_large_a_drop_is_refused(classifier: Any, tmp_path: Path) -> None:
    """A quantized model that lost its accuracy is refused with the numbers."""
    job = RecordedJob(tmp_path)
    with pytest.raises(MeuseError) as caught:
        run(job, classifier.model, spoiled(classifier.splits), spec_of(), "classification", load)
    assert (caught.value.code, caught.value.field) == (Code.GATE_REFUSED, "goal.max_drop")
    assert "accuracy fell by 0." in caught.value.message
    assert "at most 0.01" in caught.value.message
    assert any(level == "warning" and "refused" in line for level, line in job.lines)


@pytest.mark.parametrize("goal", [{"max_bytes": 1000}, {"max_latency_ms": 0.000001}])
def test_other_goals_are_gates_too(classifier: Any, tmp_path: Path, goal: dict[str, float]) -> None:
    """Size and latency refuse under their own names."""
    with pytest.raises(MeuseError) as caught:
        run(
            RecordedJob(tmp_path),
            classifier.model,
            classifier.splits,
            spec_of(goal=goal),
            "classification",
            load,
        )
    assert caught.value.code == Code.GATE_REFUSED
    assert caught.value.field == f"goal.{next(iter(goal))}"


def test_outputs_are_logits_up_to_a_constant(classifier: Any) -> None:
    """Metrics of served probabilities are those that training computed from logits."""
    splits = classifier.splits
    outputs = outputs_of(load(classifier.model), splits.test.x, "classification")
    figures = classification(outputs, splits.test.y)
    for name, value in figures.items():
        assert value == pytest.approx(classifier.result.metrics[f"test_{name}"], abs=1e-5)


def test_a_model_without_the_tasks_output_is_refused(regressor: Any) -> None:
    """A regressor cannot be judged as a classifier."""
    with pytest.raises(MeuseError) as caught:
        outputs_of(load(regressor.model), regressor.splits.test.x, "classification")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
    assert "value" in str(caught.value.hint)


class Counting:
    """A real engine that also writes down who was called, with how many rows."""

    def __init__(self, model: bytes, calls: list[tuple[int, int]]) -> None:
        self._engine = OnnxEngine(model, 1)
        self._size = len(model)
        self._calls = calls

    @property
    def signature(self) -> Any:
        return self._engine.signature

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._calls.append((self._size, len(inputs["input"])))
        return self._engine.run(inputs)


def test_measurements_take_turns(classifier: Any, regressor: Any) -> None:
    """Both models are called equally often at batch 1 and 32, in turns; few rows suffice."""
    calls: list[tuple[int, int]] = []
    counting: Callable[[bytes], Engine] = lambda model: Counting(model, calls)  # noqa: E731
    other = classifier.model + b""  # the same model measured against itself
    found = measure(counting, classifier.model, other, classifier.splits.test.x[:3])
    assert found["before"]["bytes"] == found["after"]["bytes"]
    assert {rows for _, rows in calls} == {1, 32}
    ratio = found["after"]["p50_ms"] / found["before"]["p50_ms"]
    assert 0.5 < ratio < 2
    assert 0 < found["before"]["p50_ms"] <= found["before"]["p95_ms"]
