"""Weights as 4-bit integers in groups, activations in float32. Knows onnxruntime.quantization.

ONNX Runtime multiplies with such weights directly (`MatMulNBits` of com.microsoft, two weights
in a byte, a float32 scale per group).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    HQQWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)

from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Quantize
from meuse.compress.material import GraphMaterial
from meuse.compress.methods.quantize import gptq, graphs
from meuse.core.errors import invalid

_SIZES = (256, 128, 64, 32, 16)
_DOMAIN = "com.microsoft"


def weights(artifact: Artifact, material: GraphMaterial, config: Quantize) -> Artifact:
    """Weights of MatMul and Gemm in 4 bits, one scale per `group_size` inputs of an output.

    `rtn` rounds to the nearest, symmetric, so zeros stay zeros; `hqq` moves each group's zero
    point to the weights' robust fit (Badri & Shaji, 2023, no rows needed); `gptq` rounds one
    input after the other and lets the rest make up for the error on `config.rows` rows
    (Frantar et al., arXiv:2210.17323). With `embeddings`, tables take 4 bits as well (rtn).
    Convolutions stay float32. Raises `invalid_field` (`group_size`) for a layer whose inputs it
    does not divide, unless `uneven` is `pad`, which fills the last group with zeros.
    """
    proto = graphs.replace_gemm(graphs.read(artifact))
    found = matrices(proto)
    tables = _tables(proto, config)
    if not found and not tables:
        raise graphs.nothing("MatMul, Gemm and tables of embeddings")
    if config.uneven != "pad":
        check_groups(found, config.size)
    proto = products(proto, found, material, config)
    if tables:
        plain = DefaultWeightOnlyQuantConfig(config.size, True, op_types_to_quantize=("Gather",))
        with graphs.quiet():
            proto = _quantized(proto, plain, tables, ("Gather",))
    return finish(proto)


def products(
    proto: onnx.ModelProto,
    found: dict[str, tuple[int, int]],
    material: GraphMaterial,
    config: Quantize,
) -> onnx.ModelProto:
    """The graph with the products `found` (of `matrices`) in 4 bits."""
    if not found:
        return proto
    with graphs.quiet():
        if config.algorithm != "gptq":
            return _quantized(proto, _algorithm(config), list(found), ("MatMul",))
        _gptq(proto, found, graphs.feeds(material.rows, config.rows), config.size)
    return proto


def finish(proto: onnx.ModelProto) -> Artifact:
    """Without the weights that were replaced, and naming whose operator it is."""
    graphs.drop_unused(proto)
    if _DOMAIN not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    return Artifact("onnx", proto.SerializeToString())


def matrices(proto: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Nodes that multiply with a constant matrix, and its (inputs, outputs)."""
    known = graphs.constants(proto)
    return {
        node.name: (known[node.input[1]].dims[0], known[node.input[1]].dims[1])
        for node in proto.graph.node
        if node.op_type == "MatMul"
        and node.input[1] in known
        and len(known[node.input[1]].dims) == 2
    }


def _tables(proto: onnx.ModelProto, config: Quantize) -> list[str]:
    """Nodes that look rows up in a table whose width the groups divide."""
    if not config.tables:
        return []
    known = graphs.constants(proto)
    return [
        node.name
        for node in proto.graph.node
        if node.op_type == "Gather"
        and node.input[0] in known
        and len(known[node.input[0]].dims) == 2
        and known[node.input[0]].dims[1] % config.size == 0
    ]


def check_groups(found: dict[str, tuple[int, int]], size: int) -> None:
    uneven = {name: inputs for name, (inputs, _) in found.items() if inputs % size}
    if not uneven:
        return
    name, inputs = next(iter(uneven.items()))
    common = math.gcd(*(inputs for inputs, _ in found.values()))
    fits = [s for s in _SIZES if common % s == 0]
    told = f"Sizes that divide all layers: {', '.join(map(str, fits))}. " if fits else ""
    raise invalid(
        "group_size",
        f"the layer {name!r} has {inputs} inputs, no multiple of {size}",
        f'{told}Or set uneven to "pad", which fills the last group with zeros.',
    )


def _algorithm(config: Quantize) -> Any:
    kinds = {"op_types_to_quantize": ("MatMul",)}
    if config.algorithm == "hqq":
        return HQQWeightOnlyQuantConfig(config.size, 4, **kinds)
    return DefaultWeightOnlyQuantConfig(config.size, True, **kinds)


def _quantized(
    proto: onnx.ModelProto, algorithm: Any, chosen: list[str], kinds: tuple[str, ...]
) -> onnx.ModelProto:
    # The tool goes into loops too, and there into tables that are none of embeddings.
    every = graphs.every_node(proto.graph)
    left = [n.name for n in every if n.op_type in kinds and n.name not in chosen]
    worker = MatMulNBitsQuantizer(
        proto,
        block_size=algorithm.block_size,
        is_symmetric=True,
        nodes_to_exclude=left,
        op_types_to_quantize=kinds,
        algo_config=algorithm,
    )
    worker.process()
    made: onnx.ModelProto = worker.model.model
    return made


def _gptq(
    proto: onnx.ModelProto, found: dict[str, tuple[int, int]], feeds: graphs.Feeds, size: int
) -> None:
    """Replace the chosen nodes, each rounded for the inputs that it sees in the float model."""
    known = graphs.constants(proto)
    chosen = {node.name: node for node in proto.graph.node if node.name in found}
    moments = _moments(proto, [node.input[0] for node in chosen.values()], feeds)
    for name, node in chosen.items():
        given, table = node.input
        weight = numpy_helper.to_array(known[table])
        codes, scales = gptq.round_to_groups(weight, moments[given], size)
        parts: dict[str, NDArray[Any]] = {
            f"{name}_q4": gptq.pack(codes, size),
            f"{name}_scales": scales.reshape(-1),
        }
        for part, value in parts.items():
            proto.graph.initializer.append(numpy_helper.from_array(value, part))
        inputs, outputs = weight.shape
        told = {"K": inputs, "N": outputs, "bits": 4, "block_size": size}
        given_parts = [given, *parts]
        node.CopyFrom(
            helper.make_node(
                "MatMulNBits", given_parts, list(node.output), name, domain=_DOMAIN, **told
            )
        )


def _moments(
    proto: onnx.ModelProto, names: list[str], feeds: graphs.Feeds
) -> dict[str, NDArray[np.float64]]:
    """Of each tensor [.., inputs], the sum of xᵀx over all its rows."""
    wanted = sorted(set(names))
    session = graphs.session(graphs.watching(proto, wanted))
    sums: dict[str, NDArray[np.float64]] = {}
    for feed in feeds:
        for name, value in zip(wanted, session.run(None, feed), strict=True):
            rows = value.reshape(-1, value.shape[-1]).astype(np.float64)
            sums[name] = sums.get(name, 0) + rows.T @ rows
    return sums
