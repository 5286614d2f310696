"""Steps applied one after the other: order, checkpoints, errors, what a child carries on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers_jobs import RecordedJob
from meuse.compress.artifact import Artifact
from meuse.compress.pipeline import Candidate, Parent, Pipeline, save
from meuse.compress.spec import CompressSpec, Step
from meuse.compress.teachers import Given, Version
from meuse.compress.weights import layers
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Examples, Frame, Splits
from meuse.core.ports import Engine, Paused
from meuse.evaluate.metrics import for_task
from meuse.serve import engines
from meuse.serve.packed import pack
from meuse.train import loop
from meuse.train.prepare.apply import Preparer


def load(artifact: Artifact) -> Engine:
    return engines.load(artifact.format, artifact.data, 1)


def steps_of(*steps: dict[str, Any]) -> tuple[Step, ...]:
    return CompressSpec.from_dict({"model": "digits:1", "steps": list(steps)}).steps


def pipeline(trained: Any, job: RecordedJob, parent: Parent | None = None) -> Pipeline:
    splits = trained.splits
    metric = for_task(splits.task)
    return Pipeline(job, parent or trained.parent, splits, 0, metric, load)


def let_pass(step: Step, outputs: Any) -> None: ...


PRUNE = {"method": "prune", "rate": 0.7, "rounds": 2, "epochs": 1}
SHARE = {"method": "share", "bits": 3, "epochs": 1}
QUANTIZE = {"method": "quantize"}


def weights_of(candidate: Candidate) -> list[np.ndarray[Any, Any]]:
    assert candidate.network is not None
    return [layer.weight.numpy() for layer in layers(candidate.network.network)]


def test_forms_stay_through_later_steps(classifier: Any, tmp_path: Path) -> None:
    """What was pruned stays zero while shared values train on."""
    made = pipeline(classifier, RecordedJob(tmp_path)).apply(steps_of(PRUNE, SHARE), let_pass)
    assert made.artifact.format == "onnx"
    found = weights_of(made)
    zeros = sum(int((w == 0).sum()) for w in found)
    assert zeros >= 0.69 * sum(w.size for w in found)
    assert all(len(np.unique(w[w != 0])) <= 8 for w in found)
    assert [row["method"] for row in made.rows] == ["prune", "share"]
    assert all(row["seconds"] >= 0 for row in made.rows)


@pytest.mark.parametrize("shared", [False, True])
def test_outputs_are_those_of_the_file(classifier: Any, tmp_path: Path, shared: bool) -> None:
    """What is judged on validation is what the file answers to the bit, not what the network says
    in torch: in a first attempt, in one that goes on, and in a search that comes back to it."""
    pruned = {"method": "prune", "rate": 0.5, "rounds": 1, "epochs": 0}
    job, steps = RecordedJob(tmp_path), steps_of(pruned, {"method": "qat", "epochs": 1})
    heard: list[NDArray[Any]] = []
    made = [
        pipeline(classifier, job).apply(steps, lambda _, found: heard.append(found), shared=shared)
        for _ in range(2)
    ]
    assert job.text.count("was done before") == 2
    assert made[0].artifact == made[1].artifact
    served = pipeline(classifier, job).validation_outputs(made[0].artifact)
    for outputs in (heard[1], made[0].outputs, heard[3], made[1].outputs):
        np.testing.assert_array_equal(outputs, served)
    np.testing.assert_array_equal(heard[0], heard[2])
    network = made[1].network
    assert network is not None
    x = Preparer(network.preparation).apply(classifier.splits.validation.frame)
    simulated = network.answers.outputs_of(loop.scores_of(network.network, x))
    assert not np.array_equal(simulated, served), "this would not tell the two apart"


def taught_by(trained: Any, digest: str, unlabelled: Frame | None = None) -> Parent:
    """The parent with a teacher `big:3`, which is itself, whose weights are named `digest`."""
    parent, splits = trained.parent, trained.splits
    teacher = Version(
        "big:3", digest, parent.signature, splits.task, splits.train.frame.names,
        lambda: load(parent.artifact),
    )  # fmt: skip
    frames = {} if unlabelled is None else {"rest:1": unlabelled}
    given = Given(splits.task, splits.train.frame, {"big:3": teacher}, frames)
    return replace(parent, given=given)


def test_a_step_of_another_teacher_is_done_anew(classifier: Any, tmp_path: Path) -> None:
    """Its checkpoint counts for the weights that taught it, not for their name."""
    steps = steps_of({"method": "distill", "teacher": "big:3", "epochs": 1})
    for digest, done in (("a", False), ("b", False), ("b", True)):
        job = RecordedJob(tmp_path)
        pipeline(classifier, job, taught_by(classifier, digest)).apply(steps, let_pass)
        assert ("step-1 was done before" in job.text) == done


def test_whatever_changes_a_result_changes_the_digest(classifier: Any, tmp_path: Path) -> None:
    """Parent, options of training, data, teachers, rows without labels and seed; nothing else."""
    splits, parent, job = classifier.splits, classifier.parent, RecordedJob(tmp_path)

    def digest(parent: Parent = parent, splits: Splits = splits, seed: int = 0) -> str:
        return Pipeline(job, parent, splits, seed, for_task(splits.task), load).digest

    def with_rows(numbers: NDArray[Any], y: NDArray[Any]) -> Splits:
        frame = replace(splits.validation.frame, numbers=numbers)
        return replace(splits, validation=Examples(frame, y))

    numbers, y = splits.validation.frame.numbers, splits.validation.y
    few = splits.train.frame.take(slice(0, 20))
    others = [
        digest(seed=1),
        digest(replace(parent, weights=None)),
        digest(replace(parent, training={"options": {"epochs": 11}})),
        digest(splits=with_rows(numbers + np.float32(1), y)),
        digest(splits=with_rows(numbers, y[::-1])),
        digest(taught_by(classifier, "a")),
        digest(taught_by(classifier, "b")),
        digest(taught_by(classifier, "b", few)),
        digest(taught_by(classifier, "b", few.take(slice(0, 19)))),
    ]
    assert len({digest(), *others}) == 1 + len(others)
    test = Examples(splits.test.frame.take(slice(0, 5)), splits.test.y[:5])
    assert digest(replace(parent, ref="copy:1"), replace(splits, test=test)) == digest()


class StoppedError(Exception):
    """Stands for a kill: the process is gone, its folder stays."""


def test_a_killed_job_goes_on(
    classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second step's training, it does the first step no more, and ends with the
    bytes of an undisturbed run."""
    steps = steps_of(PRUNE, SHARE, QUANTIZE)
    calm = pipeline(classifier, RecordedJob(tmp_path / "calm")).apply(steps, let_pass)

    def stop(step: Step, outputs: Any) -> None:
        if step.method == "share":
            raise StoppedError

    with pytest.raises(StoppedError):
        pipeline(classifier, RecordedJob(tmp_path / "killed")).apply(steps, stop)
    again = RecordedJob(tmp_path / "killed")
    trainings = []
    run = loop.run
    monkeypatch.setattr(loop, "run", lambda *a, **k: trainings.append(a) or run(*a, **k))
    made = pipeline(classifier, again).apply(steps, let_pass)
    assert not trainings
    assert "step-2 was done before" in again.text
    assert made.artifact == calm.artifact
    assert [r["method"] for r in made.rows] == [r["method"] for r in calm.rows]


