"""Training with integers simulated by NNCF, and the result as OpenVINO IR.

Knows NNCF's torch side and OpenVINO's converter; what is trained, and how, is `qat`'s business.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn

from meuse.compress.artifact import Artifact
from meuse.compress.material import Material
from meuse.compress.methods import ir
from meuse.compress.methods.quantize import graphs
from meuse.compress.methods.quantize.openvino import load_nncf
from meuse.compress.processor import sums_are_exact
from meuse.core.errors import Code, MeuseError
from meuse.train import answers, export, loop
from meuse.train.batches import tensor_of
from meuse.train.prepare import graph as prepare

_BATCH = 64
_COMPARED = 256
_FLOAT = ["add", "__add__", "__iadd__", "adaptive_avg_pool2d", "mean"]
"""By torch's names: see `quantize.openvino.FLOAT` for what they do to a shortcut."""


class Whole(nn.Module):
    """The network inside another: NNCF adds a child of its own to what it is given, and a
    Sequential would call that one as well."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores


def check(material: Material) -> None:
    """Raises `unavailable` (`backend`) where NNCF cannot work, and `invalid_data` (`model`)
    where OpenVINO has no operators for the rows' preparation; before anything is trained."""
    load_nncf("backend")
    try:
        import torchao  # noqa: F401  its observers are what nncf.strip makes
    except ImportError:
        raise MeuseError(
            Code.UNAVAILABLE,
            "torchao is not installed, which NNCF needs to export what it trained",
            field="backend",
            hint='Install it with pip install "meuse[nncf]", or use own.',
        ) from None
    ir.model_of(prepare.graph(material.preparation).SerializeToString())


def simulated(network: nn.Module, material: Material, rows: int) -> nn.Module:
    """The network as it computes with 8-bit weights and activations, which can be trained:
    `nncf.quantize`, its ranges from `rows` training rows. Raises `invalid_data` (`model`) for
    a network that NNCF finds nothing in to quantize, or cannot follow."""
    nncf = load_nncf("backend")
    compile_nothing()
    x = tensor_of(material.train.x[:rows])
    feeds = [x[start : start + _BATCH] for start in range(0, len(x), _BATCH)]
    fix = nncf.OverflowFix.DISABLE if sums_are_exact() else nncf.OverflowFix.ENABLE
    try:
        with graphs.quiet():
            made: nn.Module = nncf.quantize(
                Whole(network).eval(),
                nncf.Dataset(feeds),
                subset_size=len(feeds),
                ignored_scope=nncf.IgnoredScope(types=_FLOAT, validate=False),
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
            )
    except Exception as error:  # NNCF raises what its tracing meets
        raise _cannot(error) from error
    return made


def exported(network: nn.Module, material: Material) -> Artifact:
    """`network` (from `simulated`) between the preparation and the answers, as OpenVINO IR whose
    weights are int8. Raises `internal` where the engine answers other than the simulation."""
    rows = slice(0, min(_COMPARED, len(material.validation)))
    scores = loop.scores_of(network, material.validation.x[rows])
    first, last = (
        ir.model_of(part.SerializeToString())
        for part in (prepare.graph(material.preparation), answers.graph(material.answers))
    )
    artifact = ir.pack(ir.join(first, _converted(network, material), last))
    _compare(artifact, material, rows, material.answers.last_of(scores))
    return artifact


def compile_nothing() -> None:
    """NNCF would build an extension with the machine's compiler into the user's home, and wait a
    minute for it; its own operations in torch compute the same."""
    from nncf.torch.quantization import extensions
    from nncf.torch.quantization.reference import ReferenceBackendType, ReferenceQuantize

    plain = ReferenceQuantize(ReferenceBackendType.TORCH)
    extensions.QuantizedFunctionsCPU._loaded_namespace = SimpleNamespace(
        Quantize_forward=plain.forward, Quantize_backward=plain.backward
    )


def _converted(network: nn.Module, material: Material) -> Any:
    """Features → scores as OpenVINO's graph, weights as int8. By the parts that its tool `ovc`
    calls: the tool itself would tell its makers of every use."""
    nncf = load_nncf("backend")
    import openvino as ov
    from openvino._offline_transformations import (
        apply_moc_transformations,
        compress_quantize_weights_transformation,
    )
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = tensor_of(material.train.x[:2])
    with graphs.quiet(), warnings.catch_warnings():
        # It is traced once, for the graph alone: torch warns of tracing, and of NNCF's switches.
        warnings.simplefilter("ignore")
        stripped = nncf.strip(network.eval(), do_copy=False, example_input=example)
        reader = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(stripped, example_input=example)
        graph = reader.convert(reader.load(decoder))
    graph.reshape({graph.inputs[0]: ov.PartialShape([-1, *example.shape[1:]])})
    apply_moc_transformations(graph, cf=False)
    compress_quantize_weights_transformation(graph)
    return graph


def _compare(artifact: Artifact, material: Material, rows: slice, wanted: np.ndarray) -> None:
    """A sum in another order rounds to the next level here and there, so the median row counts."""
    from meuse.serve.engines.openvino import OpenVinoEngine

    engine = OpenVinoEngine(artifact.data, artifact.format)
    name = engine.signature.outputs[-1].name
    given = {key: value[rows] for key, value in material.validation_rows.items()}
    found = engine.run(given)[name]
    gaps = np.abs(found - wanted) / np.maximum(1, np.abs(wanted))
    middle = float(np.median(gaps.reshape(len(gaps), -1).max(axis=1)))
    material.job.log(f"the engine's answers differ from the simulation's by {middle:.2g}")
    if found.shape != wanted.shape or not middle <= export.ROUNDED:
        raise MeuseError(
            Code.INTERNAL,
            f"the exported model differs from the trained one by {middle:.3g}",
            hint="This is a fault of the platform or of its libraries; please report it.",
        )


def _cannot(error: Exception) -> MeuseError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return MeuseError(
        Code.INVALID_DATA,
        f"NNCF cannot quantize this network: {lines[0][:300]}",
        field="model",
        hint="Use the backend own, or quantize without training.",
    )
