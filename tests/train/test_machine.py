"""What a run makes of the machine: threads, precision, compilation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers_arrays import Parts, clouds, digits
from helpers_jobs import RecordedJob
from meuse.evaluate.metrics import for_task
from meuse.train import machine
from meuse.train.batches import Arrays, Batches
from meuse.train.loop import Trained, run
from meuse.train.machine import Machine, products_of
from meuse.train.options import LoopOptions


def train(folder: Path, parts: Parts, **options: object) -> tuple[Trained, RecordedJob]:
    job = RecordedJob(folder)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(parts[0].x.shape[1], 16), nn.ReLU(), nn.Linear(16, 10))
    metric = for_task("classification")
    settled = LoopOptions(**options)  # type: ignore[arg-type]
    return run(job, network, *parts, "classification", settled, metric, "d"), job


def test_products_of_a_network() -> None:
    """Every output of a linear or convolutional layer, times what it is the sum of."""
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 25, 7))
    assert products_of(network, torch.zeros(3, 2, 5, 5)) == 3 * (25 * 4 * 18 + 7 * 100)


def test_threads_follow_the_size_of_a_step() -> None:
    """A small step has one thread; a large one as many as there are cores."""
    log: list[str] = []

    def threads(width: int, batch: int) -> int:
        arrays = Arrays(np.zeros((batch, 64), np.float32), np.zeros(batch, np.int64))
        network = nn.Sequential(nn.Linear(64, width), nn.Linear(width, width))
        batches = Batches(arrays, batch, 0, None, shuffle=False)
        tell = lambda message, level="info": log.append(message)  # noqa: E731
        return Machine.choose(network, batches, LoopOptions(), tell).threads

    before = torch.get_num_threads()
    try:
        assert threads(16, 32) == 1
        assert threads(2048, 4096) == len(os.sched_getaffinity(0))
    finally:
        torch.set_num_threads(before)
    assert "on 1 thread;" in log[0]


def test_bf16_only_where_the_processor_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere the run is in fp32 and says so; `auto` is fp32 on a CPU."""
    monkeypatch.setattr(machine, "bf16_is_native", lambda: False)
    found, job = train(tmp_path / "a", clouds(), precision="bf16", epochs=1)
    assert found.precision == "fp32"
    assert ("warning", "this processor has no bfloat16 arithmetic: training in fp32") in job.lines
    monkeypatch.setattr(machine, "bf16_is_native", lambda: True)
    found, job = train(tmp_path / "b", clouds(), epochs=1)
    assert found.precision == "fp32"
    found, job = train(tmp_path / "c", digits(), precision="bf16", epochs=12, learning_rate=0.01)
    assert found.precision == "bf16"
    assert "bf16 on" in job.text
    assert found.figures["accuracy"] > 0.9


def test_no_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile needs g++: without one the run goes on uncompiled, with a warning."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    found, job = train(tmp_path, clouds(), compile=True, epochs=1)
    assert found.epochs == 1
    assert any("needs a C++ compiler" in told for level, told in job.lines if level == "warning")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_steps_learn_alike(tmp_path: Path) -> None:
    """The same losses as without, but for rounding; and said in the log."""
    plain, _ = train(tmp_path / "a", clouds(), epochs=2)
    fast, job = train(tmp_path / "b", clouds(), epochs=2, compile=True)
    assert "compiled" in job.text
    for left, right in zip(plain.history, fast.history, strict=True):
        assert left["train_loss"] == pytest.approx(right["train_loss"], abs=1e-4)
