"""Losses against their formulas, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from meuse.core.errors import Code, MeuseError
from meuse.train import losses
from meuse.train.options import Loss

RANDOM = np.random.default_rng(3)
LOGITS = RANDOM.normal(size=(7, 4)).astype(np.float32) * 2
CLASSES = np.array([0, 1, 2, 3, 3, 3, 1])
MANY = RANDOM.integers(0, 2, (7, 4)).astype(np.float32)
VALUES = RANDOM.normal(size=(7, 1)).astype(np.float32) * 3
TARGETS = RANDOM.normal(size=7).astype(np.float32)


def value(loss: Loss, task: str, outputs: np.ndarray, y: np.ndarray, weights=None) -> float:
    given = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    function = losses.make(loss, task, given)
    return float(function(torch.from_numpy(outputs), torch.from_numpy(y)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def bce(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -(y * np.log(sigmoid(logits)) + (1 - y) * np.log(1 - sigmoid(logits)))


ERROR = VALUES[:, 0] - TARGETS
FORMULAS = {
    "mse": (ERROR**2).mean(),
    "mae": np.abs(ERROR).mean(),
    "huber": np.where(np.abs(ERROR) < 1.5, ERROR**2 / 2, 1.5 * (np.abs(ERROR) - 0.75)).mean(),
    "quantile": np.where(ERROR < 0, 0.9 * -ERROR, 0.1 * ERROR).mean(),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_regression(name: str) -> None:
    """Outputs [n, 1] against targets [n]."""
    found = value(Loss(name, delta=1.5, quantile=0.9), "regression", VALUES, TARGETS)
    assert found == pytest.approx(FORMULAS[name], rel=1e-5)


def test_cross_entropy_with_smoothing() -> None:
    """A share of the target goes to all classes alike."""
    wanted = np.full((7, 4), 0.1 / 4)
    wanted[np.arange(7), CLASSES] += 0.9
    formula = -(wanted * log_softmax(LOGITS)).sum(1).mean()
    loss = Loss("cross_entropy", smoothing=0.1)
    assert value(loss, "classification", LOGITS, CLASSES) == pytest.approx(formula, rel=1e-5)


def test_focal() -> None:
    """Rows that are nearly right count little; with many classes and with many labels."""
    p = np.exp(log_softmax(LOGITS))[np.arange(7), CLASSES]
    formula = (-((1 - p) ** 3) * np.log(p)).mean()
    loss = Loss("focal", gamma=3)
    assert value(loss, "classification", LOGITS, CLASSES) == pytest.approx(formula, rel=1e-5)
    p = np.where(MANY == 1, sigmoid(LOGITS), 1 - sigmoid(LOGITS))
    formula = (-((1 - p) ** 3) * np.log(p)).mean()
    assert value(loss, "multilabel", LOGITS, MANY) == pytest.approx(formula, rel=1e-4)


def test_bce_of_two_classes_is_their_cross_entropy() -> None:
    """So the softmax that answers requests gives the probability that was trained."""
    two, y = LOGITS[:, :2], CLASSES % 2
    wanted = value(Loss("cross_entropy"), "classification", two, y)
    assert value(Loss("bce"), "classification", two, y) == pytest.approx(wanted, rel=1e-5)
    smooth = value(Loss("cross_entropy", smoothing=0.2), "classification", two, y)
    found = value(Loss("bce", smoothing=0.2), "classification", two, y)
    assert found == pytest.approx(smooth, rel=1e-5)


def test_bce_of_many_classes_and_of_labels() -> None:
    """Each class against the rest."""
    hot = np.eye(4, dtype=np.float32)[CLASSES]
    found = value(Loss("bce"), "classification", LOGITS, CLASSES)
    assert found == pytest.approx(bce(LOGITS, hot).mean(), rel=1e-4)
    found = value(Loss("bce"), "multilabel", LOGITS, MANY)
    assert found == pytest.approx(bce(LOGITS, MANY).mean(), rel=1e-4)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "bce"])
def test_class_weights_multiply_rows(name: str) -> None:
    """The weighted loss is the mean of each row's loss times its class's weight."""
    weights = [1.0, 2.0, 0.0, 0.5]
    rows = [
        value(Loss(name), "classification", LOGITS[i : i + 1], CLASSES[i : i + 1]) for i in range(7)
    ]
    wanted = np.mean([weights[c] * row for c, row in zip(CLASSES, rows, strict=True)])
    found = value(Loss(name), "classification", LOGITS, CLASSES, weights)
    assert found == pytest.approx(wanted, rel=1e-5)
    even = value(Loss(name), "classification", LOGITS, CLASSES, [1.0] * 4)
    assert even == pytest.approx(value(Loss(name), "classification", LOGITS, CLASSES), rel=1e-5)


@pytest.mark.parametrize("name", ["focal", "bce"])
def test_label_weights_multiply_positives(name: str) -> None:
    """With labels, a weight of two counts every positive twice and no negative."""
    ones, zeros = np.ones((7, 4), np.float32), np.zeros((7, 4), np.float32)
    for y, times in ((ones, 2), (zeros, 1)):
        plain = value(Loss(name), "multilabel", LOGITS, y)
        assert value(Loss(name), "multilabel", LOGITS, y, [2.0] * 4) == pytest.approx(
            times * plain, rel=1e-5
        )


def test_balanced_weights() -> None:
    """Classes weigh against their numbers; the mean over the rows is one."""
    found = losses.class_weights("balanced", CLASSES, "classification", 4)
    assert found is not None
    np.testing.assert_allclose(found, [7 / 4, 7 / 8, 7 / 4, 7 / 12], rtol=1e-6)
    assert float(found[torch.from_numpy(CLASSES)].mean()) == pytest.approx(1)
    unseen = losses.class_weights("balanced", CLASSES, "classification", 5)
    assert unseen is not None
    assert unseen[4] == 0
    labels = losses.class_weights("balanced", MANY, "multilabel", 4)
    assert labels is not None
    np.testing.assert_allclose(labels, (7 - MANY.sum(0)) / MANY.sum(0), rtol=1e-6)
    assert losses.class_weights(None, CLASSES, "classification", 4) is None


@pytest.mark.parametrize(
    ("task", "given", "told"),
    [("regression", "balanced", "no classes"), ("classification", (1.0, 2.0), "2 weights for 4")],
)
def test_weights_that_do_not_fit(task: str, given: object, told: str) -> None:
    """A regression has no classes; a list must have one weight for each."""
    with pytest.raises(MeuseError, match=told) as caught:
        losses.class_weights(given, CLASSES, task, 4)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "class_weights")


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "bce"])
def test_certain_rows_give_finite_gradients(name: str) -> None:
    """Logits far apart, right or wrong, end in no NaN."""
    logits = torch.tensor([[80.0, -80.0, 0.0], [-80.0, 80.0, 0.0]], requires_grad=True)
    loss = losses.make(Loss(name), "classification")(logits, torch.tensor([0, 0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
