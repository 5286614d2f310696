"""The training loop on arrays of real data, killed, paused and resumed for real."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from helpers_arrays import clouds, diabetes, digits
from helpers_jobs import RecordedJob
from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Metric, Paused
from meuse.evaluate.metrics import for_task
from meuse.train.loop import Arrays, Trained, run, scores_of
from meuse.train.options import EarlyStopping, LoopOptions, Schedule
from meuse.train.trouble import check_end

OPTIMIZERS = ("gd", "sgd", "rmsprop", "adagrad", "adam", "adamw")


def mlp(inputs: int, outputs: int, dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(inputs, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(32, outputs),
    )


def train(
    job: RecordedJob,
    parts: tuple[Arrays, Arrays],
    task: str = "classification",
    network: nn.Module | None = None,
    **options: Any,
) -> tuple[Trained, dict[str, torch.Tensor]]:
    """What a run found, and the weights it kept."""
    outputs = int(parts[0].y.max()) + 1 if task == "classification" else 1
    network = network or mlp(parts[0].x.shape[1], outputs)
    found = run(job, network, *parts, task, LoopOptions(**options), metric_of(task), "d")
    return found, dict(network.state_dict())


def metric_of(task: str) -> Metric:
    """The task's metric, of scores [n, k]."""
    figures = for_task(task)
    return figures if task != "regression" else lambda scores, y: figures(scores[:, 0], y)


def assert_same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_what_a_run_leaves(tmp_path: Path) -> None:
    """The best epoch's figures and weights, a history, and reports that agree with them."""
    job = RecordedJob(tmp_path)
    parts = digits()
    network = mlp(64, 10)
    found, weights = train(job, parts, network=network, epochs=6, learning_rate=0.01)
    assert found.epochs == 6
    assert len(found.history) == 6
    scores = [row["validation_accuracy"] for row in found.history]
    assert found.best_epoch == scores.index(max(scores)) + 1
    assert found.figures["accuracy"] == max(scores) > 0.9
    assert found.figures["loss"] == pytest.approx(found.figures["log_loss"], abs=1e-5)
    assert job.figures == [(dict(row), {"epoch": i + 1}) for i, row in enumerate(found.history)]
    assert "epoch 6/6" in job.text
    assert "fp32 on" in job.text
    figures = for_task("classification")(scores_of(network, parts[1].x), parts[1].y)
    assert figures["accuracy"] == max(scores)
    kept = load_file(job.checkpoint)
    assert_same(weights, {n[5:]: t for n, t in kept.items() if n.startswith("best.")})


def test_progress_has_rate_and_time_left(tmp_path: Path) -> None:
    """Fractions rise, and each comes with rows per second, seconds left and where it is."""
    job = RecordedJob(tmp_path)
    train(job, clouds(), epochs=3, batch_size=16, checkpoint_seconds=0.0)
    assert job.fractions == sorted(job.fractions)
    assert 0 < job.fractions[0] < 0.99
    assert job.fractions[-1] == pytest.approx(0.99)
    rate, left, note = job.told[1]
    assert rate is not None
    assert rate > 0
    assert left is not None
    assert left >= 0
    assert note == "epoch 1/3, batch 2/6"


def test_reports_come_a_few_times_a_second_at_most(tmp_path: Path) -> None:
    """However short the steps are."""
    job = RecordedJob(tmp_path)
    began = time.monotonic()
    train(job, digits(), epochs=12, batch_size=8, checkpoint_seconds=30.0)
    assert len(job.fractions) <= (time.monotonic() - began) / 0.5 + 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns(tmp_path: Path, optimizer: str) -> None:
    """Each separates clouds of points."""
    rate = {"gd": 0.5, "adagrad": 0.1}.get(optimizer, 0.01)
    options = {"optimizer": optimizer, "learning_rate": rate, "epochs": 20}
    found, _ = train(RecordedJob(tmp_path), clouds(), **options)
    assert found.figures["accuracy"] >= 0.95


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "quantile"])
def test_every_loss_of_a_regression_learns(tmp_path: Path, loss: str) -> None:
    """And what is kept is judged by the loss where R² would judge something else."""
    found, _ = train(RecordedJob(tmp_path), diabetes(), "regression", loss=loss, epochs=15)
    losses = [row["validation_loss"] for row in found.history]
    assert min(losses) < losses[0]
    assert found.figures["r2"] > 0.2
    if loss != "mse":
        assert found.best_epoch == losses.index(min(losses)) + 1


