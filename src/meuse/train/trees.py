"""Boosted trees as ONNX: a LightGBM model text → a graph `features` → `scores`.

Knows LightGBM's text format in one respect: thresholds are doubles there, and the graph
compares in float32. Knows no data and no job.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET, ML_OPSET = 20, 4


def scores_graph(text: str) -> onnx.ModelProto:
    """`features` FP32 [n, f] → `scores` FP32 [n, k]: raw scores, one per class (one in all
    for binary objectives and regression).

    For float32 rows every split goes as LightGBM's own does (see `float32_thresholds`); the
    sums are in float32. Raises ValueError for what onnxmltools does not know.
    """
    import lightgbm
    from onnxmltools.convert import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    booster = lightgbm.Booster(model_str=float32_thresholds(text))
    features = booster.num_feature()
    made = convert_lightgbm(
        booster, initial_types=[("features", FloatTensorType([None, features]))], zipmap=False
    )
    trees = next(node for node in made.graph.node if node.op_type.startswith("TreeEnsemble"))
    outputs = int(re.search(r"^num_tree_per_iteration=(\d+)$", text, re.M)[1])  # type: ignore[index]
    scale = 1.0
    if re.search(r"^average_output$", text, re.M):  # random forests
        scale = outputs / booster.num_trees()
    node = _regressor(trees, outputs, scale)
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", outputs])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _regressor(trees: onnx.NodeProto, outputs: int, scale: float) -> onnx.NodeProto:
    """The ensemble alone, without link function and labels: those are others' business."""
    attributes: dict[str, Any] = {
        a.name: helper.get_attribute_value(a)
        for a in trees.attribute
        if a.name.startswith("nodes_")
    }
    old = "class" if trees.op_type == "TreeEnsembleClassifier" else "target"
    for name in ("ids", "nodeids", "treeids"):
        attributes[f"target_{name}"] = _get(trees, f"{old}_{name}")
    attributes["target_weights"] = [weight * scale for weight in _get(trees, f"{old}_weights")]
    return helper.make_node(
        "TreeEnsembleRegressor", ["features"], ["scores"], domain="ai.onnx.ml",
        n_targets=outputs, aggregate_function="SUM", post_transform="NONE", **attributes,
    )  # fmt: skip


def _get(node: onnx.NodeProto, name: str) -> list[Any]:
    attribute = next(a for a in node.attribute if a.name == name)
    return list(helper.get_attribute_value(attribute))


def float32_thresholds(text: str) -> str:
    """The model with every numeric threshold rounded down to float32.

    For x in float32 and t in double, x <= t exactly when x <= the largest float32 that is not
    above t; rounding to the nearest could send x to the other side.
    """

    def lower(line: re.Match[str]) -> str:
        return "threshold=" + " ".join(_down(float(value)) for value in line[1].split())

    lowered = re.sub(r"^threshold=(.*)$", lower, text, flags=re.M)
    return re.sub(r"^tree_sizes=.*\n", "", lowered, flags=re.M)  # in bytes, and no longer true


def _down(value: float) -> str:
    with np.errstate(over="ignore"):
        near = np.float32(value)
    if float(near) > value:
        near = np.nextafter(near, np.float32(-np.inf))
    return repr(float(near))
