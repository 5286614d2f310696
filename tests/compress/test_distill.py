"""Students of real teachers, taught by the whole pipeline of a compress job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.conftest import Trained
from helpers_arrays import digit_images
from helpers_jobs import RecordedJob
from meuse.compress.pipeline import Candidate, Parent, Pipeline
from meuse.compress.spec import CompressSpec
from meuse.compress.teachers import Given, Version
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Examples, Frame, Splits
from meuse.core.ports import Paused
from meuse.evaluate.metrics import for_task
from meuse.serve.engines.onnx import OnnxEngine
from meuse.train.run import fit
from meuse.train.spec import TrainSpec

FEW = 120
STUDENT = {
    "recipe": "mlp",
    "config": {"hidden": [16], "dropout": 0.0},
    "options": {"learning_rate": 0.01},
}


def few(splits: Splits) -> Splits:
    """The first labelled rows alone."""
    frame = splits.train.frame.take(slice(0, FEW))
    return replace(splits, train=Examples(frame, splits.train.y[:FEW]))


def taught(
    trained: Any, job: RecordedJob, seed: int = 0, task: str = "classification", **step: Any
) -> Candidate:
    """The student of a job with few labelled rows; the others are `rest:1`, without labels."""
    parent, splits = trained.parent, few(trained.splits)
    teacher = Version(
        "t:1", "d", parent.signature, task, splits.train.frame.names,
        lambda: OnnxEngine(parent.artifact.data, 1), lambda: parent.weights,
    )  # fmt: skip
    rest = trained.splits.train.frame.take(slice(FEW, None))
    given = Given(task, splits.train.frame, {"": teacher, "t:1": teacher}, {"rest:1": rest})
    spec = CompressSpec.from_dict({"model": "digits:1", "steps": [{"method": "distill", **step}]})
    pipeline = Pipeline(
        job, replace(parent, given=given), splits, seed, for_task(task),
        lambda artifact: OnnxEngine(artifact.data, 1),
    )  # fmt: skip
    return pipeline.apply(spec.steps, lambda step, outputs: None)


def accuracy(trained: Any, found: Candidate) -> float:
    engine = OnnxEngine(found.artifact.data, 1)
    parts = (trained.splits.validation, trained.splits.test)
    hits = [engine.run({"input": p.frame.numbers})["probabilities"].argmax(1) == p.y for p in parts]
    return float(np.concatenate(hits).mean())


@pytest.mark.slow
def test_a_taught_student_beats_an_untaught_one(classifier: Any, tmp_path: Path) -> None:
    """On the same 120 digits (mean of three seeds), and more so with rows without labels; it is
    smaller, and its file says what it is."""
    ways: dict[str, dict[str, Any]] = {
        "untaught": {"alpha": 0.0, "epochs": 30},
        "taught": {"epochs": 30},
        "more rows": {"epochs": 8, "unlabelled": "rest:1", "labelled": False},
    }
    means = {}
    for name, how in ways.items():
        jobs = [RecordedJob(tmp_path / f"{name}-{seed}") for seed in range(3)]
        found = [taught(classifier, j, i, student=STUDENT, **how) for i, j in enumerate(jobs)]
        means[name] = np.mean([accuracy(classifier, one) for one in found])
    assert means["taught"] > means["untaught"] + 0.015
    assert means["more rows"] > means["taught"] + 0.01
    network = found[0].network
    assert network is not None
    assert (network.recipe, network.config) == ("mlp", STUDENT["config"])
    assert len(found[0].artifact.data) < len(classifier.model) / 10
    assert "1,139 rows to learn from, 0 of them" in jobs[0].text


def test_rows_teach_without_their_labels(classifier: Any, tmp_path: Path) -> None:
    """Labels that are all wrong do no harm where they are not learned from: the teacher's answers
    are all that there is."""
    splits = classifier.splits
    wrong = replace(splits, train=replace(splits.train, y=(splits.train.y + 1) % 10))
    spoiled = replace(classifier, splits=wrong)
    job = RecordedJob(tmp_path)
    how = {"student": STUDENT, "epochs": 8, "unlabelled": "rest:1", "labelled": False}
    assert accuracy(classifier, taught(spoiled, job, **how)) > 0.8
    assert "1,139 rows to learn from, 0 of them" in job.text


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A convolutional teacher of the digits as images."""
    column = Column("image", "image", shape=(16, 16, 1))
    first, second = (
        Examples(
            Frame(("image",), (), np.empty((len(part), 0), np.float32), {}, {"image": part.x}),
            part.y,
        )
        for part in digit_images()
    )
    splits = Splits(first, second, second, (column,), "label", "classification", tuple(range(10)))
    spec = TrainSpec.from_dict(
        {"model_name": "m", "data": "d", "recipe": "lenet", "config": {"channels": [8, 16]},
         "epochs": 3}
    )  # fmt: skip
    job = RecordedJob(tmp_path_factory.mktemp("pictures"))
    return Trained(splits, fit(job, splits, spec, for_task(splits.task)))


