"""One training from splits to files, on real data, killed and resumed for real."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from helpers_jobs import RecordedJob
from helpers_tables import clouds, diabetes, digits
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Examples, Frame, Splits
from meuse.evaluate.metrics import for_task
from meuse.train.run import TrainResult, fit
from meuse.train.spec import TrainSpec


def spec_of(**fields: object) -> TrainSpec:
    return TrainSpec.from_dict({"model_name": "m", "data": "d", **fields})


def train(folder: Path, splits: Splits, spec: TrainSpec) -> tuple[RecordedJob, TrainResult]:
    job = RecordedJob(folder)
    return job, fit(job, splits, spec, for_task(splits.task))


def weights(job: RecordedJob) -> dict[str, torch.Tensor]:
    """Everything of the last checkpoint: the network, the optimizer, the best network."""
    return load_file(job.checkpoint)


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_defaults_reach_their_accuracy_on_digits(tmp_path: Path) -> None:
    """Default settings classify held-out digits at 97% or better, mean over three seeds."""
    found = []
    for seed in range(3):
        splits = digits(tmp_path, seed)
        _, result = train(tmp_path / str(seed), splits, spec_of(seed=seed))
        found.append(result.metrics["test_accuracy"])
    assert np.mean(found) >= 0.97


def test_what_a_run_leaves(tmp_path: Path) -> None:
    """A run gives a model file, its signature, and metrics of validation and test."""
    splits = clouds(tmp_path)
    job, result = train(tmp_path / "job", splits, spec_of(epochs=5))
    assert result.model_path == job.folder / "model.onnx"
    assert result.signature.classes == ("ash", "birch", "cedar")
    names = ("accuracy", "macro_f1", "log_loss")
    assert set(result.metrics) == {f"{s}_{n}" for s in ("validation", "test") for n in names}
    assert result.metrics["test_accuracy"] == 1
    assert result.task == "classification"
    assert len(result.code_digest) == 64
    session = onnxruntime.InferenceSession(result.model_path.read_bytes())
    labels, _ = session.run(None, {"input": splits.test.frame.numbers})
    np.testing.assert_array_equal(labels, splits.test.y)


def test_what_a_job_hears(tmp_path: Path) -> None:
    """Every epoch reports loss and validation figures; progress rises to 1."""
    job, result = train(tmp_path, clouds(tmp_path), spec_of(epochs=4))
    epochs = [labels["epoch"] for _, labels in job.figures if labels]
    assert epochs == [1, 2, 3, 4]
    assert {"train_loss", "validation_accuracy"} <= set(job.figures[0][0])
    assert job.figures[-1] == (result.metrics, {})
    assert job.fractions == sorted(job.fractions)
    assert job.fractions[-1] == 1
    assert "epoch 4/4" in job.text


@pytest.mark.parametrize("recipe", ["mlp", "linear"])
@pytest.mark.parametrize("optimizer", ["gd", "sgd", "adam"])
def test_every_recipe_and_optimizer_learns(tmp_path: Path, recipe: str, optimizer: str) -> None:
    """Each optimizer at its default rate separates clouds of points with each recipe."""
    splits = clouds(tmp_path, label="number")
    spec = spec_of(recipe=recipe, optimizer=optimizer, epochs=20)
    _, result = train(tmp_path / "job", splits, spec)
    assert result.metrics["validation_accuracy"] >= 0.95
    assert splits.classes == (0, 10, 20)


def test_regression_gives_values_in_the_targets_own_unit(tmp_path: Path) -> None:
    """A regressor beats the mean and its outputs are not standardised."""
    splits = diabetes(tmp_path)
    _, result = train(tmp_path / "job", splits, spec_of(task="regression", epochs=20))
    assert result.metrics["test_r2"] > 0.3
    assert result.signature.classes is None
    session = onnxruntime.InferenceSession(result.model_path.read_bytes())
    (values,) = session.run(None, {"input": splits.test.frame.numbers})
    assert values.shape == splits.test.y.shape
    assert abs(values.mean() - splits.test.y.mean()) < 20
    found = for_task("regression")(values, splits.test.y)
    assert found["r2"] == pytest.approx(result.metrics["test_r2"], abs=1e-4)


def test_the_same_spec_gives_the_same_weights(tmp_path: Path) -> None:
    """Two runs of one spec agree bit for bit; another seed does not."""
    splits = clouds(tmp_path)
    first, _ = train(tmp_path / "a", splits, spec_of(epochs=3))
    second, _ = train(tmp_path / "b", splits, spec_of(epochs=3))
    assert_same(weights(first), weights(second))
    assert first.folder.joinpath("model.onnx").read_bytes() == (
        second.folder.joinpath("model.onnx").read_bytes()
    )
    other, _ = train(tmp_path / "c", splits, spec_of(epochs=3, seed=1))
    assert not torch.equal(weights(first)["model.0.weight"], weights(other)["model.0.weight"])


KILLED = {
    "epochs": 12,
    "checkpoint_seconds": 0,
    "batch_size": 128,
    "config": {"hidden": [128, 64], "dropout": 0.2},
}
CHILD = f"""
import os, signal, sys
from pathlib import Path
from helpers_jobs import RecordedJob
from helpers_tables import clouds
from meuse.evaluate.metrics import for_task
from meuse.train.run import fit
from meuse.train.spec import TrainSpec

