"""Teachers: versions as they are served, ensembles, and whose outputs they must have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meuse.compress import likeness
from meuse.compress.teachers import Ensemble, Version, mean, scores_of
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature
from meuse.serve.engines.onnx import OnnxEngine
from meuse.train.loop import scores_of as network_scores
from meuse.train.prepare.apply import Preparer
from meuse.train.signature import inputs_for, outputs_for


def version(trained: Any, task: str = "classification", **fields: Any) -> Version:
    parent = trained.parent
    given = {"weights": lambda: parent.weights, **fields}
    return Version(
        "digits:1", "d", parent.signature, task, trained.splits.train.frame.names,
        lambda: OnnxEngine(parent.artifact.data, 1), **given,
    )  # fmt: skip


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_version_answers_as_its_network_does(classifier: Any, regressor: Any, task: str) -> None:
    """Logits up to a constant per row, or values in their own unit; the network is its own."""
    trained = classifier if task == "classification" else regressor
    teacher, frame = version(trained, task), trained.splits.test.frame
    found, inside = teacher.scores(frame), teacher.inside()
    wanted = network_scores(inside.network, Preparer(inside.preparation).apply(frame))
    if task == "classification":
        wanted = wanted - wanted.max(axis=1, keepdims=True)
        found = found - found.max(axis=1, keepdims=True)
        np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=1e-3)
    else:
        own = inside.answers.outputs_of(wanted)
        np.testing.assert_allclose(found[:, 0], own, rtol=1e-4)


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    """Whatever scale each one's logits have; values are averaged as they are."""
    shares = np.random.default_rng(0).dirichlet(np.ones(4), size=(3, 6))
    scores = [scores_of(one, "classification") + i for i, one in enumerate(shares)]
    found = np.exp(mean(scores, "classification"))
    np.testing.assert_allclose(found, shares.mean(axis=0), rtol=1e-5)
    labels = [scores_of(one, "multilabel") for one in shares]
    found = 1 / (1 + np.exp(-mean(labels, "multilabel")))
    np.testing.assert_allclose(found, shares.mean(axis=0), rtol=1e-4)
    values = [np.array([[1.0], [2.0]]), np.array([[3.0], [0.0]])]
    np.testing.assert_allclose(mean(values, "regression"), [[2.0], [1.0]])


def test_certain_answers_stay_finite() -> None:
    """A probability of 0 or 1 is a large logit, not an infinite one."""
    sure = np.array([[0.0, 1.0]])
    assert np.isfinite(scores_of(sure, "classification")).all()
    assert np.isfinite(scores_of(sure, "multilabel")).all()


def test_several_have_no_inside(classifier: Any) -> None:
    """Nor has a version without a weights file; both say whom to name instead."""
    one = version(classifier, weights=None)
    for teacher in (one, Ensemble((one, one), "classification")):
        with pytest.raises(MeuseError) as caught:
            teacher.inside()
        assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "teacher")
        assert "hidden" in str(caught.value.hint)


def signature(classes: tuple[str | int, ...] | None, task: str = "classification") -> Signature:
    inputs = inputs_for([("a", "number")])
    return Signature(inputs, outputs_for(task, len(classes or (0,))), classes)


ABC = signature(("a", "b", "c"))


@pytest.mark.parametrize(
    ("task", "given", "told"),
    [
        ("regression", signature(None, "regression"), "is for regression, the student for class"),
        ("classification", signature(("a", "b", "d")), "lacks 'c' and has 'd' besides"),
        ("classification", signature(("a", "b")), "has 2 classes, the student 3: it lacks 'c'"),
        ("classification", signature(("a", "c", "b")), "another order: class 1 is 'c'"),
        ("custom", signature(None), "classes of t:1 are not known"),
    ],
)
def test_a_teacher_of_other_outputs_is_refused(task: str, given: Signature, told: str) -> None:
    """The difference is said."""
    with pytest.raises(MeuseError) as caught:
        likeness.check("t:1", task, given, "classification", ABC)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "teacher")
    assert told in caught.value.message
    assert caught.value.hint


def test_a_teacher_of_the_same_outputs_is_taken() -> None:
    """Also one that was uploaded with its classes."""
    for task in ("classification", "custom"):
        likeness.check("t:1", task, ABC, "classification", ABC)
    values = signature(None, "regression")
    likeness.check("t:1", "custom", values, "regression", values)
