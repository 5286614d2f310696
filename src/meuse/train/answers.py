"""From a network's scores to what callers get: the same rules as an ONNX graph, and in torch.

classification   logits [n, k] → `label` INT64 [n] (class index), `probabilities` [n, k]
multilabel       logits [n, k] → `labels` INT64 [n, k] (0 or 1), `probabilities` [n, k]
regression       standardised values [n, 1] → `value` [n] in the target's own unit
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from meuse.core.nouns import TensorSpec
from meuse.train.prepare.builder import Builder
from meuse.train.signature import outputs_for

SCORES = "scores"


@dataclass(frozen=True, slots=True)
class Answers:
    """How scores are read: `outputs` scores a row; `mean` and `std` of a regression's target."""

    task: str
    outputs: int
    mean: float = 0.0
    std: float = 1.0

    def outputs_of(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """What metrics take: logits as they are, or values [n] in the target's own unit."""
        if self.task != "regression":
            return scores
        return scores[:, 0] * np.float32(self.std) + np.float32(self.mean)

    def last_of(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The last output for callers: probabilities [n, k], or values [n]."""
        if self.task == "regression":
            return self.outputs_of(scores)
        if self.task == "multilabel":
            shares = 1 / (1 + np.exp(-scores))
        else:
            exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares = exponents / exponents.sum(axis=1, keepdims=True)
        return np.asarray(shares, np.float32)

    def targets_of(self, y: NDArray[Any]) -> NDArray[Any]:
        """What the loss is taken against: a regression's targets standardised, [n]."""
        if self.task != "regression":
            return y
        return ((y - np.float32(self.mean)) / np.float32(self.std)).astype(np.float32)


def graph(answers: Answers) -> onnx.ModelProto:
    """Scores [rows, outputs] → the outputs of `signature.outputs_for`."""
    builder = Builder("answer")
    names = [spec.name for spec in outputs_for(answers.task, answers.outputs)]
    if answers.task == "regression":
        axis = builder.constant("axis", np.array([1], np.int64))
        scaled = builder.node("Squeeze", [SCORES, axis])
        std = builder.constant("std", np.array(answers.std, np.float32))
        mean = builder.constant("mean", np.array(answers.mean, np.float32))
        builder.node("Add", [builder.node("Mul", [scaled, std]), mean], [names[0]])
    elif answers.task == "multilabel":
        builder.node("Sigmoid", [SCORES], [names[1]])
        zero = builder.constant("zero", np.array(0, np.float32))
        positive = builder.node("Greater", [SCORES, zero])
        builder.node("Cast", [positive], [names[0]], to=TensorProto.INT64)
    else:
        builder.node("ArgMax", [SCORES], [names[0]], axis=1, keepdims=0)
        builder.node("Softmax", [SCORES], [names[1]], axis=1)
    return builder.finish(
        [helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["rows", answers.outputs])],
        [_output(spec) for spec in outputs_for(answers.task, answers.outputs)],
    )


def _output(spec: TensorSpec) -> onnx.ValueInfoProto:
    element = TensorProto.INT64 if spec.datatype == "INT64" else TensorProto.FLOAT
    return helper.make_tensor_value_info(spec.name, element, ["rows", *spec.shape[1:]])
