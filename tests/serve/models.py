"""Small real ONNX models, made with onnx.helper."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
STRING = TensorProto.STRING

WEIGHTS = np.random.default_rng(7).normal(size=(64, 10)).astype(np.float32)


def _value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any] | None = None
) -> bytes:
    """A checked single-file model."""
    initializers = [numpy_helper.from_array(a, name) for name, a in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def scores() -> bytes:
    """x [n, 64] → y [n, 10] = x @ WEIGHTS."""
    return model_of(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        [_value("x", FLOAT, ["n", 64])],
        [_value("y", FLOAT, ["n", 10])],
        {"W": WEIGHTS},
    )


def classifier() -> bytes:
    """x [n, 64] → label [n] (index of the largest score) and y [n, 10]."""
    return model_of(
        [
            helper.make_node("MatMul", ["x", "W"], ["y"]),
            helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0),
        ],
        [_value("x", FLOAT, ["n", 64])],
        [_value("label", INT64, ["n"]), _value("y", FLOAT, ["n", 10])],
        {"W": WEIGHTS},
    )


def doubled() -> bytes:
    """x [n, 2] → y [n, 2] = 2 x."""
    return model_of(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [_value("x", FLOAT, ["n", 2])],
        [_value("y", FLOAT, ["n", 2])],
    )


def pair() -> bytes:
    """a FP32 [n, 2], b INT64 [n] → s FP32 [n, 2] = a + b, big BOOL [n] = b > 0."""
    return model_of(
        [
            helper.make_node("Cast", ["b"], ["bf"], to=FLOAT),
            helper.make_node("Unsqueeze", ["bf", "one"], ["bc"]),
            helper.make_node("Add", ["a", "bc"], ["s"]),
            helper.make_node("Greater", ["b", "zero"], ["big"]),
        ],
        [_value("a", FLOAT, ["n", 2]), _value("b", INT64, ["n"])],
        [_value("s", FLOAT, ["n", 2]), _value("big", BOOL, ["n"])],
        {"one": np.array([1], np.int64), "zero": np.array(0, np.int64)},
    )


def identity(kind: int, shape: list[Any]) -> bytes:
    """x → y, the same."""
    return model_of(
        [helper.make_node("Identity", ["x"], ["y"])],
        [_value("x", kind, shape)],
        [_value("y", kind, shape)],
    )


def slow() -> bytes:
    """x [n, 1] → y [n, 1] = x after as many loop turns (about a millisecond each) as max(x)."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["cond"], ["cond_out"]),
            helper.make_node("MatMul", ["s", "M"], ["s_out"]),
        ],
        "body",
        [_value("i", INT64, []), _value("cond", BOOL, []), _value("s", FLOAT, [384, 384])],
        [_value("cond_out", BOOL, []), _value("s_out", FLOAT, [384, 384])],
    )
    return model_of(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["turns"], to=INT64),
            helper.make_node("Loop", ["turns", "true", "M"], ["last"], body=body),
            helper.make_node("ReduceMax", ["last"], ["top"], keepdims=0),
            helper.make_node("Mul", ["top", "none"], ["nothing"]),
            helper.make_node("Add", ["x", "nothing"], ["y"]),
        ],
        [_value("x", FLOAT, ["n", 1])],
        [_value("y", FLOAT, ["n", 1])],
        {
            "M": np.full((384, 384), 1 / 384, np.float32),
            "true": np.array(True),
            "none": np.array(0, np.float32),
        },
    )


def picky() -> bytes:
    """x INT64 [n] → y INT64 [n] = the table's entry; an index beyond 3 is an error."""
    return model_of(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [_value("x", INT64, ["n"])],
        [_value("y", INT64, ["n"])],
        {"table": np.array([10, 11, 12, 13], np.int64)},
    )


def broken() -> bytes:
    """x [n, 2] → y [7, 3]: fails on every number of rows that is not 10.5."""
    return model_of(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [_value("x", FLOAT, ["n", 2])],
        [_value("y", FLOAT, [7, 3])],
        {"shape": np.array([7, 3], np.int64)},
    )


def embedder(*, tokens: bool = False) -> bytes:
    """text [n] of strings → v [n, 2]: how a known word is pictured, 0 for others; and, where
    wanted, tokens [n]: one for each text, and text_tokens [n]: three of "long dog": it is cut."""
    nodes = [
        helper.make_node(
            "LabelEncoder", ["text"], ["x"], domain="ai.onnx.ml", keys_strings=["cat", "dog"],
            values_floats=[1.0, 2.0], default_float=0.0,
        ),
        helper.make_node("Unsqueeze", ["x", "axis"], ["column"]),
        helper.make_node("Mul", ["column", "half"], ["other"]),
        helper.make_node("Concat", ["column", "other"], ["v"], axis=1),
        helper.make_node("Cast", ["x"], ["whole"], to=INT64),
        helper.make_node("Mul", ["whole", "zero"], ["none"]),
        helper.make_node("Add", ["none", "one"], ["tokens"]),
        helper.make_node(
            "LabelEncoder", ["text"], ["text_tokens"], domain="ai.onnx.ml",
            keys_strings=["long dog"], values_int64s=[3], default_int64=1,
        ),
    ]  # fmt: skip
    outputs = [_value("v", FLOAT, ["n", 2])]
    outputs += [_value(name, INT64, ["n"]) for name in ("tokens", "text_tokens")]
    weights = {
        "axis": np.array([1]), "half": np.array(0.5, np.float32), "zero": np.array([0]),
        "one": np.array([1]),
    }  # fmt: skip
    initializers = [numpy_helper.from_array(a, name) for name, a in weights.items()]
    graph = helper.make_graph(
        nodes if tokens else nodes[:4], "g", [_value("text", STRING, ["n"])],
        outputs if tokens else outputs[:1], initializers,
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString())