def test_the_graph_before_another_format_is_kept(classifier: Any, tmp_path: Path) -> None:
    """Also when all steps were done before; a parent that is no ONNX has none."""
    steps = steps_of(QUANTIZE, {"method": "convert"})
    made = pipeline(classifier, RecordedJob(tmp_path)).apply(steps, let_pass)
    again = RecordedJob(tmp_path)
    found = pipeline(classifier, again).apply(steps, let_pass)
    assert "step-2 was done before" in again.text
    quantized = (tmp_path / "checkpoint-step-1.served").read_bytes()
    assert (made.artifact.format, made.graph, found.graph) == ("openvino", quantized, quantized)
    left = replace(classifier.parent, artifact=made.artifact)
    assert pipeline(classifier, again, left).apply((), let_pass).graph is None


def test_a_pause_is_kept_between_steps(classifier: Any, tmp_path: Path) -> None:
    job = RecordedJob(tmp_path)

    def pause(step: Step, outputs: Any) -> None:
        job.is_paused = True

    with pytest.raises(Paused):
        pipeline(classifier, job).apply(steps_of(PRUNE, SHARE), pause)
    job.is_paused = False
    pipeline(classifier, job).apply(steps_of(PRUNE, SHARE), let_pass)
    assert "step-1 was done before" in job.text


