"""Graphs in 8-bit integers for ONNX Runtime, static or dynamic.

Knows onnxruntime.quantization and this machine's processor; knows no metric and no gate.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import PERCENTILE, Quantize
from meuse.compress.material import GraphMaterial
from meuse.compress.methods.quantize import graphs
from meuse.compress.processor import sums_are_exact

_PRODUCTS = ("MatMul", "Gemm")
_CALIBRATIONS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
# What may lie between two convolutions without leaving integers.
_PASSING = ("Relu", "MaxPool", "Reshape", "Flatten")
_TABLE = 1024  # values: smaller tables of embeddings gain nothing
_SIGNED = (TensorProto.INT32,)
_LEAST = 256  # values: a smaller convolution gains less than its scales and node cost


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Batches of calibration rows, as the quantizer wants to pull them."""

    def __init__(self, feeds: graphs.Feeds) -> None:
        self._all = feeds
        self._next = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._next, None)

    def __len__(self) -> int:
        return len(self._all)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next = iter(self._all[start_index:end_index])


def static(artifact: Artifact, material: GraphMaterial, config: Quantize) -> Artifact:
    """Weights int8 and activations uint8 by ranges from `config.rows` of `material.rows`.

    Weights of MatMul, Gemm and Conv take one symmetric scale per output channel, so zeros stay
    zeros; what they read takes one scale and zero point per tensor. Between convolutions
    (ReLU, max pooling, sums of shortcuts) everything stays in integers. The rest stays float32:
    standardisation, because raw features share no scale; outputs of MatMul and Gemm, so that
    scores keep their precision; softmax and argmax. Tables of embeddings take one scale per
    row. Where the processor lacks VNNI, weights take 7 bits, because its 16-bit sums would
    saturate.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference (CVPR 2018), section 2; post-training, as
    quantize-dequantize pairs that the runtime fuses. Ranges: the extremes; a percentile; or
    the least Kullback-Leibler divergence (entropy). Raises what `quantize` raises.
    """
    feeds = graphs.feeds(material.rows, config.rows)
    return static_but(artifact, feeds, config, ())


def static_but(
    artifact: Artifact, feeds: graphs.Feeds, config: Quantize, left: Collection[str]
) -> Artifact:
    """`static` with the nodes named in `left` in float32 (names of `prepared`)."""
    with tempfile.TemporaryDirectory() as folder, graphs.quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        proto = prepared(artifact, Path(folder))
        onnx.save(proto, source)
        chosen = [name for name in nodes(proto) if name not in left]
        if not chosen and not (config.tables and _tables(proto)):
            raise graphs.nothing("MatMul, Gemm, Conv and tables of embeddings")
        if chosen:
            _static(source, target, feeds, chosen, config)
            proto = onnx.load(target)
    if config.tables:
        embeddings(proto)
    return finish(proto)


def _static(
    source: Path, target: Path, feeds: graphs.Feeds, chosen: list[str], config: Quantize
) -> None:
    options = {
        "OpTypesToExcludeOutputQuantization": list(_PRODUCTS),
        "MatMulConstBOnly": True,
        "CalibTensorRangeSymmetric": False,
        "CalibPercentile": PERCENTILE if config.percentile is None else config.percentile,
    }
    calibration = config.calibration or "minmax"
    if calibration != "minmax":  # histograms, of one batch after the other
        options["CalibStridedMinMax"] = 1
    quantize_static(
        str(source),
        str(target),
        _Rows(feeds),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*_PRODUCTS, "Conv", "Add", *_PASSING],
        nodes_to_quantize=chosen,
        per_channel=True,
        reduce_range=not sums_are_exact(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=_CALIBRATIONS[calibration],
        extra_options=options,
    )