@pytest.mark.parametrize(("term", "weight"), [("hidden", 30.0), ("attention", 300.0)])
def test_what_is_inside_comes_closer(
    pictures: Trained, tmp_path: Path, term: str, weight: float
) -> None:
    """The term is most of the loss, and falls; without it the loss is a fraction of that."""
    student = {"recipe": "lenet", "config": {"channels": [4, 8]}}
    losses = {}
    for name, how in (("with", {term: weight}), ("without", {})):
        job = RecordedJob(tmp_path / name)
        taught(pictures, job, student=student, alpha=0.0, epochs=8, **how)
        found = [figures["train_loss"] for figures, _ in job.figures if "train_loss" in figures]
        losses[name] = found
    assert losses["with"][0] > 4 * losses["without"][0]
    assert losses["with"][-1] < 0.95 * losses["with"][0]


def test_hidden_states_come_closer(classifier: Any, tmp_path: Path) -> None:
    """Through learned projections; without the other terms the loss is theirs alone."""
    job = RecordedJob(tmp_path)
    taught(classifier, job, student=STUDENT, alpha=0.0, hidden=100.0, epochs=15)
    losses = [figures["train_loss"] for figures, _ in job.figures if "train_loss" in figures]
    assert losses[-1] < 0.7 * losses[0]
    assert "every batch anew" in job.text


class Pausing(RecordedJob):
    """Asks for a pause after so many looks."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder)
        self.after = after

    def paused(self) -> bool:
        self.after -= 1
        return self.after == 0


def test_dropout_is_another_while_it_is_taught(classifier: Any, tmp_path: Path) -> None:
    """As if the student had none; afterwards it has its own again."""
    weights = {}
    for own, asked in ((0.5, 0.0), (0.0, None), (0.5, None)):
        student = {**STUDENT, "config": {"hidden": [16], "dropout": own}}
        job = RecordedJob(tmp_path / f"{own}-{asked}")
        found = taught(classifier, job, student=student, epochs=2, dropout=asked).network
        assert found is not None
        rates = {m.p for m in found.network.modules() if isinstance(m, nn.Dropout)}
        assert rates <= {own}
        weights[own, asked] = torch.cat([p.flatten() for p in found.network.parameters()])
    assert torch.equal(weights[0.5, 0.0], weights[0.0, None])
    assert not torch.equal(weights[0.5, None], weights[0.0, None])


def test_a_paused_job_goes_on_to_the_same_bytes(classifier: Any, tmp_path: Path) -> None:
    """Within the training, with the teacher's scores kept from before."""
    options = {**STUDENT["options"], "checkpoint_seconds": 0.0}  # type: ignore[dict-item]
    step = {"student": {**STUDENT, "options": options}, "epochs": 4, "unlabelled": "rest:1"}
    with pytest.raises(Paused):
        taught(classifier, Pausing(tmp_path / "a", 60), **step)
    assert list((tmp_path / "a").glob("checkpoint-teacher-*.npy"))
    job = RecordedJob(tmp_path / "a")
    first = taught(classifier, job, **step)
    assert "going on after epoch" in job.text
    second = taught(classifier, RecordedJob(tmp_path / "b"), **step)
    assert first.artifact.data == second.artifact.data


def test_a_regression_is_taught(regressor: Any, tmp_path: Path) -> None:
    """By the values of its teacher, in its own unit."""
    found = taught(regressor, RecordedJob(tmp_path), 0, "regression", student=STUDENT, epochs=20)
    figures = for_task("regression")(found.outputs, regressor.splits.validation.y)
    assert figures["r2"] > 0.2


@pytest.mark.parametrize(
    ("step", "field"),
    [
        ({"temperature": 0}, "temperature"),
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": -0.1}, "alpha"),
        ({"teacher": "No Name"}, "teacher"),
        ({"teacher": ["a:1", "a:1"]}, "teacher"),
        ({"labelled": False}, "labelled"),
        ({"layers": [["a", "b"]]}, "layers"),
        ({"student": {"recipe": "gbdt"}}, "student.recipe"),
        ({"student": {"recipe": "nothing"}}, "student.recipe"),
        ({"student": {"recipe": "mlp", "config": {"hidden": []}}}, "student.config.hidden"),
        ({"student": {"recipe": "mlp", "options": {"epochs": 0}}}, "student.options.epochs"),
        ({"unlabelled": "x@y"}, "unlabelled"),
    ],
)
def test_bad_options_are_named(step: dict[str, Any], field: str) -> None:
    """Before anything starts."""
    with pytest.raises(MeuseError) as caught:
        CompressSpec.from_dict({"model": "m:1", "steps": [{"method": "distill", **step}]})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, f"steps.0.{field}")


def test_a_student_of_another_kind_of_data_is_refused(classifier: Any, tmp_path: Path) -> None:
    """A network of images cannot take rows of a table."""
    with pytest.raises(MeuseError, match="image") as caught:
        taught(classifier, RecordedJob(tmp_path), student={"recipe": "lenet"}, epochs=1)
    assert caught.value.field == "steps.0.student.recipe"


def test_the_default_teacher_is_the_parent() -> None:
    """Without names none is asked for; one name and a list of one are the same."""
    steps = [{"method": "distill", **t} for t in ({}, {"teacher": "a:1"}, {"teacher": ["a:1"]})]
    spec = CompressSpec.from_dict({"model": "m:1", "steps": steps})
    assert [getattr(s.config, "teachers", None) for s in spec.steps] == [(), ("a:1",), ("a:1",)]
    assert CompressSpec.from_dict(spec.to_dict()) == spec
    assert Parent.__dataclass_fields__["given"].default is None
