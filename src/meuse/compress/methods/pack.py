"""Packing: an ONNX file in the format `packed` (docs/packed.md)."""

from __future__ import annotations

from meuse.compress.artifact import Artifact
from meuse.compress.configs.pack import Pack
from meuse.compress.material import GraphMaterial
from meuse.core.errors import invalid
from meuse.serve import packed


def pack(artifact: Artifact, material: GraphMaterial, config: Pack) -> Artifact:
    """The same graph with each weight in its shortest lossless form (`serve.packed`).

    Pruned and shared weights become small here. Raises `invalid_field` (`method`) for a file
    that is not ONNX, and what `packed.pack` raises.
    """
    if artifact.format != "onnx":
        raise invalid(
            "method",
            f"only ONNX can be packed, not {artifact.format}",
            "Put pack in the place of, or before, the step that changes the format.",
        )
    data = packed.pack(artifact.data)
    before = len(artifact.data)
    material.job.log(f"packed {before:,} bytes into {len(data):,}: {before / len(data):.1f} times")
    return Artifact("packed", data)