def dynamic(artifact: Artifact, material: GraphMaterial, config: Quantize) -> Artifact:
    """Weights of MatMul and Gemm int8, one scale per output channel; what they read is
    quantized by the range of the batch at hand, so no row is needed to calibrate on, and rows
    of one batch touch each other's last bits. Convolutions compute in float32, which is faster
    than by integers whose ranges are found anew; their weights are stored as int8.

    Raises what `quantize` raises.
    """
    with tempfile.TemporaryDirectory() as folder, graphs.quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        proto = graphs.replace_gemm(prepared(artifact, Path(folder)))
        onnx.save(proto, source)
        known = graphs.constants(proto)
        chosen = [n.name for n in proto.graph.node if _is_product(n, known)]
        if not chosen and not (config.tables and _tables(proto)):
            raise graphs.nothing("MatMul, Gemm and tables of embeddings")
        if chosen:
            quantize_dynamic(
                str(source),
                str(target),
                op_types_to_quantize=list(_PRODUCTS),
                nodes_to_quantize=chosen,
                per_channel=True,
                reduce_range=not sums_are_exact(),
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
            proto = onnx.load(target)
    convolutions(proto)
    if config.tables:
        embeddings(proto)
    return finish(proto)


def prepared(artifact: Artifact, folder: Path) -> onnx.ModelProto:
    """The float graph as ONNX Runtime sees it: constants and batch normalisation folded."""
    proto = graphs.read(artifact)
    target = folder / "prepared.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    graphs.session(proto, options)
    made = onnx.load(target)
    for index, node in enumerate(made.graph.node):
        node.name = node.name or f"prepared_{index}"
    graphs.tell_types(made)
    return made


def nodes(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes that int8 works on: products with constant weights, convolutions, and
    what passes integers on from one to the next."""
    known = graphs.constants(proto)
    inside: set[str] = set()  # tensors that can be integers
    found = []
    for node in proto.graph.node:
        if node.op_type == "Conv" and node.input[1] in known:
            passes = True
        elif node.op_type == "Add":  # of a shortcut, not a bias
            passes = all(name in inside for name in node.input)
        else:
            passes = node.op_type in _PASSING and node.input[0] in inside
        if passes:
            inside.update(node.output)
        if passes or _is_product(node, known):
            found.append(node.name)
    return found


def _is_product(node: onnx.NodeProto, known: Collection[str]) -> bool:
    return node.op_type in _PRODUCTS and node.input[1] in known


def _tables(proto: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Tables of embeddings [rows, width], read by rows and by nothing else, and their readers."""
    known = graphs.constants(proto)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return {
        name: readers[name]
        for name, tensor in known.items()
        if len(tensor.dims) == 2
        and tensor.dims[0] * tensor.dims[1] >= _TABLE
        and name in readers
        and all(_is_lookup(node, name) for node in readers[name])
    }


def _is_lookup(node: onnx.NodeProto, table: str) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return node.op_type == "Gather" and node.input[0] == table and axis == 0


def embeddings(proto: onnx.ModelProto) -> None:
    """Tables of embeddings as int8 with one scale per row, which is looked up beside it."""
    tables = _tables(proto)
    made: dict[str, list[onnx.NodeProto]] = {}
    for name, lookups in tables.items():
        tensor = next(i for i in proto.graph.initializer if i.name == name)
        codes, scale = _rounded(numpy_helper.to_array(tensor), (1,))
        tensor.CopyFrom(numpy_helper.from_array(codes, f"{name}_int8"))
        proto.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        for node in lookups:
            made[node.name] = _lookup(node, name)
    whole = [part for node in proto.graph.node for part in made.get(node.name, [node])]
    del proto.graph.node[:]
    proto.graph.node.extend(whole)


def convolutions(proto: onnx.ModelProto) -> None:
    """Weights of convolutions as int8 with one scale per output. ONNX Runtime widens them once,
    when it loads the model: unlike DequantizeLinear, it folds a cast and a product."""
    known = graphs.constants(proto)
    made: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        name = node.input[1] if node.op_type == "Conv" else ""
        if name not in known or name in made or math.prod(known[name].dims) < _LEAST:
            continue
        values = numpy_helper.to_array(known[name])
        codes, scale = _rounded(values, tuple(range(1, values.ndim)))
        known[name].CopyFrom(numpy_helper.from_array(codes, f"{name}_int8"))
        proto.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        made[name] = _widened(f"{name}_int8", f"{name}_scale", name)
    whole = [*itertools.chain.from_iterable(made.values()), *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(whole)


def _widened(codes: str, scale: str, out: str) -> list[onnx.NodeProto]:
    wide = f"{out}_wide"
    return [
        helper.make_node("Cast", [codes], [wide], wide, to=TensorProto.FLOAT),
        helper.make_node("Mul", [wide, scale], [out], f"{out}_scaled"),
    ]


def _rounded(values: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values as int8 codes, and the symmetric scales that `axes` share."""
    largest = np.abs(values).max(axis=axes, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.rint(values / scale), -127, 127).astype(np.int8), scale


def _lookup(node: onnx.NodeProto, table: str) -> list[onnx.NodeProto]:
    ids, out = node.input[1], node.output[0]
    codes, scale = f"{out}_codes", f"{out}_scale"
    return [
        helper.make_node("Gather", [f"{table}_int8", ids], [codes], node.name, axis=0),
        helper.make_node("Gather", [f"{table}_scale", ids], [scale], f"{node.name}_scale", axis=0),
        *_widened(codes, scale, out),
    ]


def finish(proto: onnx.ModelProto) -> Artifact:
    """Without what the tools have left: names of files, shapes in between."""
    del proto.graph.value_info[:], proto.metadata_props[:]
    _without_zeros(proto)
    graphs.drop_unused(proto)
    graphs.only_used_domains(proto)
    return Artifact("onnx", proto.SerializeToString())


def _without_zeros(proto: onnx.ModelProto) -> None:
    """Zero points of constants that are zeros are left out, as the standard allows: of biases
    and of weights with a scale per output they are as many as scales."""
    known = {i.name: i for i in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) != 3:
            continue
        codes, zero = node.input[0], known.get(node.input[2])
        signed = codes in known and known[codes].data_type in _SIGNED
        if signed and zero is not None and not numpy_helper.to_array(zero).any():
            del node.input[2]