def test_the_same_options_give_the_same_weights(tmp_path: Path) -> None:
    """Two runs agree bit for bit; another seed does not."""
    first, left = train(RecordedJob(tmp_path / "a"), clouds(), epochs=3)
    second, right = train(RecordedJob(tmp_path / "b"), clouds(), epochs=3)
    assert_same(left, right)
    assert first == second
    _, other = train(RecordedJob(tmp_path / "c"), clouds(), epochs=3, seed=1)
    assert not torch.equal(left["0.weight"], other["0.weight"])


# Waits for lines "folder optimizer" and trains each in a process of its own. Forking from one
# process that has imported everything saves the seconds that every import would take.
NURSERY = """
import os, sys
from pathlib import Path
from safetensors.torch import save_file
from helpers_arrays import digits
from helpers_jobs import RecordedJob
from meuse.evaluate.metrics import for_task
from meuse.train import optimizers
from meuse.train.loop import run
from meuse.train.options import EarlyStopping, LoopOptions, Schedule
sys.path.insert(0, sys.argv[1])
from test_loop import mlp

parts = digits()
optimizers.make(LoopOptions(), mlp(64, 10))  # the first optimizer of a process is slow

def train(folder, optimizer):
    options = LoopOptions(
        optimizer=optimizer, learning_rate=0.01, epochs=12, batch_size=16, accumulate=3,
        clip_norm=1.0, schedule=Schedule("cosine", warmup_epochs=1.5), class_weights="balanced",
        early_stopping=EarlyStopping(10), checkpoint_seconds=0.02, weight_decay=0.001,
    )
    job, network = RecordedJob(folder), mlp(64, 10)
    run(job, network, *parts, "classification", options, for_task("classification"), "d")
    save_file(network.state_dict(), folder / "final.safetensors")
    (folder / "log").write_text(job.text)

print("ready", flush=True)
for line in sys.stdin:
    folder, optimizer = line.split()
    child = os.fork()
    if child == 0:
        train(Path(folder), optimizer)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Training processes that can be killed."""

    def __init__(self) -> None:
        here = Path(__file__).parent.parent
        paths = [str(here), str(here.parent / "src"), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(here / "train")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, folder: Path, optimizer: str) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder} {optimizer}\n")
        self.process.stdin.flush()
        return int(self.line())

    def exit_code(self) -> int:
        """Of the process that was started last; waits for its end."""
        return int(self.line())


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    found = Nursery()
    with found.process:
        yield found
        assert found.process.stdin is not None
        found.process.stdin.close()


