"""From what a served version answered to what is judged."""

from __future__ import annotations

import numpy as np
import pytest

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature, TensorSpec
from meuse.evaluate.answers import class_indices, label_matrix, outputs_of, targets_of

P = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


def signature(*outputs: tuple[str, str, tuple[int, ...]]) -> Signature:
    return Signature((TensorSpec("x", "FP32", (-1, 3)),), tuple(TensorSpec(*o) for o in outputs))


def test_trained_versions_name_their_outputs() -> None:
    """`probabilities` and `value`."""
    made = signature(("label", "INT64", (-1,)), ("probabilities", "FP32", (-1, 2)))
    found = outputs_of({"label": P.argmax(1), "probabilities": P}, made, "classification")
    assert found.tolist() == P.tolist()
    values = np.array([1.5, 2.5], np.float32)
    found = outputs_of({"value": values}, signature(("value", "FP32", (-1,))), "regression")
    assert found.tolist() == [1.5, 2.5]


def test_uploaded_versions_have_one_output_that_fits() -> None:
    """Whatever it is called; a column of one is values."""
    made = signature(("y", "FP32", (-1, 1)), ("z", "INT64", (-1,)))
    assert outputs_of({"y": np.ones((2, 1))}, made, "regression").tolist() == [1, 1]
    made = signature(("scores", "FP32", (-1, 2)))
    assert outputs_of({"scores": P}, made, "classification").tolist() == P.tolist()


@pytest.mark.parametrize(
    ("outputs", "task"),
    [
        ([("a", "FP32", (-1, 2)), ("b", "FP32", (-1, 2))], "classification"),
        ([("a", "INT64", (-1,))], "classification"),
        ([("a", "FP32", (-1, 2, 2))], "classification"),
        ([("a", "FP32", (-1, 2))], "regression"),
        ([("a", "BYTES", (-1,))], "regression"),
    ],
)
def test_an_uploaded_version_that_does_not_fit_is_told(
    outputs: list[tuple[str, str, tuple[int, ...]]], task: str
) -> None:
    """With the outputs that it has."""
    with pytest.raises(MeuseError) as caught:
        outputs_of({"a": P, "b": P}, signature(*outputs), task)
    assert caught.value.field == "task"
    assert "a " in str(caught.value.hint)


def test_logits_are_not_taken_for_probabilities() -> None:
    """Figures of what sums to anything would be nonsense."""
    with pytest.raises(MeuseError, match="no probabilities"):
        outputs_of({"a": P * 3}, signature(("a", "FP32", (-1, 2))), "classification")


def test_labels_are_found_by_what_they_say() -> None:
    """Integers, floats and text of one number are one label; the order is the version's."""
    for labels in (np.array([3, 1]), np.array([3.0, 1.0]), np.array(["3", "1"], object)):
        assert class_indices(labels, [1, 2, 3], "y").tolist() == [2, 0]
    words = np.array(["b", "a", "b"], object)
    assert class_indices(words, ["b", "a"], "y").tolist() == [0, 1, 0]


def test_an_unknown_label_is_named() -> None:
    """No answer could be right: this is other data."""
    with pytest.raises(MeuseError) as caught:
        class_indices(np.array(["a", "z"], object), ["a", "b"], "kind")
    assert caught.value.code == Code.INVALID_DATA
    assert "'z'" in caught.value.message
    assert "a, b" in str(caught.value.hint)


def test_several_labels_a_row() -> None:
    """Joined by bars; a row may have none."""
    found = label_matrix(np.array(["red|round", "", "round"], object), ["round", "red"], "y")
    assert found.tolist() == [[1, 1], [0, 0], [1, 0]]


def test_without_classes_the_labels_are_sorted() -> None:
    """If there are as many as outputs; else the version must say which they are."""
    labels = np.array(["b", "a", "c"], object)
    y, classes = targets_of(labels, "classification", None, 3, "y")
    assert (y.tolist(), classes) == ([1, 0, 2], ["a", "b", "c"])
    with pytest.raises(MeuseError, match="2 outputs"):
        targets_of(labels, "classification", None, 2, "y")
    with pytest.raises(MeuseError, match="holds text"):
        targets_of(labels, "regression", None, 1, "y")