folder = Path(sys.argv[1])
splits = clouds(folder, 600)
spec = TrainSpec.from_dict({{"model_name": "m", "data": "d", **{KILLED!r}}})
class Job(RecordedJob):
    def paused(self):
        if self.figures and self.figures[-1][1]["epoch"] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

job = Job(folder / "job")
fit(job, splits, spec, for_task(splits.task))
"""


def child(folder: Path) -> int:
    """The exit status of a process of its own that trains in `folder`, as a job child would, and
    dies on its way."""
    here = Path(__file__).parent.parent
    paths = [str(here), str(here.parent / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", CHILD, str(folder)]
    return subprocess.run(command, env=environment, check=False).returncode


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL after some checkpoints, start again: every tensor equals that of an unbroken run."""
    assert child(tmp_path) == -signal.SIGKILL
    checkpoint = tmp_path / "job" / "checkpoint.safetensors"
    before = load_file(checkpoint)

    resumed, _ = train(tmp_path / "job", clouds(tmp_path, 600), spec_of(**KILLED))
    assert "going on after epoch" in resumed.text
    assert not torch.equal(before["model.0.weight"], load_file(checkpoint)["model.0.weight"])
    whole, result = train(tmp_path / "whole", clouds(tmp_path, 600), spec_of(**KILLED))
    assert_same(load_file(checkpoint), weights(whole))
    assert (tmp_path / "job" / "model.onnx").read_bytes() == result.model_path.read_bytes()


def test_a_finished_run_only_exports_again(tmp_path: Path) -> None:
    """A run killed after its last epoch trains nothing twice and gives the same result."""
    splits = clouds(tmp_path)
    _, first = train(tmp_path, splits, spec_of(epochs=3))
    job, second = train(tmp_path, splits, spec_of(epochs=3))
    assert first == second
    assert "epoch 3/3" not in job.text


def test_the_checkpoint_of_another_spec_is_ignored(tmp_path: Path) -> None:
    """A checkpoint of another spec or other data is left aside with a log line."""
    splits = clouds(tmp_path)
    train(tmp_path, splits, spec_of(epochs=2))
    job, _ = train(tmp_path, splits, spec_of(epochs=3))
    assert "another spec" in job.text
    assert "epoch 1/3" in job.text
    changed = dataclasses.replace(
        splits,
        train=Examples(
            Frame.of_numbers(splits.train.frame.numbers + 1, splits.train.frame.names),
            splits.train.y,
        ),
    )
    job, _ = train(tmp_path, changed, spec_of(epochs=3))
    assert "another spec" in job.text


def test_divergence_names_the_learning_rate(tmp_path: Path) -> None:
    """A loss that is no longer finite ends the run with a hint to a smaller rate."""
    with pytest.raises(MeuseError) as caught:
        train(tmp_path, diabetes(tmp_path), spec_of(optimizer="SGD", learning_rate="1000"))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "learning_rate")
    assert "below 1000" in str(caught.value.hint)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_test_rows_without_finite_figures_are_an_error(tmp_path: Path, task: str) -> None:
    """Extreme rows in the test split alone end the run and name the data: no NaN in metrics."""
    splits = clouds(tmp_path) if task == "classification" else diabetes(tmp_path)
    extreme = splits.test.frame.numbers.copy()
    extreme[0] = np.inf  # what 3e38 becomes behind a feature that hardly varies
    splits = dataclasses.replace(
        splits, test=Examples(Frame.of_numbers(extreme, splits.test.frame.names), splits.test.y)
    )
    job = RecordedJob(tmp_path / "job")
    with pytest.raises(MeuseError) as caught:
        fit(job, splits, spec_of(epochs=2), for_task(task))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
    assert "extreme values" in str(caught.value.hint)
    assert all(np.isfinite(list(figures.values())).all() for figures, _ in job.figures)
    assert not (tmp_path / "job" / "model.onnx").exists()


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    """The exported network is that of the first epoch with the highest validation score."""
    splits = clouds(tmp_path)
    job, result = train(tmp_path / "a", splits, spec_of(epochs=8))
    scores = [f["validation_accuracy"] for f, labels in job.figures if labels]
    best = scores.index(max(scores)) + 1
    assert best < 8  # the clouds are easy: several epochs are equally good
    assert f"kept epoch {best} of 8" in job.text
    assert result.metrics["validation_accuracy"] == max(scores)
    short, other = train(tmp_path / "b", splits, spec_of(epochs=best))
    assert result.model_path.read_bytes() == other.model_path.read_bytes()
    name = "0.weight"
    assert torch.equal(weights(job)[f"best.{name}"], weights(short)[f"model.{name}"])
    assert not torch.equal(weights(job)[f"best.{name}"], weights(job)[f"model.{name}"])
