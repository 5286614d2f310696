"""OpenVINO IR as an artifact: a zip of one .xml and one .bin, as the engine takes it.

Imports openvino only when it is used.
"""

from __future__ import annotations

import io
import itertools
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from meuse.compress.artifact import Artifact
from meuse.core.errors import Code, MeuseError

_STAMP = (1980, 1, 1, 0, 0, 0)  # of the zip's entries


def model_of(model: bytes) -> Any:
    """ONNX as OpenVINO reads it, its outputs under their names."""
    from meuse.serve.engines.openvino import read_onnx

    graph, outputs = read_onnx(model)
    # A process that has loaded openvino_tokenizers converts what a replica could not run.
    if any(port.get_element_type().to_string() == "string" for port in graph.inputs):
        raise MeuseError(
            Code.INVALID_DATA,
            "the model takes texts, for which OpenVINO has no operators",
            field="model",
            hint="Keep it ONNX.",
        )
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    return graph


def join(*parts: Any) -> Any:
    """One model of several: each reads in its only input what the one before gives in its only
    output. Inputs are those of the first, outputs those of the last. The parts are used up."""
    import openvino as ov

    for before, after in itertools.pairwise(parts):
        given = before.outputs[0].get_node().input_value(0)
        for reader in after.inputs[0].get_node().output(0).get_target_inputs():
            reader.replace_source_output(given)
    return ov.Model(parts[-1].get_results(), parts[0].get_parameters())


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
