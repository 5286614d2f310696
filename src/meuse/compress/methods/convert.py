"""Another format for a finished graph. Knows OpenVINO's reader, and who converts to LiteRT."""

from __future__ import annotations

from meuse.compress.artifact import Artifact
from meuse.compress.configs.convert import Convert
from meuse.compress.material import GraphMaterial
from meuse.core.errors import invalid


def convert(artifact: Artifact, material: GraphMaterial, config: Convert) -> Artifact:
    """ONNX as OpenVINO IR in float32 (or in the integers that it has already), or as LiteRT in
    the numbers that `config` says.

    Raises `invalid_data` (field `model`) for an operator that the target lacks; for LiteRT also
    what `litert.outside.convert` raises.
    """
    if artifact.format != "onnx":
        raise invalid("to", f"the model is {artifact.format}, not ONNX", "Convert ONNX alone.")
    if config.to == "litert":
        from meuse.compress.litert import outside

        data = outside.convert(artifact.data, config.numbers, material)
        return Artifact("litert", data)
    from meuse.compress.methods import ir

    return ir.pack(ir.model_of(artifact.data))
