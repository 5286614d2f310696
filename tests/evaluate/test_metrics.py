"""Figures of outputs against targets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from meuse.core.errors import Code, MeuseError
from meuse.evaluate.metrics import PRIMARY, classification, for_task, multilabel, regression


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(2, 60), classes=st.integers(2, 7), seed=st.integers(0, 10_000))
def test_classification_agrees_with_scikit_learn(rows: int, classes: int, seed: int) -> None:
    """Accuracy, macro F1 and log loss are those of the reference implementation."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, classes)).astype(np.float32) * 5
    targets = generator.integers(0, classes, rows)
    figures = classification(logits, targets)
    predicted = logits.argmax(axis=1)
    exp = np.exp(logits.astype(np.float64))
    probabilities = exp / exp.sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[np.arange(rows), targets]).mean()
    assert figures["accuracy"] == pytest.approx(reference.accuracy_score(targets, predicted))
    assert figures["macro_f1"] == pytest.approx(
        reference.f1_score(targets, predicted, average="macro", zero_division=0)
    )
    assert figures["log_loss"] == pytest.approx(expected)


def test_log_loss_is_finite_for_extreme_logits() -> None:
    """A certain and wrong answer costs its margin, not infinity."""
    figures = classification(np.array([[1e4, 0.0]]), np.array([1]))
    assert figures["log_loss"] == pytest.approx(1e4)


def test_logits_may_be_shifted() -> None:
    """Adding a constant to a row of logits changes no figure."""
    logits = np.random.default_rng(0).normal(size=(9, 3))
    targets = np.arange(9) % 3
    shifted = classification(logits + 100 * np.arange(9)[:, None], targets)
    assert shifted == pytest.approx(classification(logits, targets))


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(2, 60), seed=st.integers(0, 10_000))
def test_regression_agrees_with_scikit_learn(rows: int, seed: int) -> None:
    """R², mean absolute and mean squared error are those of the reference implementation."""
    generator = np.random.default_rng(seed)
    targets = generator.normal(size=rows).astype(np.float32)
    outputs = (targets + generator.normal(size=rows)).astype(np.float32)
    figures = regression(outputs, targets)
    truth, values = targets.astype(np.float64), outputs.astype(np.float64)
    assert figures["r2"] == pytest.approx(reference.r2_score(truth, values))
    assert figures["mae"] == pytest.approx(reference.mean_absolute_error(truth, values))
    assert figures["mse"] == pytest.approx(reference.mean_squared_error(truth, values))


def test_r2_of_constant_targets() -> None:
    """Where nothing varies, R² is 1 for exact outputs and 0 otherwise: never infinite."""
    assert regression(np.ones(3), np.ones(3))["r2"] == 1
    assert regression(np.zeros(3), np.ones(3))["r2"] == 0


def test_metrics_by_task() -> None:
    """Every task has a metric that holds its primary figure; other names are refused."""
    truth = np.arange(3)
    outputs = {"classification": np.eye(3), "regression": truth, "multilabel": np.eye(3) - 0.5}
    targets = {"classification": truth, "regression": truth, "multilabel": np.eye(3)}
    for task, (name, higher_is_better) in PRIMARY.items():
        assert for_task(task)(outputs[task], targets[task])[name] == 1
        assert higher_is_better
    with pytest.raises(MeuseError) as caught:
        for_task("ranking")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "task")


def test_figures_are_plain_floats() -> None:
    """Figures go to JSON as they are."""
    figures = classification(np.eye(3, dtype=np.float32), np.arange(3))
    assert all(type(value) is float and math.isfinite(value) for value in figures.values())


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(2, 60), labels=st.integers(2, 6), seed=st.integers(0, 10_000))
def test_multilabel_agrees_with_scikit_learn(rows: int, labels: int, seed: int) -> None:
    """Micro F1, subset accuracy and log loss are those of the reference implementation."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, labels)) * 4
    targets = (generator.random((rows, labels)) < 0.4).astype(np.float32)
    figures = multilabel(logits, targets)
    given_, p = logits >= 0, 1 / (1 + np.exp(-logits))
    assert figures["micro_f1"] == pytest.approx(
        reference.f1_score(targets, given_, average="micro", zero_division=0)
    )
    assert figures["subset_accuracy"] == pytest.approx((given_ == targets).all(axis=1).mean())
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    assert figures["log_loss"] == pytest.approx(expected)
