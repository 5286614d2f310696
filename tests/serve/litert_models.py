"""Small LiteRT files, written by the classes of their schema."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

FLOAT = schema.TensorType.FLOAT32
_OPTIONS = schema.BuiltinOptions


def dense(
    weights: np.ndarray,
    names: tuple[str, str] | None = ("x", "y"),
    kind: int = FLOAT,
    custom: str | None = None,
) -> bytes:
    """y = x · weightsᵀ of an open batch. `names` of its signature, None: it has none; `kind` of
    its input; `custom`: an operator of that name in place of the product."""
    model = schema.ModelT()
    model.version = 3
    code = schema.OperatorCodeT()
    code.builtinCode = schema.BuiltinOperator.FULLY_CONNECTED
    if custom is not None:
        code.builtinCode, code.customCode = schema.BuiltinOperator.CUSTOM, custom
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    model.operatorCodes = [code]
    graph = schema.SubGraphT()
    graph.tensors = [
        _tensor("given", [1, weights.shape[1]], kind, 0, open_rows=True),
        _tensor("weights", list(weights.shape), FLOAT, 1),
        _tensor("made", [1, weights.shape[0]], FLOAT, 0, open_rows=True),
    ]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1, -1], [2]
    operator.builtinOptionsType = _OPTIONS.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    if custom is not None:
        operator.builtinOptionsType, operator.builtinOptions = _OPTIONS.NONE, None
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [2]
    model.subgraphs = [graph]
    model.buffers = [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = np.frombuffer(weights.astype(np.float32).tobytes(), np.uint8)
    if names is not None:
        model.signatureDefs = [_signature(*names)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(name: str, shape: list[int], kind: int, buffer: int, open_rows: bool = False) -> object:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    if open_rows:
        tensor.shapeSignature = [-1, *shape[1:]]
    return tensor


def _signature(given: str, made: str) -> object:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
    signature.inputs[0].name, signature.inputs[0].tensorIndex = given, 0
    signature.outputs[0].name, signature.outputs[0].tensorIndex = made, 2
    return signature
