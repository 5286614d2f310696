"""The libraries' own ways to compress, as their documentation calls them, shaped as methods.

Knows the libraries; knows nothing of what they are compared with. What a job calls a method is a
function of a network or of a graph (`meuse.compress.method`).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from meuse.compress.artifact import Artifact
from meuse.compress.material import GraphMaterial, Material
from meuse.compress.methods import ir, qat_nncf
from meuse.compress.methods.quantize import graphs
from meuse.compress.methods.quantize.openvino import load_nncf
from meuse.compress.weights import layers
from meuse.train import answers, surgery
from meuse.train.batches import tensor_of
from meuse.train.prepare import graph as prepare

ROWS = 300
"""Of NNCF's default: those that ranges are taken from."""
_ADAM: dict[str, Any] = {
    "optimizer": "adam", "momentum": None, "nesterov": False, "weight_decay": 0.0,
}  # fmt: skip


class Options(msgspec.Struct, frozen=True):
    """Of a library's way: what it takes of ours, and the epochs of training after it."""

    rate: float = 0.0
    bits: int = 0
    mode: str = ""
    rank: int = 0
    epochs: int = 0
    learning_rate: float = 0.0


def torch_magnitude(network: nn.Module, material: Material, config: Options) -> nn.Module:
    """`torch.nn.utils.prune`: the least magnitudes of all layers, at once."""
    chosen = [(layer.module, layer.tensor) for layer in layers(network)]
    torch_prune.global_unstructured(
        chosen, pruning_method=torch_prune.L1Unstructured, amount=config.rate
    )
    for module, tensor in chosen:
        torch_prune.remove(module, tensor)  # type: ignore[no-untyped-call]
    return _trained(network, material, config)


def torch_pruning(network: nn.Module, material: Material, config: Options) -> nn.Module:
    """torch-pruning's own pruner by group magnitude, at once."""
    import torch_pruning as tp

    sizes, last = surgery.sizes(network), layers(network)[-1].module
    pruner = tp.pruner.BasePruner(
        network.eval(),
        tensor_of(material.train.x[:2]),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=config.rate,
        ignored_layers=[last],
    )
    pruner.step()
    surgery.edits_of(network).extend(surgery.changes(sizes, network))
    return _trained(network, material, config)


def sklearn_kmeans(network: nn.Module, material: Material, config: Options) -> nn.Module:
    """scikit-learn's KMeans of every layer's weights."""
    from sklearn.cluster import KMeans

    for layer in layers(network):
        flat = layer.weight.reshape(-1, 1).double().numpy()
        found = KMeans(2**config.bits, n_init=1, random_state=0).fit(flat)
        values = found.cluster_centers_[found.labels_, 0].astype(np.float32)
        layer.set(torch.from_numpy(values).reshape(layer.weight.shape))
    return network


def torch_svd(network: nn.Module, material: Material, config: Options) -> nn.Module:
    """`torch.linalg.svd` of the weights alone, one rank for every layer that gets smaller."""
    for layer in layers(network):
        matrix = layer.rows(layer.weight)
        if layer.last or config.rank * sum(matrix.shape) >= matrix.numel():
            continue
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        old, rank = layer.module, config.rank
        surgery.apply(network, [{"kind": "factor", "module": layer.name, "rank": rank}])
        pair: Any = network.get_submodule(layer.name)
        with torch.no_grad():
            for module, value in ((pair[0], s[:rank, None] * vt[:rank]), (pair[1], u[:, :rank])):
                module.weight.copy_(value.reshape(module.weight.shape))
            pair[1].bias.copy_(old.bias)
    return _trained(network, material, config)


def nncf_qat(network: nn.Module, material: Material, config: Options) -> Artifact:
    """`nncf.quantize` of the torch module, training, `nncf.strip` and `openvino.convert_model`,
    all else default; trained with Adam as ours is."""
    nncf = load_nncf()
    import openvino as ov

    qat_nncf.compile_nothing()
    rows = tensor_of(material.train.x[:ROWS])
    with graphs.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of NNCF's own switches
        whole = qat_nncf.Whole(network).eval()
        made = nncf.quantize(whole, nncf.Dataset([rows[at : at + 1] for at in range(len(rows))]))
        options = msgspec.structs.replace(
            material.options(config.epochs, config.learning_rate), **_ADAM
        )
        material.fine_tune(made, config.epochs, name="peer", options=options)
        graph = ov.convert_model(
            nncf.strip(made.eval(), example_input=rows[:1]),
            example_input=rows[:1],
            input=[-1, *rows.shape[1:]],
        )
    first, last = (
        ir.model_of(part.SerializeToString())
        for part in (prepare.graph(material.preparation), answers.graph(material.answers))
    )
    return ir.pack(ir.join(first, graph, last))


def _trained(network: nn.Module, material: Material, config: Options) -> nn.Module:
    if config.epochs:
        material.fine_tune(network, config.epochs, name="peer")
    return network


def ort_int8(artifact: Artifact, material: GraphMaterial, config: Options) -> Artifact:
    """onnxruntime.quantization as its documentation calls it: pre-processed, all else default
    but the calibration that `mode` names."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, Any]] = iter(graphs.feeds(material.rows, 512, 32))

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory() as folder, graphs.quiet():
        names = ("model.onnx", "ready.onnx", "int8.onnx")
        source, ready, target = (str(Path(folder) / name) for name in names)
        Path(source).write_bytes(artifact.data)
        quant_pre_process(source, ready)
        if config.mode == "dynamic":
            quantize_dynamic(ready, target)
        else:
            method = CalibrationMethod[config.mode]
            quantize_static(ready, target, Reader(), calibrate_method=method)
        return Artifact("onnx", Path(target).read_bytes())


def ort_int4(artifact: Artifact, material: GraphMaterial, config: Options) -> Artifact:
    """onnxruntime's MatMulNBitsQuantizer with its defaults: 4 bits, 128 weights a scale, with
    zero points. It takes MatMul alone, so a Gemm becomes one by onnxruntime's own tool."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = ONNXModel(onnx.load_from_string(artifact.data))
    model.replace_gemm_with_matmul()
    with graphs.quiet():
        worker = MatMulNBitsQuantizer(model.model)
        worker.process()
    return Artifact("onnx", worker.model.model.SerializeToString())


def ort_float16(artifact: Artifact, material: GraphMaterial, config: Options) -> Artifact:
    """onnxruntime.transformers.float16 with its defaults, but for inputs and outputs: those are
    as a caller knows them."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    made = convert_float_to_float16(onnx.load_from_string(artifact.data), keep_io_types=True)
    return Artifact("onnx", made.SerializeToString())


def nncf_int8(artifact: Artifact, material: GraphMaterial, config: Options) -> Artifact:
    """`nncf.quantize` with its defaults, on 300 rows."""
    nncf = load_nncf()
    rows = nncf.Dataset(graphs.feeds(material.rows, ROWS, batch=1))
    with graphs.quiet():
        return ir.pack(nncf.quantize(ir.model_of(artifact.data), rows))


def nncf_weights(artifact: Artifact, material: GraphMaterial, config: Options) -> Artifact:
    """`nncf.compress_weights` with its defaults."""
    return ir.pack(load_nncf().compress_weights(ir.model_of(artifact.data)))


NETWORK = (torch_magnitude, torch_pruning, torch_svd, sklearn_kmeans, nncf_qat)
GRAPH = (ort_int8, ort_int4, ort_float16, nncf_int8, nncf_weights)