def where(checkpoint: Path) -> tuple[int, int]:
    """Finished epochs and batches of a checkpoint."""
    with safe_open(checkpoint, framework="pt") as file:
        said = msgspec.json.decode(file.metadata()["meuse.train"])["progress"]
    return said["epoch"], said["batch"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_run_goes_on_to_the_same_weights(
    tmp_path: Path, nursery: Nursery, optimizer: str
) -> None:
    """SIGKILL three times wherever it strikes, start again: the final weights are byte for byte
    those of an unbroken run."""
    dice = random.Random(optimizer)
    folder, places = tmp_path / "killed", []
    for _ in range(3):
        written = checkpoint_time(folder)
        pid = nursery.start(folder, optimizer)
        while checkpoint_time(folder) == written:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        assert nursery.exit_code() == -signal.SIGKILL
        places.append(where(folder / "checkpoint.safetensors"))
    assert places == sorted(places)
    assert any(batch for _, batch in places), "no checkpoint within an epoch"
    nursery.start(folder, optimizer)
    assert nursery.exit_code() == 0
    assert "going on after epoch" in (folder / "log").read_text()
    nursery.start(tmp_path / "whole", optimizer)
    assert nursery.exit_code() == 0
    left, right = (tmp_path / name / "final.safetensors" for name in ("killed", "whole"))
    assert left.read_bytes() == right.read_bytes()


def checkpoint_time(folder: Path) -> int:
    path = folder / "checkpoint.safetensors"
    return path.stat().st_mtime_ns if path.exists() else 0


class Pausing(RecordedJob):
    """Asks for a pause after so many looks."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder)
        self.after = after

    def paused(self) -> bool:
        self.after -= 1
        return self.after == 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_paused_run_goes_on_exactly(tmp_path: Path, optimizer: str) -> None:
    """Every optimizer's memory survives, after an update in the middle of an epoch."""
    options = {"optimizer": optimizer, "epochs": 4, "batch_size": 16, "momentum": 0.5}
    options |= {"schedule": "one_cycle", "clip_norm": 0.5, "checkpoint_seconds": 0.0}
    with pytest.raises(Paused):
        train(Pausing(tmp_path / "a", 8 if optimizer != "gd" else 3), clouds(), **options)
    assert where(tmp_path / "a" / "checkpoint.safetensors")[0] == 1
    job = RecordedJob(tmp_path / "a")
    first, left = train(job, clouds(), **options)
    assert "going on after epoch 1 of 4" in job.text
    second, right = train(RecordedJob(tmp_path / "b"), clouds(), **options)
    assert_same(left, right)
    assert first == second


class Projected(nn.Module):
    """A network beside a layer of its objective's own."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(2, 3)
        self.project = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.network(x)
        return scores

    def objective(self, x: torch.Tensor, scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Targets are [class | a value to be met by the projection]; of features too."""
        labels, value = y[:, 0].long(), y[:, 1]
        near = nn.functional.mse_loss(self.project(scores)[:, 0], value + x.sum(1))
        return nn.functional.cross_entropy(scores, labels) + near


def test_an_objective_replaces_the_loss(tmp_path: Path) -> None:
    """It gets features, scores and targets of any width; what it trains itself is kept, and a
    run that was paused goes on to the same weights. Class weights are its own business."""
    rows, validation = clouds()
    packed = Arrays(rows.x, np.stack([rows.y, 0.5 * rows.y], 1).astype(np.float32))
    options = LoopOptions(epochs=4, batch_size=16, checkpoint_seconds=0.0, class_weights="balanced")

    def go(job: RecordedJob) -> tuple[Trained, dict[str, torch.Tensor]]:
        network, metric = Projected(), metric_of("classification")
        task = "classification"
        found = run(job, network, packed, validation, task, options, metric, "d", network.objective)
        return found, dict(network.state_dict())

    with pytest.raises(Paused):
        go(Pausing(tmp_path / "a", 8))
    job = RecordedJob(tmp_path / "a")
    first, left = go(job)
    assert "going on after epoch 1 of 4" in job.text
    second, right = go(RecordedJob(tmp_path / "b"))
    assert_same(left, right)
    assert first == second
    assert not torch.equal(left["project.weight"], Projected().state_dict()["project.weight"])
    assert first.figures["accuracy"] > 0.8
    # Validation is judged by the task's loss, not by the objective.
    assert first.figures["loss"] == pytest.approx(first.figures["log_loss"], abs=1e-5)


def test_an_objective_that_is_the_loss_changes_nothing(tmp_path: Path) -> None:
    """The weights are bit for bit those of a run without."""
    _, left = train(RecordedJob(tmp_path / "a"), clouds(), epochs=2)
    network, metric = mlp(2, 3), metric_of("classification")
    run(
        RecordedJob(tmp_path / "b"), network, *clouds(), "classification", LoopOptions(epochs=2),
        metric, "d", lambda x, scores, y: nn.functional.cross_entropy(scores, y),
    )  # fmt: skip
    assert_same(left, dict(network.state_dict()))


def test_a_finished_run_trains_nothing_twice(tmp_path: Path) -> None:
    """A run that was killed after its end gives the same result at once."""
    first, left = train(RecordedJob(tmp_path), clouds(), epochs=3)
    job = RecordedJob(tmp_path)
    second, right = train(job, clouds(), epochs=3)
    assert first == second
    assert_same(left, right)
    assert "epoch 3/3" not in job.text


def test_the_checkpoint_of_other_options_is_ignored(tmp_path: Path) -> None:
    """It is left aside with a log line; how often to keep one makes no difference."""
    train(RecordedJob(tmp_path), clouds(), epochs=2)
    job = RecordedJob(tmp_path)
    train(job, clouds(), epochs=2, checkpoint_seconds=9.0)
    assert "going on" in job.text
    train(job, clouds(), epochs=3)
    assert "another spec" in job.text
    assert "epoch 1/3" in job.text


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_a_damaged_checkpoint_is_ignored(tmp_path: Path, damage: str) -> None:
    """What is not a checkpoint of ours is told and replaced, never trusted."""
    job = RecordedJob(tmp_path)
    if damage == "foreign":
        save_file({"x": torch.zeros(2)}, job.checkpoint)
    else:
        job.checkpoint.write_bytes(b"" if damage == "empty" else b"\x08" + b"\0" * 7 + b"{}")
    train(job, clouds(), epochs=1)
    assert "cannot be read" in job.text
    assert where(job.checkpoint) == (1, 0)


def test_accumulation_is_a_larger_batch(tmp_path: Path) -> None:
    """Four batches of 8 to an update give the weights of batches of 32, a short last one too."""
    options = {"epochs": 2, "optimizer": "sgd"}
    plain = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    _, large = train(
        RecordedJob(tmp_path / "a"), clouds(108), network=plain, batch_size=32, **options
    )
    large = {name: value.clone() for name, value in large.items()}
    plain.load_state_dict(state)
    _, small = train(
        RecordedJob(tmp_path / "b"),
        clouds(108),
        network=plain,
        batch_size=8,
        accumulate=4,
        **options,
    )
    for name, value in large.items():
        torch.testing.assert_close(value, small[name], rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    """Plain gradient descent moves no farther than rate times norm."""
    network = nn.Linear(2, 3)
    before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    options = {"optimizer": "gd", "learning_rate": 1.0, "clip_norm": 0.01, "epochs": 1}
    train(RecordedJob(tmp_path), clouds(), network=network, **options)
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_the_rate_follows_the_schedule(tmp_path: Path) -> None:
    """The history has the rate of each epoch's last update."""
    plan = Schedule("step", step_epochs=2, factor=0.1)
    found, _ = train(RecordedJob(tmp_path), clouds(), epochs=5, schedule=plan, learning_rate=0.1)
    rates = [row["learning_rate"] for row in found.history]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


def test_early_stopping(tmp_path: Path) -> None:
    """No improvement for `patience` epochs ends the run; what was best is kept."""
    job = RecordedJob(tmp_path)
    options = {"epochs": 200, "monitor": "loss", "optimizer": "sgd", "learning_rate": 0.2}
    found, _ = train(
        job, diabetes(), "regression", early_stopping=EarlyStopping(4, 0.001), **options
    )
    assert found.stopped_early
    assert found.epochs < 200
    losses = [row["validation_loss"] for row in found.history]
    assert found.best_epoch == losses.index(min(losses)) + 1
    assert min(losses[:-4]) <= min(losses[-4:]) + 0.001
    assert "no improvement since" in job.text


def test_class_weights_find_the_rare_class(tmp_path: Path) -> None:
    """With one row in twenty of a class, balanced weights find more of it."""
    random_ = np.random.default_rng(0)
    y = (np.arange(2000) % 20 == 0).astype(np.int64)
    x = (random_.normal(size=(2000, 2)) + y[:, None]).astype(np.float32)
    recall = {}
    for weights in (None, "balanced"):
        network = nn.Linear(2, 2)
        parts = (Arrays(x[:1000], y[:1000]), Arrays(x[1000:], y[1000:]))
        train(
            RecordedJob(tmp_path / str(weights)),
            parts,
            network=network,
            class_weights=weights,
            learning_rate=0.05,
            monitor="loss",
            epochs=10,
        )
        found = scores_of(network, x).argmax(1)
        recall[weights] = (found[y == 1] == 1).mean()
    assert recall["balanced"] > recall[None] + 0.4


def test_a_learning_rate_too_high_is_said(tmp_path: Path) -> None:
    """A loss that overflows ends the run; the step and the rate are named."""
    with pytest.raises(MeuseError) as caught:
        train(
            RecordedJob(tmp_path), diabetes(), "regression", optimizer="sgd", learning_rate=1000.0,
            network=nn.Linear(10, 1),
        )  # fmt: skip
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "learning_rate")
    assert "diverged" in caught.value.message
    assert "step" in caught.value.message
    assert "below 1000" in str(caught.value.hint)


def test_a_loss_that_explodes_without_overflow_is_divergence(tmp_path: Path) -> None:
    """Adam's steps are bounded, so its loss grows to large numbers and never to infinity."""
    with pytest.raises(MeuseError, match="diverged: the loss is") as caught:
        train(
            RecordedJob(tmp_path), digits(), learning_rate=300.0, epochs=3, network=mlp(64, 10, 0.0)
        )
    assert caught.value.field == "learning_rate"


def test_a_network_that_starts_at_no_loss_may_end_at_some() -> None:
    """One that fits its data and is pruned and trained on: thirty times of nearly nothing is no
    divergence, a loss as of guessing is."""
    check_end([{"train_loss": 0.0151}], 0.000447, 0.001)
    with pytest.raises(MeuseError, match="diverged"):
        check_end([{"train_loss": 1.5}], 0.000447, 0.001)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["features", "target"])
