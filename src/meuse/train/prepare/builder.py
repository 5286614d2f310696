"""Nodes and constants of one ONNX graph, each under a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper, numpy_helper

OPSETS = (("", 20), ("ai.onnx.ml", 4), ("com.microsoft", 1))
IR_VERSION = 10
FEATURES = "features"


class Builder:
    """Grows a graph; `name` is before every name in it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any
    ) -> str:
        """Add a node; returns the name of its first output."""
        name = f"{self._name}_{len(self._nodes)}"
        named = list(outputs) or [f"{name}_out"]
        self._nodes.append(helper.make_node(kind, list(inputs), named, name=name, **attributes))
        return named[0]

    def constant(self, name: str, value: Any) -> str:
        name = f"{self._name}_{name}_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def body(
        self,
        inputs: Sequence[tuple[str, int, Sequence[int | None]]],
        outputs: Sequence[tuple[str, int, Sequence[int | None]]],
    ) -> onnx.GraphProto:
        """The graph as the body of a loop; borders are (name, type of elements, shape)."""
        taken = [helper.make_tensor_value_info(*value) for value in inputs]
        given = [helper.make_tensor_value_info(*value) for value in outputs]
        return helper.make_graph(self._nodes, self._name, taken, given, self._constants)

    def finish(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        body = helper.make_graph(self._nodes, self._name, inputs, outputs, self._constants)
        used = {node.domain for node in self._nodes} | {"", *_inner(self._nodes)}
        opsets = [helper.make_opsetid(d, version) for d, version in OPSETS if d in used]
        return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION)


def _inner(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """The domains of nodes in loops."""
    graphs = [entry.g for node in nodes for entry in node.attribute if entry.HasField("g")]
    return {node.domain for graph in graphs for node in graph.node}
