"""The loss of a distillation against the formulas of its paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from meuse.compress.methods.lesson import Labels, Lesson, Told, distance
from meuse.train import losses
from meuse.train.options import Loss

GENERATOR = torch.Generator().manual_seed(3)
OURS, THEIRS = (3 * torch.randn(5, 4, generator=GENERATOR) for _ in range(2))
TASKS = ("classification", "multilabel", "regression")


def softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def gradient(task: str, ours: Tensor, theirs: Tensor, temperature: float) -> tuple[float, Tensor]:
    scores = ours.clone().requires_grad_(True)
    value = distance(task, scores, theirs, temperature)
    (found,) = torch.autograd.grad(value, scores)
    return float(value.detach()), found


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_of_a_classifier(temperature: float) -> None:
    """T² · KL of the softened shares, its gradient T · (q - p), both means over the rows."""
    q, p = (softmax(t.double().numpy() / temperature) for t in (OURS, THEIRS))
    value, found = gradient("classification", OURS, THEIRS, temperature)
    divergence = (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
    assert value == pytest.approx(temperature**2 * divergence, rel=1e-4)
    np.testing.assert_allclose(found.numpy(), temperature * (q - p) / 5, atol=1e-5)


def test_the_factor_keeps_the_gradient_at_high_temperature() -> None:
    """For logits without a mean it comes to (z - v) / k (the paper's equation 4)."""
    ours, theirs = (t - t.mean(dim=1, keepdim=True) for t in (OURS, THEIRS))
    _, found = gradient("classification", ours, theirs, 500.0)
    torch.testing.assert_close(found, (ours - theirs) / 4 / 5, rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_of_labels(temperature: float) -> None:
    """Each label has two outcomes; the mean over labels and rows."""
    q, p = (1 / (1 + np.exp(-t.double().numpy() / temperature)) for t in (OURS, THEIRS))
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    value, found = gradient("multilabel", OURS, THEIRS, temperature)
    assert value == pytest.approx(temperature**2 * each.mean(), rel=1e-3)
    np.testing.assert_allclose(found.numpy(), temperature * (q - p) / 20, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_an_identical_teacher_teaches_nothing(task: str) -> None:
    """Equal scores, and a classifier's up to a constant per row: no loss and no gradient."""
    moved = 7.0 if task == "classification" else 0.0
    value, found = gradient(task, OURS, OURS + moved, 2.0)
    assert value == pytest.approx(0, abs=1e-5)
    assert float(found.abs().max()) < 1e-6


def test_labels_count_where_they_are() -> None:
    """Rows beyond the labelled ones have the teacher's term alone; the whole is a mean."""
    y = torch.tensor([1, 0, 2])
    loss = losses.make(Loss("cross_entropy"), "classification")
    network = nn.Identity()
    lesson = Lesson(
        network, Told(THEIRS), Labels(y, loss), "classification", temperature=2.0, alpha=0.75
    )
    rows = torch.tensor([4, 1, 2])  # the first has no label
    taught = distance("classification", OURS[:3], THEIRS[rows], 2.0)
    own = loss(OURS[1:3], y[1:3]) * 2 / 3
    found = lesson.objective(OURS[:3], OURS[:3], rows)
    torch.testing.assert_close(found, 0.75 * taught + 0.25 * own)
    alone = lesson.objective(OURS[:1], OURS[:1], rows[:1])
    torch.testing.assert_close(alone, 0.75 * distance("classification", OURS[:1], THEIRS[4:], 2.0))