def test_values_that_are_no_numbers_are_found(tmp_path: Path, bad: float, part: str) -> None:
    """The data is named, not the learning rate."""
    train_, validation = diabetes()
    x, y = train_.x.copy(), train_.y.copy()
    if part == "features":
        x[7, 3] = bad
    else:
        y[7] = bad
    with pytest.raises(MeuseError, match=part) as caught:
        train(RecordedJob(tmp_path), (Arrays(x, y), validation), "regression")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
    assert "step" in caught.value.message
    if part == "features":
        assert "column 3" in caught.value.message


class Overflowing(nn.Module):
    """Its second layer has no number to give."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.second = Exponential()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.second(self.first(x))
        return scores


class Exponential(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * x * 1e30).exp()


def test_the_layer_that_overflows_is_named(tmp_path: Path) -> None:
    """With sound data and sound weights."""
    with pytest.raises(MeuseError, match="layer second overflows"):
        train(RecordedJob(tmp_path), clouds(), network=Overflowing())


def test_figures_that_are_not_finite_are_divergence(tmp_path: Path) -> None:
    """Finite outputs are not enough: a metric must be a number too."""

    def metric(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return {"accuracy": 1.0, "log_loss": float("inf")}

    with pytest.raises(MeuseError) as caught:
        run(
            RecordedJob(tmp_path), mlp(2, 3), *clouds(), "classification", LoopOptions(epochs=1),
            metric, "d",
        )  # fmt: skip
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "learning_rate")


class Hungry(nn.Module):
    """Wants more memory than there is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            torch.empty(2**55)
        scores: torch.Tensor = self.layer(x)
        return scores


