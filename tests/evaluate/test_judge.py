"""Figures, intervals and the record of an evaluation, on real outputs of real data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as reference

from evaluate.conftest import Real
from meuse.core.errors import Code, MeuseError
from meuse.evaluate import figures
from meuse.evaluate.judge import (
    differences,
    final_evaluation,
    judge,
    probabilities_of,
    rows_of,
    with_differences,
)
from meuse.evaluate.record import Evaluation

ROWS = rows_of("set:1", "d" * 64, "test", "target", np.arange(5))


def test_binary_figures_are_scikit_learns(cancer: Real) -> None:
    """Accuracy, macro F1, AUC, log loss and the confusion matrix of two classes."""
    found = judge(cancer.outputs, cancer.y, "classification", ROWS, classes=["m", "b"]).evaluation
    p, y = cancer.outputs, cancer.y
    assert found.figures["accuracy"] == pytest.approx(reference.accuracy_score(y, p.argmax(1)))
    assert found.figures["macro_f1"] == pytest.approx(
        reference.f1_score(y, p.argmax(1), average="macro")
    )
    assert found.figures["roc_auc"] == pytest.approx(reference.roc_auc_score(y, p[:, 1]))
    served = np.clip(p, figures.EPSILON, 1 - figures.EPSILON)
    assert found.figures["log_loss"] == pytest.approx(-np.log(served[np.arange(len(y)), y]).mean())
    assert found.confusion == reference.confusion_matrix(y, p.argmax(1)).tolist()


def test_multiclass_figures_are_scikit_learns(digits: Real) -> None:
    """One class against the rest, unweighted; ties (nine neighbours give ten values) half."""
    found = judge(digits.outputs, digits.y, "classification", ROWS).evaluation
    p, y = digits.outputs, digits.y
    assert found.figures["roc_auc"] == pytest.approx(
        reference.roc_auc_score(y, p, multi_class="ovr", average="macro")
    )
    assert found.figures["macro_f1"] == pytest.approx(
        reference.f1_score(y, p.argmax(1), average="macro")
    )
    assert found.confusion == reference.confusion_matrix(y, p.argmax(1)).tolist()


def test_multilabel_figures_are_scikit_learns(digit_labels: Real) -> None:
    """Micro and macro F1, subset accuracy, and the AUC of each label."""
    p, y = digit_labels.outputs, digit_labels.y
    found = judge(p, y, "multilabel", ROWS, classes=["even", "prime", "big"]).evaluation
    given = p >= 0.5
    for name, average in (("micro_f1", "micro"), ("macro_f1", "macro")):
        assert found.figures[name] == pytest.approx(reference.f1_score(y, given, average=average))
    assert found.figures["subset_accuracy"] == pytest.approx(reference.accuracy_score(y, given))
    assert found.figures["roc_auc"] == pytest.approx(reference.roc_auc_score(y, p))
    for index, label in enumerate(found.labels):
        assert label["roc_auc"] == pytest.approx(reference.roc_auc_score(y[:, index], p[:, index]))
        assert label["f1"] == pytest.approx(reference.f1_score(y[:, index], given[:, index]))


def test_regression_figures_are_scikit_learns(diabetes: Real) -> None:
    """R², absolute, squared and quantile errors."""
    v, y = diabetes.outputs, diabetes.y
    found = judge(v, y, "regression", ROWS, quantile=0.9).evaluation.figures
    assert found["r2"] == pytest.approx(reference.r2_score(y, v))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(y, v))
    assert found["mse"] == pytest.approx(reference.mean_squared_error(y, v))
    assert found["quantile_loss"] == pytest.approx(reference.mean_pinball_loss(y, v, alpha=0.9))


def test_calibration_error_is_the_papers(cancer: Real) -> None:
    """The sum over 15 bins of their share times |accuracy − confidence|, written out."""
    p, y = cancer.outputs, cancer.y
    confidence, hit = p.max(axis=1), p.argmax(axis=1) == y
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    found = judge(p, y, "classification", ROWS).evaluation
    assert found.figures["calibration_error"] == pytest.approx(expected)
    table = sum(b.rows * abs(b.accuracy - b.confidence) for b in found.calibration) / len(y)
    assert table == pytest.approx(expected)
    assert sum(b.rows for b in found.calibration) == len(y)


def test_a_calibrated_model_has_no_error() -> None:
    """Outcomes drawn from the stated probabilities: what remains is the noise of drawing."""
    generator = np.random.default_rng(0)
    p = generator.uniform(0.5, 1, 200_000)
    y = (generator.random(200_000) > p).astype(int)
    found = figures.classification(np.column_stack([p, 1 - p]), y).point(200_000)
    assert found["calibration_error"] < 0.005
    sharper = np.column_stack([p**0.25, 1 - p**0.25])
    assert figures.classification(sharper, y).point(200_000)["calibration_error"] > 0.1


def test_logits_and_probabilities_are_judged_alike(digits: Real) -> None:
    """`final_evaluation` takes what the loop has; the record is that of the probabilities."""
    p = np.clip(digits.outputs, 1e-3, None)
    p /= p.sum(axis=1, keepdims=True)
    of_logits = final_evaluation(np.log(p), digits.y, "classification", ROWS)
    assert of_logits.figures == pytest.approx(
        judge(p, digits.y, "classification", ROWS).evaluation.figures,
        rel=1e-4,  # the logarithm parts some ties
    )
    labels = probabilities_of(np.array([[0.0, 800.0, -800.0]]), "multilabel")
    assert labels.tolist() == [[0.5, 1.0, 0.0]]


def test_the_record_is_json(digits: Real) -> None:
    """What is written is what is read, slices and differences included."""
    p = digits.outputs
    columns = {"row_sum": digits.x.sum(axis=1)}
    one = judge(p, digits.y, "classification", ROWS, columns=columns, slices_by=["row_sum"])
    other = judge(np.roll(p, 1, axis=0), digits.y, "classification", ROWS)
    record = with_differences(one.evaluation, differences(one, "m:2", other))
    assert record.slices
    assert Evaluation.from_dict(json.loads(json.dumps(record.to_dict(), allow_nan=False))) == record


def test_undefined_figures_are_absent() -> None:
    """An AUC of one class is no number, and no NaN in a JSON document."""
    p = np.array([[0.9, 0.1], [0.6, 0.4]])
    found = judge(p, np.array([0, 0]), "classification", ROWS).evaluation
    assert "roc_auc" not in found.figures
    assert found.figures["accuracy"] == 1
    assert all(np.isfinite(v) for v in found.figures.values())


def test_outputs_that_are_not_finite_are_refused() -> None:
    """With the row; nothing is computed of them."""
    with pytest.raises(MeuseError) as caught:
        judge(np.array([1.0, np.nan]), np.array([1.0, 2.0]), "regression", ROWS)
    assert caught.value.code == Code.INVALID_FIELD
    assert "row 1" in caught.value.message


def test_rows_compare_by_content() -> None:
    """The same rows in another order are the same; other rows or other bytes are not."""
    same = rows_of("copy:7", "d" * 64, "test", "target", np.arange(5)[::-1])
    assert ROWS.same_as(same)
    assert not ROWS.same_as(rows_of("set:1", "d" * 64, "test", "target", np.arange(1, 6)))
    assert not ROWS.same_as(rows_of("set:1", "e" * 64, "test", "target", np.arange(5)))
    assert not ROWS.same_as(rows_of("set:1", "d" * 64, "all", "target", 5))
