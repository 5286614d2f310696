"""A whole compress job, and what its gate refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers_jobs import RecordedJob
from meuse.compress import memory
from meuse.compress.answers import outputs_of, rows_of
from meuse.compress.artifact import Artifact, Load
from meuse.compress.page import page
from meuse.compress.report import measure
from meuse.compress.run import run
from meuse.compress.spec import CompressSpec
from meuse.core.errors import Code, MeuseError, RefusedError
from meuse.core.nouns import Examples, Splits
from meuse.core.ports import Engine
from meuse.evaluate.metrics import classification
from meuse.serve import engines
from meuse.serve.engines.onnx import OnnxEngine


def load(artifact: Artifact) -> Engine:
    return OnnxEngine(artifact.data, 1)


def spec_of(**fields: object) -> CompressSpec:
    return CompressSpec.from_dict({"model": "digits:1", **fields})


def test_a_classifier_is_compressed(classifier: Any, tmp_path: Path) -> None:
    """The job leaves a smaller model, training's metrics, and a report before and after."""
    job = RecordedJob(tmp_path)
    result = run(job, classifier.parent, classifier.splits, spec_of(), load)
    assert result.model_path == tmp_path / "model.onnx"
    assert set(result.metrics) == set(classifier.result.metrics)
    assert job.figures == [(result.metrics, {})]
    assert job.fractions == sorted(job.fractions)
    assert job.fractions[-1] == 1
    report = json.loads(json.dumps(result.report, allow_nan=False))
    assert (report["method"], report["metric_name"]) == ("quantize", "accuracy")
    assert (report["schema"], report["format"], report["parent"]) == (
        "meuse.compression", 2, "digits:1",
    )  # fmt: skip
    assert report["verdict"]["passed"]
    for side in ("before", "after"):
        told = report[side]
        assert told["metric_interval"][0] <= told["metric"] <= told["metric_interval"][1]
        assert 0 < told["p50_ms"] <= told["p95_ms"] < told["p95_ms_batch32"] * 32
        assert told["memory_bytes_batch32"] >= told["memory_bytes"] > told["bytes"]
        assert told["bytes"] > told["coded_bytes"] > 0
        assert told["macs"] == 64 * 256 + 256 * 128 + 128 * 10
        assert told["raw_bytes"] == 4 * told["parameters"] == 4 * 50954
    assert [layer["bits"] for layer in report["after"]["layers"]] == [8, 8, 8]
    (step,) = report["steps"]
    assert (step["method"], step["bytes"]) == ("quantize", report["after"]["bytes"])
    assert step["metric"] == pytest.approx(result.metrics["validation_accuracy"])
    assert {"1", "32"} == set(report["speed"])
    assert report["after"]["bytes"] == result.model_path.stat().st_size
    assert report["after"]["bytes"] < 0.4 * report["before"]["bytes"]
    assert report["before"]["metric"] == pytest.approx(classifier.result.metrics["test_accuracy"])
    assert report["after"]["metric"] == result.metrics["test_accuracy"]
    assert report["drop"] == pytest.approx(report["before"]["metric"] - report["after"]["metric"])
    assert report["interval"][0] <= report["drop"] <= report["interval"][1]
    assert "bytes; p50" in job.text
    assert len(result.code_digest) == 64