def test_no_memory_is_said_with_the_batch_size(tmp_path: Path) -> None:
    """An allocation that fails is an error of the job, with a hint."""
    with pytest.raises(MeuseError) as caught:
        train(RecordedJob(tmp_path), clouds(), network=Hungry(), batch_size=64)
    assert (caught.value.code, caught.value.field) == (Code.TOO_LARGE, "batch_size")
    assert "32" in str(caught.value.hint)


def test_an_unknown_figure_is_refused(tmp_path: Path) -> None:
    """What is to be monitored must be among the metric's figures."""
    with pytest.raises(MeuseError, match="auc") as caught:
        train(RecordedJob(tmp_path), clouds(), monitor="auc", epochs=1)
    assert caught.value.field == "monitor"
    assert "accuracy" in str(caught.value.hint)


def test_labels(tmp_path: Path) -> None:
    """Several labels a row: a target of zeros and ones, a loss for each."""
    parts = digits()
    many = [
        Arrays(p.x, np.stack([p.y % 2, p.y >= 5, p.y == 0], 1).astype(np.float32)) for p in parts
    ]

    def metric(outputs: np.ndarray, y: np.ndarray) -> dict[str, float]:
        return {"right": float(((outputs > 0) == (y > 0)).mean())}

    found = run(
        RecordedJob(tmp_path), mlp(64, 3), *many, "multilabel",
        LoopOptions(epochs=8, learning_rate=0.01, class_weights="balanced"), metric, "d",
    )  # fmt: skip
    assert found.figures["right"] > 0.9
