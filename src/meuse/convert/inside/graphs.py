"""Small changes to ONNX graphs: what goes in and comes out, as served models have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, compose, helper

from meuse.convert.inside.model import refuse

INNER = "model/"


def wrap(
    proto: onnx.ModelProto,
    *,
    columns: Sequence[tuple[str, str, bool]] | None,
    matrix: tuple[str, int] | None,
    label: tuple[str, Sequence[str | int]] | None = None,
    keep: Sequence[tuple[str, str, int | None]] = (),
) -> onnx.ModelProto:
    """`proto` with other borders.

    `columns`: (input of `proto` [n, 1], name, is text) → inputs `name` [n], or, when none is
    text, one `input` FP32 [n, f] with all of them in this order. `matrix`: (input of `proto`
    [n, f], f) → `input`. `label`: (output with labels [n], the classes in order) → `label`,
    INT64 indices. `keep`: (output, new name, width; None: one value per row → [n]).
    """
    model = compose.add_prefix(proto, INNER)
    graph = model.graph
    before: list[onnx.NodeProto] = []
    inputs: list[onnx.ValueInfoProto] = []
    if matrix is not None:
        inputs.append(_info("input", TensorProto.FLOAT, ["n", matrix[1]]))
        before.append(helper.make_node("Identity", ["input"], [INNER + matrix[0]]))
    elif columns is not None and any(text for _, _, text in columns):
        _constant(graph, "as_column", [-1, 1])
        for inner, name, text in columns:
            inputs.append(_info(name, TensorProto.STRING if text else TensorProto.FLOAT, ["n"]))
            before.append(helper.make_node("Reshape", [name, "as_column"], [INNER + inner]))
    elif columns is not None:
        inputs.append(_info("input", TensorProto.FLOAT, ["n", len(columns)]))
        for index, (inner, _, _) in enumerate(columns):
            _constant(graph, f"column_{index}", [index])
            before.append(
                helper.make_node("Gather", ["input", f"column_{index}"], [INNER + inner], axis=1)
            )
    outputs, after = [], []
    if label is not None:
        after.append(_indices(INNER + label[0], label[1]))
        _constant(graph, "flat", [-1])
        after.append(helper.make_node("Reshape", ["label_index", "flat"], ["label"]))
        outputs.append(_info("label", TensorProto.INT64, ["n"]))
    for inner, name, width in keep:
        _constant(graph, f"shape_of_{name}", [-1] if width is None else [-1, width])
        after.append(helper.make_node("Cast", [INNER + inner], [f"{name}_float"], to=1))
        after.append(helper.make_node("Reshape", [f"{name}_float", f"shape_of_{name}"], [name]))
        outputs.append(_info(name, TensorProto.FLOAT, ["n"] if width is None else ["n", width]))
    nodes = _needed([*before, *graph.node, *after], {value.name for value in outputs})
    for node in nodes:
        if node.op_type == "StringNormalizer":
            kept = [entry for entry in node.attribute if entry.name != "locale"]
            # Every machine has it; the default, en_US, need not be there.
            locale = helper.make_attribute("locale", "C.UTF-8")
            node.ClearField("attribute")
            node.attribute.extend([*kept, locale])
    for field, values in (("node", nodes), ("input", inputs), ("output", outputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    graph.ClearField("value_info")  # shapes of the old borders
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opsets["ai.onnx.ml"] = max(3, opsets.get("ai.onnx.ml", 0))  # what LabelEncoder needs
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*entry) for entry in opsets.items())
    return model


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Those that lead to the outputs wanted; nodes come in order."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _indices(edge: str, classes: Sequence[str | int]) -> onnx.NodeProto:
    indices = list(range(len(classes)))
    if all(isinstance(label, str) for label in classes):
        keys: dict[str, Any] = {"keys_strings": list(classes)}
    elif all(isinstance(label, int) for label in classes):
        keys = {"keys_int64s": list(classes)}
    else:
        raise refuse("the labels are neither all texts nor all whole numbers")
    return helper.make_node(
        "LabelEncoder", [edge], ["label_index"], domain="ai.onnx.ml", values_int64s=indices,
        default_int64=-1, **keys,
    )  # fmt: skip


def _constant(graph: onnx.GraphProto, name: str, values: list[int]) -> None:
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))


def _info(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
