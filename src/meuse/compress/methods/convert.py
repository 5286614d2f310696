"""Another format for a finished graph. Knows OpenVINO's reader, and who converts to LiteRT."""

from __future__ import annotations

from meuse.compress import counts, parity
from meuse.compress.artifact import Artifact
from meuse.compress.configs.convert import Convert
from meuse.compress.configs.quantize import LEAST_ROWS
from meuse.compress.material import GraphMaterial
from meuse.compress.methods.quantize import graphs
from meuse.compress.parity import Bound
from meuse.core.errors import invalid
from meuse.train import export

_FLOATS = Bound(1e-4, 1e-5)
_ROUNDED = Bound(0.5, export.ROUNDED)
"""Of graphs with integers or half floats: what a sum rounds to is the engine's own affair."""


def convert(artifact: Artifact, material: GraphMaterial, config: Convert) -> Artifact:
    """ONNX as OpenVINO IR in float32 (or in the integers that it has already), or as LiteRT in
    the numbers that `config` says.

    Raises `invalid_data`: `model` for an operator that the target lacks and for a file whose
    answers are not those of the graph, `data` for fewer than 16 rows to take the ranges of
    LiteRT's int8 from; for LiteRT also what `litert.outside.convert` raises.
    """
    if artifact.format != "onnx":
        raise invalid("to", f"the model is {artifact.format}, not ONNX", "Convert ONNX alone.")
    if config.to == "litert":
        if config.numbers == "int8":
            graphs.feeds(material.rows, LEAST_ROWS)  # refuses fewer, which say nothing of ranges
        from meuse.compress.litert import outside

        data = outside.convert(artifact.data, config.numbers, material)
        return Artifact("litert", data)
    from meuse.compress.methods import ir

    made = ir.pack(ir.model_of(artifact.data))
    _check(artifact, made, material)
    return made


def _check(artifact: Artifact, made: Artifact, material: GraphMaterial) -> None:
    """OpenVINO computes some graphs of integers wrongly (see `quantize.openvino.FLOAT`)."""
    if any(layer.bits < 32 for layer in counts.count(artifact.data).layers):
        hint = "Use quantize(mode=openvino_int8) instead, or serve the ONNX file."
        parity.check(artifact, made, _ROUNDED, material, "OpenVINO IR", hint)
    else:
        parity.check(artifact, made, _FLOATS, material, "OpenVINO IR", "Serve the ONNX file.")
