"""Another format for a finished graph. Knows OpenVINO's reader, and who converts to LiteRT."""

from __future__ import annotations

from meuse.compress.artifact import Artifact
from meuse.compress.configs.convert import Convert
from meuse.compress.configs.quantize import LEAST_ROWS
from meuse.compress.material import GraphMaterial
from meuse.compress.methods.quantize import graphs
from meuse.core.errors import invalid


def convert(artifact: Artifact, material: GraphMaterial, config: Convert) -> Artifact:
    """ONNX as OpenVINO IR in float32 (or in the integers that it has already), or as LiteRT in
    the numbers that `config` says.

    Raises `invalid_data`: `model` for an operator that the target lacks, `data` for fewer than 16
    rows to take the ranges of LiteRT's int8 from; for LiteRT also what
    `litert.outside.convert` raises.
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

    return ir.pack(ir.model_of(artifact.data))
