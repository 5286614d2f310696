"""Weights stored as 16-bit floats. Knows ONNX alone.

ONNX Runtime has no 16-bit kernels on x86: it widens such weights once, when it loads the
model, and computes in float32. So a file takes half the bytes at the same speed, and nothing
but the weights is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from meuse.compress.artifact import Artifact
from meuse.compress.methods.quantize import graphs
from meuse.core.errors import Code, MeuseError

_LEAST = 64  # smaller tensors gain less than the node costs that widens them
_LARGEST = 65504.0


def weights(artifact: Artifact, mode: str) -> Artifact:
    """Every float32 weight tensor of 64 values or more as `mode` (float16, bfloat16) behind a
    Cast. Tensors with values beyond float16's 65,504 stay as they are.

    Raises `unavailable` when this machine's engine cannot load the result.
    """
    proto = graphs.read(artifact)
    cast: list[onnx.NodeProto] = []
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _LEAST:
            continue
        if mode == "float16" and float(np.abs(values).max()) > _LARGEST:
            continue
        name, kind = tensor.name, np.float16 if mode == "float16" else ml_dtypes.bfloat16
        tensor.CopyFrom(numpy_helper.from_array(values.astype(kind), f"{name}_16"))
        cast.append(helper.make_node("Cast", [f"{name}_16"], [name], f"{name}_widen", to=1))
    if not cast:
        raise graphs.nothing(f"tensors of {_LEAST} values or more")
    _put_first(proto, cast)
    made = Artifact("onnx", proto.SerializeToString())
    _try(made, mode)
    return made


def _put_first(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    after = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *after])


def _try(artifact: Artifact, mode: str) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(artifact.data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise MeuseError(
            Code.UNAVAILABLE,
            f"ONNX Runtime {onnxruntime.__version__} cannot load this model with {mode} weights: "
            f"{str(error)[:200]}",
            field="mode",
            hint="Use float16.",
        ) from None
