"""Cross-validation on real data: what it reports, and how it goes on after SIGKILL."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers_jobs import RecordedJob
from helpers_tables import clouds, diabetes
from meuse.core.errors import MeuseError
from meuse.core.ports import Paused
from meuse.data.split_spec import SplitSpec
from meuse.data.splits import load_splits
from meuse.evaluate.metrics import for_task
from meuse.train.cv import cross_validate, fit_with_folds, spread
from meuse.train.folds import folds_of, pool_of, split_by
from meuse.train.run import fit
from meuse.train.spec import TrainSpec

LONG: dict[str, Any] = {"epochs": 8, "cv": 3, "checkpoint_seconds": 0, "batch_size": 128}
CHILD = f"""
import os, signal, sys
from pathlib import Path
from helpers_jobs import RecordedJob
from helpers_tables import clouds
from meuse.evaluate.metrics import for_task
from meuse.train.cv import fit_with_folds
from meuse.train.spec import TrainSpec

folder = Path(sys.argv[1])
spec = TrainSpec.from_dict({{"model_name": "m", "data": "d", **{LONG!r}}})
class Job(RecordedJob):
    def log(self, message, level="info"):
        super().log(message, level)
        if message.startswith("fold-2: epoch 3/"):
            os.kill(os.getpid(), signal.SIGKILL)

job = Job(folder / "job")
fit_with_folds(job, clouds(folder, 600), spec, for_task("classification"))
"""


def spec_of(**fields: Any) -> TrainSpec:
    return TrainSpec.from_dict({"model_name": "m", "data": "d", **fields})


def lasting(report: dict[str, Any]) -> dict[str, Any]:
    """Without what the clock says."""
    folds = [{**fold, "seconds": 0} for fold in report["cv"]["folds"]]
    return {**report["cv"], "folds": folds}


def child(folder: Path) -> int:
    """The exit status of a process of its own, which dies in the second fold."""
    here = Path(__file__).parent.parent
    paths = [str(here), str(here.parent / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", CHILD, str(folder)]
    return subprocess.run(command, env=environment, check=False).returncode


def test_folds_killed_half_way_are_not_repeated(tmp_path: Path) -> None:
    """SIGKILL in the second fold: the first is not trained again, the second goes on from its
    checkpoint, and report and model are those of an unbroken run."""
    whole, job = tmp_path / "whole", tmp_path / "killed" / "job"
    whole.mkdir()
    job.parent.mkdir()
    assert child(job.parent) == -signal.SIGKILL
    assert (job / "checkpoint-fold-1.json").exists()
    assert not (job / "checkpoint-fold-2.json").exists()

    resumed = RecordedJob(job)
    _, said = fit_with_folds(
        resumed, clouds(job.parent, 600), spec_of(**LONG), for_task("classification")
    )
    assert "fold-1: epoch" not in resumed.text
    assert "fold-2: going on after epoch" in resumed.text
    assert "fold-3: epoch 1/8" in resumed.text
    unbroken = RecordedJob(whole / "job")
    result, report = fit_with_folds(
        unbroken, clouds(whole, 600), spec_of(**LONG), for_task("classification")
    )
    assert lasting(said) == lasting(report)
    assert (job / "model.onnx").read_bytes() == result.model_path.read_bytes()
    assert unbroken.fractions == sorted(unbroken.fractions)
    assert unbroken.fractions[-1] == 1


def test_the_model_is_that_of_a_training_without_folds(tmp_path: Path) -> None:
    """Folds add figures and change nothing else."""
    splits = diabetes(tmp_path)
    spec = spec_of(task="regression", recipe="linear", epochs=5, cv=4)
    folded, report = fit_with_folds(
        RecordedJob(tmp_path / "a"), splits, spec, for_task("regression")
    )
    plain = fit(RecordedJob(tmp_path / "b"), splits, replace(spec, cv=None), for_task("regression"))
    assert folded.model_path.read_bytes() == plain.model_path.read_bytes()
    assert plain.metrics.items() <= folded.metrics.items()
    found = [fold["figures"]["r2"] for fold in report["cv"]["folds"]]
    assert folded.metrics["cv_r2"] == statistics.fmean(found)
    assert folded.metrics["cv_r2_deviation"] == pytest.approx(np.std(found, ddof=1))
    assert report["cv"]["by"] == "random"


@pytest.mark.parametrize("by", ["group", "time", "stratify"])
def test_folds_keep_to_the_split(tmp_path: Path, by: str) -> None:
    """Groups stay whole and time runs forward in folds as they do in the split."""
    generator = np.random.default_rng(3)
    rows = 200
    key = generator.integers(0, 25, rows)
    path = tmp_path / "data.npz"
    np.savez(path, x=generator.normal(size=(rows, 2)), key=key, value=generator.normal(size=rows))
    splits = load_splits(
        path, "npz", target="value", task="regression", seed=0, split=SplitSpec(by, "key")
    )
    pool = pool_of(splits)
    assert pool.how == {"stratify": "strata"}.get(by, by)
    keys = key[np.concatenate(splits.positions[:2])]
    for fold in folds_of(pool, 4, 0.2, 0):
        parts = split_by(splits, fold)
        of_held, of_others = keys[fold.held], keys[np.concatenate([fold.train, fold.validation])]
        if by == "group":
            assert not set(of_held) & set(of_others)
        elif by == "time":
            assert of_others.max() < of_held.min()
        else:
            assert set(of_others) == set(keys)
        assert len(parts.test) == len(fold.held)


def test_a_fold_that_fails_says_which(tmp_path: Path) -> None:
    """An error names the fold, and keeps its field and hint."""
    spec = spec_of(task="regression", optimizer="sgd", learning_rate=1000, cv=2)
    with pytest.raises(MeuseError, match="fold-1: ") as caught:
        cross_validate(
            RecordedJob(tmp_path / "a"), diabetes(tmp_path), spec, for_task("regression")
        )
    assert caught.value.field == "learning_rate"


def test_a_pause_ends_a_fold_at_once(tmp_path: Path) -> None:
    """The wish to pause reaches the fold that runs, and its checkpoint is kept."""

    class Pausing(RecordedJob):
        def paused(self) -> bool:
            return True

    job = Pausing(tmp_path / "a")
    with pytest.raises(Paused):
        fit_with_folds(job, clouds(tmp_path, 600), spec_of(**LONG), for_task("classification"))
    assert (job.folder / "checkpoint-fold-1.safetensors").exists()


def test_spread() -> None:
    """Mean and sample standard deviation, figure by figure."""
    both = spread([{"a": 1.0, "b": 0.0}, {"a": 3.0, "b": 0.0}])
    assert both == {"mean": {"a": 2.0, "b": 0.0}, "deviation": {"a": 2**0.5, "b": 0.0}}