@pytest.mark.parametrize(
    "last", [{"method": "convert"}, {"method": "quantize", "mode": "openvino_int8"}]
)
def test_another_format_is_counted_in_the_graph_before_it(
    classifier: Any, tmp_path: Path, last: dict[str, str]
) -> None:
    """Zeros and work of OpenVINO's file are those of the pruned graph; its bytes are its own."""
    prune = {"method": "prune", "rate": 0.7, "rounds": 1, "epochs": 1}
    spec = spec_of(steps=[prune, last], goal={"max_drop": 0.1}, sensitivity=False)
    whole: Load = lambda file: engines.load(file.format, file.data, 1)  # noqa: E731
    result = run(RecordedJob(tmp_path), classifier.parent, classifier.splits, spec, whole)
    before, after = result.report["before"], result.report["after"]
    assert (after["format"], after["counted_in"], before["counted_in"]) == (
        "openvino", "source", "file",
    )  # fmt: skip
    assert (after["parameters"], after["macs"]) == (before["parameters"], before["macs"])
    assert 0.25 < after["nonzeros"] / after["parameters"] < 0.35
    assert [layer["shape"] for layer in after["layers"]] == [
        layer["shape"] for layer in before["layers"]
    ]
    assert (after["bytes"], after["coded_bytes"]) == (result.model_path.stat().st_size, None)
    told = " ".join(result.report["claims"])
    assert "of the weights are zero" in told
    assert "in the ONNX graph that the openvino file was made of" in told
    assert "not measured" in page(json.loads(json.dumps(result.report)), "m:2")


def test_layers_alone_are_measured_for_what_is_done(classifier: Any, tmp_path: Path) -> None:
    """Rounding for quantization and pruning for pruning, once however often the job starts; not
    where it is left out, and of no parent that is a graph alone."""
    told = {}
    ways: dict[str, Any] = {
        "quantize": {},
        "prune": {"steps": [{"method": "prune", "epochs": 0, "rounds": 1, "rate": 0.3}]},
        "off": {"sensitivity": False},
    }
    for name, how in ways.items():
        job = RecordedJob(tmp_path / name)
        result = run(job, classifier.parent, classifier.splits, spec_of(**how), load)
        told[name] = result.report["sensitivity"]
    assert {(row["layer"], row["bits"]) for row in told["quantize"]} == {
        (layer, bits) for layer in {r["layer"] for r in told["prune"]} for bits in (8, 4)
    }
    assert {row["rate"] for row in told["prune"]} == {0.5, 0.8, 0.95}
    assert len({row["layer"] for row in told["prune"]}) == 3
    assert max(row["drop"] for row in told["prune"]) > 0.05
    assert told["off"] == []
    again = RecordedJob(tmp_path / "prune")
    run(again, classifier.parent, classifier.splits, spec_of(**ways["prune"]), load)
    assert "layers alone" not in again.text
    graph = replace(classifier.parent, weights=None)
    alone = run(RecordedJob(tmp_path / "graph"), graph, classifier.splits, spec_of(), load)
    assert alone.report["sensitivity"] == []


def test_a_regressor_is_compressed(regressor: Any, tmp_path: Path) -> None:
    """Regression is judged by R², within the tolerance."""
    job = RecordedJob(tmp_path)
    result = run(job, regressor.parent, regressor.splits, spec_of(), load)
    assert result.report["metric_name"] == "r2"
    assert result.report["drop"] <= 0.01
    assert set(result.metrics) == set(regressor.result.metrics)


def spoiled(splits: Splits) -> Splits:
    """Calibration rows a thousand times too large: nearly all of int8's range is wasted."""
    frame = splits.train.frame
    frame = replace(frame, numbers=frame.numbers * 1000)
    return replace(splits, train=Examples(frame, splits.train.y))


def test_too_large_a_drop_is_refused(classifier: Any, tmp_path: Path) -> None:
    """A quantized model that lost its accuracy is refused with the numbers."""
    job = RecordedJob(tmp_path)
    with pytest.raises(RefusedError) as caught:
        run(job, classifier.parent, spoiled(classifier.splits), spec_of(), load)
    assert (caught.value.code, caught.value.field) == (Code.GATE_REFUSED, "goal.max_drop")
    assert "accuracy fell by 0." in caught.value.message
    assert "at most 0.01" in caught.value.message
    assert any(level == "warning" and "refused" in line for level, line in job.lines)
    report = caught.value.report
    assert report["verdict"] == {
        "passed": False, "reason": report["verdict"]["reason"], "field": "goal.max_drop",
    }  # fmt: skip
    assert report["after"]["metric"] < report["before"]["metric"] - 0.01
    assert report["after"]["p50_ms"] > 0
    assert "<script" not in page(report, "job")


