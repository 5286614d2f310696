"""What a served version answered, as the arrays that are judged; and the truth in its terms.

Knows outputs by name and labels; no engine and no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature, TensorSpec
from meuse.evaluate.figures import Floats

Label = str | int
SUM_TOLERANCE = 1e-3
"""How far float32 probabilities of a row may sum from 1."""


def outputs_of(answer: Mapping[str, NDArray[Any]], signature: Signature, task: str) -> Floats:
    """Probabilities [n, k] or values [n] from the outputs of one batch, by the signature.

    Takes the output `probabilities`, or `value` for a regression; of a version that was
    uploaded the only one of floats that fits. Raises `invalid_field` (`task`) when none does.
    """
    name = "value" if task == "regression" else "probabilities"
    if name not in answer:
        name = _only_fitting(signature, task)
    found = np.asarray(answer[name], np.float64)
    if task == "regression":
        return found.reshape(len(found))
    if task == "classification":
        _check_probabilities(found, name)
    return found


def _only_fitting(signature: Signature, task: str) -> str:
    fitting = [s.name for s in signature.outputs if _fits(s, task)]
    if len(fitting) == 1:
        return fitting[0]
    wanted = "values [-1]" if task == "regression" else "probabilities [-1, classes]"
    has = ", ".join(f"{s.name} {s.datatype} {list(s.shape)}" for s in signature.outputs)
    raise MeuseError(
        Code.INVALID_FIELD,
        f"{len(fitting) or 'no'} outputs of the version can be {wanted}",
        field="task",
        hint=f"It has: {has}. Name the task that it was made for.",
    )


def _fits(spec: TensorSpec, task: str) -> bool:
    if not spec.datatype.startswith("FP"):
        return False
    width = spec.shape[1] if len(spec.shape) == 2 else 1
    if task == "regression":
        return len(spec.shape) == 1 or (len(spec.shape) == 2 and width == 1)
    return len(spec.shape) == 2 and (width > 1 or task == "multilabel")


def _check_probabilities(found: Floats, name: str) -> None:
    sums = found.sum(axis=1)
    if found.min() < -SUM_TOLERANCE or np.abs(sums - 1).max() > SUM_TOLERANCE:
        raise MeuseError(
            Code.INVALID_FIELD,
            f"the output {name!r} holds no probabilities: rows sum to {sums.min():.4g} … "
            f"{sums.max():.4g}",
            field="task",
            hint="End the model with a softmax, or name another task.",
        )


def class_indices(labels: NDArray[Any], classes: Sequence[Label], target: str) -> NDArray[np.int64]:
    """[n] indices into `classes`. Raises `invalid_data` (field `target`) for a label that the
    version does not know: no answer of it could be right.

    A number and its text are one label: 3, 3.0 and "3".
    """
    index = {_word(c): i for i, c in enumerate(classes)}
    distinct, inverse = np.unique(labels.astype(str), return_inverse=True)
    words = [_word(text) for text in distinct.tolist()]
    unknown = [text for text in words if text not in index]
    if unknown:
        known = ", ".join(map(str, classes[:20])) + (", …" if len(classes) > 20 else "")
        raise MeuseError(
            Code.INVALID_DATA,
            f"the label {unknown[0]!r} is none of the version's classes",
            field="target",
            hint=f"It knows: {known}. Drop such rows, or judge it on data of its kind.",
        )
    where = np.array([index[word] for word in words], np.int64)
    return where[inverse]


def _word(label: object) -> str:
    text = str(label)
    return text.removesuffix(".0") if text.removesuffix(".0").lstrip("-").isdecimal() else text


def label_matrix(labels: NDArray[Any], classes: Sequence[Label], target: str) -> Floats:
    """[n, k] of 0 and 1 from texts such as "red|round". Raises as `class_indices` does."""
    parts = [[p for p in str(text).split("|") if p] for text in labels.tolist()]
    flat = np.array([p for row in parts for p in row], object)
    matrix = np.zeros((len(parts), len(classes)))
    rows = np.repeat(np.arange(len(parts)), [len(row) for row in parts])
    matrix[rows, class_indices(flat, classes, target)] = 1
    return matrix


def targets_of(
    labels: NDArray[Any], task: str, classes: Sequence[Label] | None, width: int, target: str
) -> tuple[NDArray[Any], list[Label]]:
    """(the truth as `judge` takes it, the classes) of a target column [n].

    A version without classes (uploaded) has its outputs taken for the sorted distinct labels,
    if there are as many. Raises `invalid_data` (field `target`) for what does not fit.
    """
    if task == "regression":
        return _values(labels, target), []
    if classes is None:
        found = _distinct(labels, task)
        if len(found) != width:
            raise MeuseError(
                Code.INVALID_DATA,
                f"the version has {width} outputs, {target!r} has {len(found)} distinct labels",
                field="target",
                hint="Upload it with its classes (?classes=a&classes=b), in the order of outputs.",
            )
        classes = found
    if task == "multilabel":
        return label_matrix(labels, classes, target), list(classes)
    return class_indices(labels, classes, target), list(classes)


def _distinct(labels: NDArray[Any], task: str) -> list[Label]:
    if task == "multilabel":
        return sorted({p for text in labels.tolist() for p in str(text).split("|") if p})
    found: list[Label] = np.unique(labels).tolist()
    return found


def _values(labels: NDArray[Any], target: str) -> Floats:
    try:
        return labels.astype(np.float64)
    except ValueError:
        raise MeuseError(
            Code.INVALID_DATA,
            f"the target {target!r} holds text, a regression is judged by numbers",
            field="target",
            hint="Name another target, or the task that the version was made for.",
        ) from None
