"""LightGBM models: its own text format, or the booster of a pickled estimator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from meuse.convert.inside.model import ROWS, SEED, Array, Made, numbers, refuse
from meuse.train.trees import scores_graph

_CLASSIFIES = ("binary", "cross_entropy", "multiclass", "softmax", "multiclassova", "ova")
_VALUES = (
    "regression", "regression_l2", "l2", "mse", "regression_l1", "l1", "mae", "huber", "fair",
    "quantile", "mape", "lambdarank", "rank_xendcg",
)  # fmt: skip
_EXPONENTS = ("poisson", "gamma", "tweedie")


def convert(path: Path, classes: list[str] | None) -> Made:
    import lightgbm

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise refuse("a LightGBM model is a text file", "Save it by Booster.save_model.") from None
    if not text.startswith("tree\n"):
        raise refuse("the file does not begin as a LightGBM model", "Save it by save_model.")
    try:
        booster = lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise refuse(f"LightGBM cannot read the model: {error}") from None
    return _convert(booster, text, None if classes is None else tuple(classes))


def convert_sklearn(estimator: Any) -> Made:
    from meuse.convert.inside.model import labels

    found = getattr(estimator, "classes_", None)
    booster = estimator.booster_
    return _convert(booster, booster.model_to_string(), None if found is None else labels(found))


def _convert(booster: Any, text: str, classes: tuple[str | int, ...] | None) -> Made:
    objective = _objective(text)
    name = objective[0] if objective else "none"
    try:
        proto = scores_graph(text)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise refuse(f"onnxmltools cannot convert the model: {error}") from None
    inputs = _samples(booster, text)
    found = np.asarray(booster.predict(inputs.astype(np.float64)), np.float64)
    outputs: dict[str, Array]
    if name in _CLASSIFIES:
        count = 2 if found.ndim == 1 else found.shape[1]
        labelled = classes if classes is not None else tuple(range(count))
        if len(labelled) != count:
            raise refuse(f"{len(labelled)} labels for {count} classes", "Name one for each.")
        found = np.stack([1 - found, found], axis=1) if found.ndim == 1 else found
        outputs = {
            "label": found.argmax(axis=1).astype(np.int64),
            "probabilities": found.astype(np.float32),
        }
        proto = _classifier(proto, name, count, _sigmoid(objective))
        task = "classification"
    elif name in _VALUES or name in _EXPONENTS:
        if "sqrt" in objective:
            raise refuse("regression on the square root (reg_sqrt) cannot be converted")
        labelled, outputs = None, {"value": found.astype(np.float32)}
        proto = _regressor(proto, exponent=name in _EXPONENTS)
        task = "regression"
    else:
        raise refuse(f"models of objective {name!r} cannot be converted")
    about = {"objective": " ".join(objective), "trees": booster.num_trees()}
    about["columns"] = booster.feature_name()
    return Made(proto, {"input": inputs}, outputs, task, labelled, about)


def _objective(text: str) -> list[str]:
    found = re.search(r"^objective=(.*)$", text, re.M)
    return found[1].split() if found else []


def _sigmoid(objective: list[str]) -> float:
    return next((float(p.split(":")[1]) for p in objective if p.startswith("sigmoid:")), 1.0)


def _samples(booster: Any, text: str) -> Array:
    """Rows about the thresholds of the trees: on them, beside them, and far from them."""
    rng = np.random.default_rng(SEED)
    rows = np.stack([numbers(rng, ROWS) for _ in range(booster.num_feature())], axis=1)
    by_feature: dict[int, list[float]] = {}
    features = re.findall(r"^split_feature=(.*)$", text, re.M)
    thresholds = re.findall(r"^threshold=(.*)$", text, re.M)
    for names, values in zip(features, thresholds, strict=True):
        for feature, value in zip(names.split(), values.split(), strict=True):
            by_feature.setdefault(int(feature), []).append(float(value))
    for feature, values in by_feature.items():
        chosen = rng.choice(values, ROWS)
        spread = max(values) - min(values) or 1.0
        with np.errstate(over="ignore"):
            rows[:, feature] = np.clip(
                chosen + spread * rng.choice([0.0, 0.0, 0.1, -0.1], ROWS), -1e38, 1e38
            ).astype(np.float32)
    return rows


def _classifier(
    scores: onnx.ModelProto, objective: str, count: int, sigmoid: float
) -> onnx.ModelProto:
    """Raw scores → `label` and `probabilities`, by the objective's link function."""
    nodes: list[onnx.NodeProto] = []
    node = helper.make_node
    if objective in ("multiclass", "softmax"):
        nodes.append(node("Softmax", ["scores"], ["probabilities"], axis=1))
    else:
        nodes += [
            node("Mul", ["scores", "sigmoid"], ["scaled"]),
            node("Sigmoid", ["scaled"], ["one"]),
        ]
        if count == 2 and scores.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 1:
            nodes.append(node("Sub", ["unit", "one"], ["other"]))
            nodes.append(node("Concat", ["other", "one"], ["probabilities"], axis=1))
        else:  # one against all: not normalised, as LightGBM has it
            nodes.append(node("Identity", ["one"], ["probabilities"]))
    nodes.append(node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0))
    outputs = [
        helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["n", count]),
    ]
    constants = [
        helper.make_tensor("sigmoid", onnx.TensorProto.FLOAT, [], [sigmoid]),
        helper.make_tensor("unit", onnx.TensorProto.FLOAT, [], [1.0]),
    ]
    return _extended(scores, nodes, outputs, constants)


def _regressor(scores: onnx.ModelProto, *, exponent: bool) -> onnx.ModelProto:
    nodes = [helper.make_node("Reshape", ["scores", "flat"], ["flattened"])]
    nodes.append(helper.make_node("Exp" if exponent else "Identity", ["flattened"], ["value"]))
    outputs = [helper.make_tensor_value_info("value", onnx.TensorProto.FLOAT, ["n"])]
    constants = [helper.make_tensor("flat", onnx.TensorProto.INT64, [1], [-1])]
    return _extended(scores, nodes, outputs, constants)


def _extended(
    scores: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = scores.graph
    graph.node[0].input[0] = graph.input[0].name = "input"
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    del graph.output[:]
    graph.output.extend(outputs)
    return scores