def test_a_steps_own_gate_is_judged_on_validation(classifier: Any, tmp_path: Path) -> None:
    """A step that lost more than its gate allows ends the job before the test split is read."""
    spec = spec_of(steps=[{"method": "quantize", "gate": {"max_drop": 0.01}}])
    unread = replace(classifier.splits.test, y=None)
    splits = replace(spoiled(classifier.splits), test=unread)
    with pytest.raises(RefusedError) as caught:
        run(RecordedJob(tmp_path), classifier.parent, splits, spec, load)
    assert (caught.value.code, caught.value.field) == (
        Code.GATE_REFUSED, "steps.0.gate.max_drop",
    )  # fmt: skip
    report = caught.value.report
    assert report["rows"] == {"validation": len(splits.validation)}
    (step,) = report["steps"]
    assert (step["gate"], step["drop"]) == (0.01, pytest.approx(report["drop"]))
    assert "after" not in report
    assert "Refused" in page(report, "job")


@pytest.mark.parametrize("goal", [{"max_bytes": 1000}, {"max_latency_ms": 0.000001}])
def test_other_goals_are_gates_too(classifier: Any, tmp_path: Path, goal: dict[str, float]) -> None:
    """Size and latency refuse under their own names."""
    with pytest.raises(MeuseError) as caught:
        run(
            RecordedJob(tmp_path),
            classifier.parent,
            classifier.splits,
            spec_of(goal=goal),
            load,
        )
    assert caught.value.code == Code.GATE_REFUSED
    assert caught.value.field == f"goal.{next(iter(goal))}"


def test_outputs_are_logits_up_to_a_constant(classifier: Any) -> None:
    """Metrics of served probabilities are those that training computed from logits."""
    splits = classifier.splits
    rows = rows_of(splits.test.frame, classifier.parent.signature)
    outputs = outputs_of(load(classifier.parent.artifact), rows, "classification")
    figures = classification(outputs, splits.test.y)
    for name, value in figures.items():
        assert value == pytest.approx(classifier.result.metrics[f"test_{name}"], abs=1e-5)


def test_a_model_without_the_tasks_output_is_refused(regressor: Any) -> None:
    """A regressor cannot be judged as a classifier."""
    rows = rows_of(regressor.splits.test.frame, regressor.parent.signature)
    engine = load(regressor.parent.artifact)
    with pytest.raises(MeuseError) as caught:
        outputs_of(engine, rows, "classification")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
    assert "value" in str(caught.value.hint)


class Counting:
    """A real engine that also writes down who was called, with how many rows."""

    def __init__(self, artifact: Artifact, calls: list[tuple[int, int]]) -> None:
        self._engine = OnnxEngine(artifact.data, 1)
        self._size = len(artifact.data)
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
    counting: Load = lambda artifact: Counting(artifact, calls)  # noqa: E731
    model = classifier.parent.artifact  # measured against itself
    rows = rows_of(classifier.splits.test.frame.take(slice(0, 3)), classifier.parent.signature)
    found = measure(counting, model, model, rows, log=pytest.fail)
    assert found["before"]["bytes"] == found["after"]["bytes"]
    assert {rows for _, rows in calls} == {1, 32}
    ratio = found["after"]["p50_ms"] / found["before"]["p50_ms"]
    assert 0.5 < ratio < 2
    assert 0 < found["before"]["p50_ms"] <= found["before"]["p95_ms"]


def test_memory_that_was_not_measured_is_logged(
    classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job goes on without the figures, and its log has the reason."""

    def broken(*_: object) -> dict[int, int]:
        raise MeuseError(Code.INTERNAL, "memory was not measured: no room")

    monkeypatch.setattr(memory, "peaks", broken)
    job = RecordedJob(tmp_path)
    spec = spec_of(sensitivity=False)
    after = run(job, classifier.parent, classifier.splits, spec, load).report["after"]
    assert (after["memory_bytes"], after["memory_bytes_batch32"]) == (None, None)
    assert ("warning", "after compression, memory was not measured: no room") in job.lines
