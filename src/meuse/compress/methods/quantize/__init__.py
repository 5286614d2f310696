"""Quantization of a finished graph: one method, whose `mode` says what numbers become."""

from __future__ import annotations

from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Quantize
from meuse.compress.material import GraphMaterial
from meuse.compress.methods.quantize import half, int4, int8, mixed, openvino


def quantize(artifact: Artifact, material: GraphMaterial, config: Quantize) -> Artifact:
    """The model with smaller numbers; the modules of this package say how for each mode.

    Raises `invalid_data` (field `model`) when nothing in the graph can be quantized, (`data`)
    when there are too few rows to calibrate on, and `unavailable` for a mode whose library is
    not installed.
    """
    if config.mode == "int8_static":
        return int8.static(artifact, material, config)
    if config.mode == "int8_dynamic":
        return int8.dynamic(artifact, material, config)
    if config.mode == "mixed":
        return mixed.mixed(artifact, material, config)
    if config.mode == "int4":
        return int4.weights(artifact, material, config)
    if config.mode in ("float16", "bfloat16"):
        return half.weights(artifact, config.mode)
    return openvino.quantize(artifact, material, config)
