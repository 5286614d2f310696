"""The loop of language models: what it says of its validations, and pauses at every safe point."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from helpers_jobs import RecordedJob
from helpers_llama import model
from meuse.core.ports import Paused
from meuse.train import checkpoint
from meuse.train.llm import layout, loop
from meuse.train.llm.examples import Example
from meuse.train.llm.model import Trained, adapted
from meuse.train.options import LoopOptions
from meuse.train.recipes.language import Lora

OPTIONS = LoopOptions(
    optimizer="adamw", learning_rate=0.02, epochs=2, batch_size=2, seed=7,
    checkpoint_seconds=3600.0,
)  # fmt: skip


def example(number: int) -> Example:
    """Ever the same few tokens, from another place on: something that can be learned."""
    tokens = tuple(3 + (number + i) % 11 for i in range(24))
    return Example(number, tokens, tuple(i > 8 for i in range(24)))


def plan(train: int = 6, validation: int = 5, every: int = 2, **options: Any) -> loop.Plan:
    """Three updates an epoch, three passes a validation."""
    return loop.Plan(
        train=[example(i) for i in range(train)],
        validation=[example(100 + i) for i in range(validation)],
        options=msgspec.structs.replace(OPTIONS, **options),
        max_tokens=64,
        packed=False,
        evaluate_every=every,
        threads=1,
        precision="fp32",
        digest="the run",
    )


def small() -> nn.Module:
    """With dropout: a pass too many in training would show."""
    return adapted(model(layers=1), Lora(rank=2, dropout=0.2), 7, "tiny:1")


class Asked(RecordedJob):
    """A job that is to pause when it is asked for the time of this number, from 0."""

    def __init__(self, folder: Path, pauses_at: int | None = None) -> None:
        super().__init__(folder)
        self.pauses_at, self.asked = pauses_at, 0

    def paused(self) -> bool:
        self.is_paused |= self.asked == self.pauses_at
        self.asked += 1
        return self.is_paused


def trained(job: RecordedJob, given: loop.Plan) -> tuple[loop.Progress, dict[str, torch.Tensor]]:
    network = small()
    progress = loop.run(job, network, given)
    return progress, Trained(network).state_dict()


def figures_of(*jobs: RecordedJob) -> list[tuple[dict[str, float], dict[str, Any]]]:
    """In order, without those of time."""
    return [
        ({name: v for name, v in figures.items() if name != "tokens_per_s"}, labels)
        for job in jobs
        for figures, labels in job.figures
    ]


def test_a_pause_at_any_safe_point_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two passes of a validation too, before the first update, in an epoch and at its
    end: weights and figures are those of a run that never paused, bit for bit."""
    monkeypatch.setattr(loop, "LOOK_S", 3600.0)
    given, job = plan(train=4, validation=3, every=1), Asked(tmp_path / "whole")
    whole, kept = trained(job, given)
    assert given.validations == 5
    # Each pass of a validation, each update, each epoch's end, each validation inside an epoch.
    assert job.asked == 5 * 2 + 4 + 2 + 2
    for point in range(job.asked):
        folder = tmp_path / str(point)
        broken, resumed = Asked(folder, point), Asked(folder)
        with pytest.raises(Paused):
            trained(broken, given)
        progress, weights = trained(resumed, given)
        assert weights.keys() == kept.keys()
        for name, value in weights.items():
            assert torch.equal(value, kept[name]), (point, name)
        assert progress.history == whole.history
        assert (progress.best_epoch, progress.before) == (whole.best_epoch, whole.before)
        assert figures_of(broken, resumed) == figures_of(job)


def test_a_validation_says_that_it_runs_and_keeps_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is time for a checkpoint."""
    monkeypatch.setattr(loop, "LOOK_S", 0.0)
    kept, write = [], checkpoint.write

    def seen(path: Path, progress: loop.Progress, *more: Any) -> None:
        kept.append((progress.updates, progress.judged))
        write(path, progress, *more)

    monkeypatch.setattr(checkpoint, "write", seen)
    job = RecordedJob(tmp_path / "job")
    trained(job, plan(checkpoint_seconds=0.0))
    notes = [note for _, _, note in job.told]
    assert notes[:3] == ["epoch 1/2, update 0/6: validating"] * 3
    assert notes.count("epoch 1/2, update 2/6: validating") == 3
    *during, last = kept
    assert len(set(during)) == len(during)
    assert during[0] == (1, 0)
    assert last == (6, 6)


@pytest.mark.parametrize(
    ("train", "validation", "every", "epochs"),
    [
        (6, 5, 2, 2), (6, 5, 3, 2), (6, 5, 1, 2), (5, 3, 4, 3), (6, 5, 0, 2), (6, 5, 100, 1),
        (6, 0, 2, 2),
    ],
)  # fmt: skip
def test_validations_are_counted_before_they_are_made(
    tmp_path: Path, train: int, validation: int, every: int, epochs: int
) -> None:
    job = RecordedJob(tmp_path / "job")
    given = plan(train, validation, every, epochs=epochs)
    trained(job, given)
    made = [labels["step"] for figures, labels in job.figures if "validation_accuracy" in figures]
    assert given.validations == len(made) == len(set(made))


def test_perplexity_is_that_of_the_loss_and_falls(tmp_path: Path) -> None:
    """As transformers computes the loss, with the weights that were kept."""
    job, given, network = RecordedJob(tmp_path / "job"), plan(epochs=4), model()
    progress = loop.run(job, network, given)
    told = [figures for figures, _ in job.figures if "validation_perplexity" in figures]
    assert len(told) == given.validations
    for figures in told:
        expected = math.exp(figures["validation_loss"])
        assert figures["validation_perplexity"] == pytest.approx(expected, rel=1e-12)
    best = progress.best_figures["perplexity"]
    assert best == min(figures["validation_perplexity"] for figures in told[1:])
    assert best < 0.5 * told[0]["validation_perplexity"]
    loss, count = 0.0, 0
    for each in given.validation:
        ids = torch.tensor([each.tokens])
        labels = torch.where(torch.tensor([each.taught]), ids, layout.IGNORED)
        with torch.no_grad():
            loss += float(network(input_ids=ids, labels=labels).loss) * each.answers
        count += each.answers
    assert best == pytest.approx(math.exp(loss / count), rel=1e-4)
