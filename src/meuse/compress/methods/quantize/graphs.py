"""ONNX graphs as quantization reads them, and the rows that it calibrates on.

Knows nodes and initializers; knows no scheme of numbers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import LEAST_ROWS, ROWS
from meuse.core.errors import Code, MeuseError, invalid

Feeds = list[dict[str, NDArray[Any]]]


def read(artifact: Artifact) -> onnx.ModelProto:
    """The graph. Raises `invalid_field` (`mode`) when it is no float ONNX model."""
    if artifact.format != "onnx":
        raise invalid(
            "mode", f"the model is {artifact.format} by now, not ONNX", "Quantize before that."
        )
    proto = onnx.load_from_string(artifact.data)
    done = {"QuantizeLinear", "DequantizeLinear", "MatMulInteger", "MatMulNBits", "QLinearConv"}
    if done & {node.op_type for node in proto.graph.node}:
        raise MeuseError(
            Code.INVALID_DATA,
            "the model is quantized already",
            field="method",
            hint="Quantize once; start from its float parent.",
        )
    for index, node in enumerate(every_node(proto.graph)):
        node.name = node.name or f"node_{index}"
    return proto


def nothing(kinds: str) -> MeuseError:
    """The refusal of a model in which nothing can be quantized."""
    return MeuseError(
        Code.INVALID_DATA,
        "the model has no weights that can be quantized",
        field="model",
        hint=f"This works on {kinds} with constant float32 weights.",
    )


def too_sensitive(bound: float) -> MeuseError:
    """The refusal of a model of which no layer may be quantized."""
    return MeuseError(
        Code.INVALID_DATA,
        f"no layer can be in fewer bits without the metric falling by more than {bound:g} on the "
        "validation split",
        field="max_drop",
        hint="Allow more with max_drop, or train with qat first.",
    )


def constants(proto: onnx.ModelProto) -> dict[str, TensorProto]:
    """Float32 initializers by name."""
    return {i.name: i for i in proto.graph.initializer if i.data_type == TensorProto.FLOAT}


def feeds(rows: Mapping[str, NDArray[Any]], most: int | None, batch: int = 64) -> Feeds:
    """Up to `most` raw rows (default 512) in batches as ONNX Runtime takes them. Raises
    `invalid_data` (`data`) for fewer than 16."""
    count = min(most or ROWS, len(next(iter(rows.values()))) if rows else 0)
    if count < LEAST_ROWS:
        raise MeuseError(
            Code.INVALID_DATA,
            f"there are {count} rows to calibrate on; at least {LEAST_ROWS} are needed",
            field="data",
            hint="Name a dataset with more rows, or use a mode without calibration "
            "(int8_dynamic, int4, float16).",
        )
    taken = {name: text(value[:count]) for name, value in rows.items()}
    return [
        {name: value[start : start + batch] for name, value in taken.items()}
        for start in range(0, count, batch)
    ]


def text(value: NDArray[Any]) -> NDArray[Any]:
    """Texts as `str`; engines take UTF-8 bytes."""
    if value.dtype != object:
        return value
    texts = np.empty(len(value), object)
    texts[:] = [t.decode() if isinstance(t, bytes) else t for t in value]
    return texts


def replace_gemm(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Every Gemm with constant weights as MatMul and Add, which more tools know."""
    known = constants(proto)
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        nodes += _matmul(proto, node, known) if node.op_type == "Gemm" else [node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    drop_unused(proto)
    return proto


def _matmul(
    proto: onnx.ModelProto, node: NodeProto, known: Mapping[str, TensorProto]
) -> list[NodeProto]:
    told = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    plain = not told.get("transA") and told.get("alpha", 1) == 1 and told.get("beta", 1) == 1
    if not plain or node.input[1] not in known:
        return [node]
    weight = numpy_helper.to_array(known[node.input[1]])
    name = f"{node.name}_weight"
    weight = np.ascontiguousarray(weight.T if told.get("transB") else weight)
    proto.graph.initializer.append(numpy_helper.from_array(weight, name))
    biased = len(node.input) > 2 and bool(node.input[2])
    product = f"{node.name}_product" if biased else node.output[0]
    made = [helper.make_node("MatMul", [node.input[0], name], [product], name=node.name)]
    if biased:
        added = [product, node.input[2]]
        made.append(helper.make_node("Add", added, [node.output[0]], name=f"{node.name}_bias"))
    return made


def every_node(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """All nodes, those of loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from every_node(attribute.g)


def drop_unused(proto: onnx.ModelProto) -> None:
    """Remove initializers that no node reads, in loops neither."""
    used = {name for node in every_node(proto.graph) for name in node.input}
    used |= {output.name for output in proto.graph.output}
    kept = [i for i in proto.graph.initializer if i.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)


def only_used_domains(proto: onnx.ModelProto) -> None:
    """Name no operator set that no node is of: some readers insist."""
    used = {node.domain for node in every_node(proto.graph)} | {""}
    used |= {node.domain for function in proto.functions for node in function.node}
    kept = [entry for entry in proto.opset_import if entry.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def tell_types(proto: onnx.ModelProto) -> None:
    """Write down the types of what nodes outside the standard give. ONNX's own inference does
    not know them, and crashes where a LabelEncoder reads one."""
    foreign = [n for n in proto.graph.node if n.domain not in ("", "ai.onnx", "ai.onnx.ml")]
    wanted = [name for node in foreign for name in node.output if name]
    known = {value.name for value in (*proto.graph.value_info, *proto.graph.output)}
    wanted = [name for name in wanted if name not in known]
    if wanted:
        for output in session(watching(proto, wanted)).get_outputs():
            kind = getattr(TensorProto, _TYPES[output.type.removeprefix("tensor(")[:-1]])
            shape = [n if isinstance(n, int) else None for n in output.shape]
            proto.graph.value_info.append(helper.make_tensor_value_info(output.name, kind, shape))


_TYPES = {
    "string": "STRING", "float": "FLOAT", "float16": "FLOAT16", "double": "DOUBLE",
    "bool": "BOOL", "int8": "INT8", "uint8": "UINT8", "int16": "INT16", "uint16": "UINT16",
    "int32": "INT32", "uint32": "UINT32", "int64": "INT64", "uint64": "UINT64",
}  # fmt: skip


def watching(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The same graph, giving these tensors instead of its outputs."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    del made.graph.output[:]
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return made


def session(
    proto: onnx.ModelProto, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """ONNX Runtime on a graph, on one thread."""
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def count(proto: onnx.ModelProto) -> dict[str, int]:
    """Values of all initializers by their type."""
    found: dict[str, int] = {}
    for tensor in proto.graph.initializer:
        name = TensorProto.DataType.Name(tensor.data_type)
        found[name] = found.get(name, 0) + int(np.prod(tensor.dims, dtype=np.int64))
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What onnxruntime.quantization prints and logs is no business of the job's log."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            # It hands arrays to torch that are not to be written to, and does not write.
            warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
            yield
    finally:
        logger.setLevel(level)
