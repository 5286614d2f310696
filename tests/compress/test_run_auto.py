"""A whole search on real data: levels of pruning, trained and packed, the best judged once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from helpers_jobs import RecordedJob
from meuse.compress import propose
from meuse.compress import run as running
from meuse.compress.artifact import Artifact
from meuse.compress.propose import Family
from meuse.compress.run_auto import run
from meuse.compress.spec import CompressSpec
from meuse.core.errors import RefusedError
from meuse.core.ports import Engine
from meuse.serve import engines
from meuse.serve.packed import unpack

DROP = 0.06


def load(artifact: Artifact) -> Engine:
    return engines.load(artifact.format, artifact.data, 1)


def zeros(file: bytes) -> float:
    """The share of zeros among the matrices of a packed file's graph."""
    graph = onnx.load_from_string(unpack(file)).graph
    found = [numpy_helper.to_array(i) for i in graph.initializer]
    weights = [m for m in found if m.ndim == 2 and m.size > 500]
    assert len(weights) == 3
    return sum(int((m == 0).sum()) for m in weights) / sum(m.size for m in weights)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_pruning_is_pressed_as_far_as_the_metric_allows(
    classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Level after level is trained once, with and without what follows; what lost too much is not
    pressed further; the smallest that keeps the goal is recommended, with its zeros in its file."""
    only = propose.usable(propose.FAMILIES, ["prune", "pack"])
    monkeypatch.setattr(propose, "FAMILIES", only)
    fields = {"steps": "auto", "goal": {"max_drop": DROP}, "auto": {"trials": 6, "keep": 1}}
    spec = CompressSpec.from_dict({"model": "digits:1", **fields})
    job = RecordedJob(tmp_path)
    (best,) = run(job, classifier.parent, classifier.splits, spec, load)

    trials = best.report["auto"]["trials"]
    assert [trial["error"] for trial in trials] == [None] * len(trials)
    assert [[step["method"] for step in trial["steps"]] for trial in trials[:3]] == [
        ["prune"], ["pack"], ["prune", "pack"],
    ]  # fmt: skip
    pruned = {t["steps"][0]["rate"]: t for t in trials if t["steps"][0]["method"] == "prune"}
    assert {0.6, 0.8} <= set(pruned)
    lost = min((rate for rate, t in pruned.items() if t["drop"] > DROP), default=1.0)
    assert max(pruned) <= lost
    begun = [line for _, line in job.lines if "round-1: " in line and "parameters" in line]
    assert len(begun) == len(pruned)

    (recommended,) = [trial for trial in trials if trial["recommended"]]
    kept = [t["bytes"] for t in trials if t["drop"] <= DROP]
    assert recommended["bytes"] == min(kept)
    rate = recommended["steps"][0]["rate"]
    assert rate >= 0.8
    file = best.model_path.read_bytes()
    assert len(file) == recommended["bytes"] < len(classifier.model) / 3
    assert zeros(file) == pytest.approx(rate, abs=0.01)
    assert best.report["drop"] <= DROP
    # Of the same file, asked when it was tried and when it was come back to.
    assert best.metrics["validation_accuracy"] == recommended["metric"]
    assert {row["rate"] for row in best.report["sensitivity"]} == {0.5, 0.8, 0.95}


def search_of(goal: dict[str, float], **auto: int) -> CompressSpec:
    return CompressSpec.from_dict(
        {"model": "digits:1", "steps": "auto", "goal": goal, "auto": auto, "sensitivity": False}
    )


def test_trials_do_not_read_the_test_split(
    classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no candidate keeps the goal on validation, nothing of it was looked at."""
    only = propose.usable(propose.FAMILIES, ["quantize", "pack"])
    monkeypatch.setattr(propose, "FAMILIES", only)
    unread: Any = object()
    splits = replace(classifier.splits, test=unread)
    spec = search_of({"max_drop": 0.01, "max_bytes": 10}, trials=3)
    with pytest.raises(RefusedError) as caught:
        run(RecordedJob(tmp_path), classifier.parent, splits, spec, load)
    assert caught.value.field == "goal.max_bytes"
    assert [trial["error"] for trial in caught.value.report["auto"]["trials"]] == [None] * 3


def test_what_is_kept_reads_the_test_split_once(
    classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate asks the parent and the candidate once each, per version that is registered: here
    a front of several, the smallest first."""
    rates = tuple({"rate": rate, "rounds": 1, "epochs": 0} for rate in (0.3, 0.6, 0.8))
    pressed = (Family("prune", rates), Family("pack", ({},)))
    monkeypatch.setattr(propose, "FAMILIES", pressed)
    read: list[int] = []
    whole = running.outputs_of

    def counting(engine: Engine, rows: Any, task: str) -> Any:
        read.append(len(next(iter(rows.values()))))
        return whole(engine, rows, task)

    monkeypatch.setattr(running, "outputs_of", counting)
    spec = search_of({"max_drop": 0.3}, trials=8, keep=3)
    made = run(RecordedJob(tmp_path), classifier.parent, classifier.splits, spec, load)
    sizes = [each.report["after"]["bytes"] for each in made]
    assert len(set(sizes)) == len(sizes) >= 2
    assert sizes == sorted(sizes)
    assert read == [len(classifier.splits.test)] * 2 * len(made)