def test_a_step_of_other_options_is_done_anew(classifier: Any, tmp_path: Path) -> None:
    """A checkpoint counts for the very steps that led to it."""
    job = RecordedJob(tmp_path)
    pipeline(classifier, job).apply(steps_of({**PRUNE, "rate": 0.5}), let_pass)
    made = pipeline(classifier, job).apply(steps_of(PRUNE), let_pass)
    assert "was done before" not in job.text
    found = weights_of(made)
    assert sum(int((w == 0).sum()) for w in found) >= 0.69 * sum(w.size for w in found)


def test_the_parents_network_is_left_alone(classifier: Any, tmp_path: Path) -> None:
    """Two candidates of one pipeline do not disturb each other."""
    whole = pipeline(classifier, RecordedJob(tmp_path))
    first = whole.apply(steps_of(PRUNE), let_pass, shared=True)
    whole.apply(steps_of({**PRUNE, "rate": 0.95}), let_pass, shared=True)
    for kept in tmp_path.glob("checkpoint-*"):
        kept.unlink()
    third = whole.apply(steps_of(PRUNE), let_pass, shared=True)
    assert all(
        torch.equal(torch.from_numpy(x), torch.from_numpy(y))
        for x, y in zip(weights_of(first), weights_of(third), strict=True)
    )


def test_a_lossy_graph_method_leaves_the_network_behind(classifier: Any, tmp_path: Path) -> None:
    made = pipeline(classifier, RecordedJob(tmp_path)).apply(steps_of(QUANTIZE), let_pass)
    assert made.network is None


def test_a_parent_without_weights(classifier: Any, tmp_path: Path) -> None:
    """Graph methods work on a finished graph; those that train say what is missing."""
    parent = Parent("up:1", classifier.parent.artifact, classifier.parent.signature)
    whole = pipeline(classifier, RecordedJob(tmp_path), parent)
    assert len(whole.apply(steps_of(QUANTIZE), let_pass).artifact.data) < len(parent.artifact.data)
    with pytest.raises(MeuseError) as caught:
        whole.apply(steps_of(PRUNE), let_pass)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "steps.0.method")
    assert "quantize" in str(caught.value.hint)


def test_a_packed_parent_is_opened(classifier: Any, tmp_path: Path) -> None:
    """Its graph is compressed like any other, and the child is no packed file by itself."""
    packed = Artifact("packed", pack(classifier.model))
    parent = Parent("digits:2", packed, classifier.parent.signature)
    made = pipeline(classifier, RecordedJob(tmp_path), parent).apply(steps_of(QUANTIZE), let_pass)
    assert made.artifact.format == "onnx"
    assert len(made.artifact.data) < 0.4 * len(classifier.model)


def test_what_undoes_a_parents_forms_is_said(classifier: Any, tmp_path: Path) -> None:
    """A version that was pruned and shared before is not refused what it is asked for, but the
    report and the log say what is lost; training on loses nothing, and a student has its own."""
    first, second = RecordedJob(tmp_path / "first"), RecordedJob(tmp_path / "second")
    made = pipeline(classifier, first).apply(steps_of(PRUNE, SHARE), let_pass)
    assert made.network is not None
    assert not any("lost" in row for row in made.rows)
    file = save(made.network, tmp_path / "weights").read_bytes()
    parent = replace(classifier.parent, artifact=made.artifact, weights=file)
    again = {**PRUNE, "rate": 0.8}
    trained = pipeline(classifier, second, parent).apply(steps_of(again), let_pass)
    student = {"method": "distill", "epochs": 1, "student": {"recipe": "mlp"}}
    other = pipeline(classifier, second, parent).apply(steps_of(student), let_pass)
    assert not any("lost" in row for row in (*trained.rows, *other.rows))
    taken_apart = pipeline(classifier, second, parent).apply(
        steps_of({"method": "low_rank", "energy": 0.9}), let_pass
    )
    [row] = taken_apart.rows
    zeros, values = row["lost"]
    assert "70.0% of the weights were zero" in zeros
    assert "shared few values" in values
    assert f"low_rank undid earlier work: {zeros}" in second.text
