"""What a trained model takes and gives, and how raw rows become its inputs.

Knows nouns and numpy; no torch, no graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.nouns import Frame, Signature, TensorSpec

INPUT = "input"
"""The name of the only input of a model that takes numbers alone."""


def inputs_for(
    columns: Sequence[tuple[str, str]],
    *,
    nullable: bool = False,
    image: tuple[int, int, int] = (-1, -1, -1),
) -> tuple[TensorSpec, ...]:
    """Inputs for (name, kind) of columns; kind is `number`, `string` or `image`.

    Numbers alone are one matrix `input` [-1, f]; otherwise each column is an input of its
    own, under its own name. `image` is (height, width, channels), -1 for any.
    """
    if all(kind == "number" for _, kind in columns):
        return (TensorSpec(INPUT, "FP32", (-1, len(columns)), nullable),)
    made: dict[str, tuple[str, tuple[int, ...]]] = {
        "number": ("FP32", (-1,)),
        "string": ("BYTES", (-1,)),
        "image": ("UINT8", (-1, *image)),
    }
    return tuple(
        TensorSpec(name, *made[kind], nullable=nullable and kind == "number")
        for name, kind in columns
    )


def outputs_for(task: str, classes: int) -> tuple[TensorSpec, ...]:
    """Outputs by task; `classes` counts classes or labels."""
    if task == "regression":
        return (TensorSpec("value", "FP32", (-1,)),)
    name, shape = ("labels", (-1, classes)) if task == "multilabel" else ("label", (-1,))
    return (
        TensorSpec(name, "INT64", shape),
        TensorSpec("probabilities", "FP32", (-1, classes)),
    )


def inputs_of(
    frame: Frame, signature: Signature, *, encode: bool = True
) -> dict[str, NDArray[Any]]:
    """The inputs of a model for raw rows. Texts are UTF-8 `bytes`, as engines take them, or
    `str` as ONNX Runtime itself does (`encode` False)."""
    if [spec.name for spec in signature.inputs] == [INPUT] and INPUT not in frame.texts:
        return {INPUT: frame.numbers}
    where = {name: i for i, name in enumerate(frame.numeric)}
    inputs: dict[str, NDArray[Any]] = {}
    for spec in signature.inputs:
        if spec.name in where:
            inputs[spec.name] = np.ascontiguousarray(frame.numbers[:, where[spec.name]])
        elif spec.name in frame.texts:
            texts = frame.texts[spec.name]
            inputs[spec.name] = _encoded(texts) if encode else texts
        else:
            inputs[spec.name] = frame.images[spec.name]
    return inputs


def _encoded(texts: NDArray[np.object_]) -> NDArray[np.object_]:
    encoded = np.empty(len(texts), object)
    encoded[:] = [text.encode() for text in texts]
    return encoded
