"""OpenVINO IR as an artifact: a zip of one .xml and one .bin, as the engine takes it.

Imports openvino only when it is used.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from meuse.compress.artifact import Artifact

_STAMP = (1980, 1, 1, 0, 0, 0)  # of the zip's entries


def model_of(model: bytes) -> Any:
    """ONNX as OpenVINO reads it, its outputs under their names."""
    from meuse.serve.engines.openvino import read_onnx

    graph, outputs = read_onnx(model)
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    return graph


def pack(model: Any) -> Artifact:
    """The model as an IR artifact."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(model, path, compress_to_fp16=False)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for part in (path, path.with_suffix(".bin")):
                entry = zipfile.ZipInfo(part.name, _STAMP)
                entry.compress_type = zipfile.ZIP_DEFLATED
                file.writestr(entry, part.read_bytes())
    return Artifact("openvino", buffer.getvalue())
