"""Export: from a trained network to a single ONNX file and its signature.

Knows torch.onnx and onnxruntime (for the parity check). The file holds no path, user name
or source text of the machine that made it.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature
from meuse.train.recipes import Standardised, served, signature_of

TOLERANCE = 1e-4


def export(
    model: Standardised, classes: tuple[str | int, ...] | None, rows: Tensor, path: Path
) -> tuple[Path, Signature]:
    """Write `model` to `path` as one ONNX file that takes raw rows in any batch size.

    Input `input` FP32 [-1, f]. A classifier gives `label` INT64 [-1] (class index) and
    `probabilities` FP32 [-1, k]; a regressor gives `value` FP32 [-1]. `rows` [≥ 3, f] are
    real rows for the parity check. Raises `internal` when ONNX Runtime and torch differ by
    more than 1e-4 (of the larger of 1 and the value).
    """
    network = served(model).eval()
    features = int(model.mean.shape[0])
    signature = signature_of(features, classes)
    names = [output.name for output in signature.outputs]
    proto = _strip(_convert(network, features, names))
    path.write_bytes(proto.SerializeToString())
    _check_parity(network, rows, path, names)
    return path, signature


def _convert(network: nn.Module, features: int, outputs: list[str]) -> onnx.ModelProto:
    """The graph by torch.export, with a dynamic batch.

    The example has two rows: a dimension of 0 or 1 would be taken for a constant.
    """
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it reports that torchvision is absent
    try:
        with warnings.catch_warnings():
            # torch 2.13 calls its own deprecated pytree check while it copies the graph.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            program = torch.onnx.export(
                network,
                (torch.zeros(2, features),),
                dynamo=True,
                external_data=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["input"],
                output_names=outputs,
                verbose=False,
            )
    finally:
        registration.setLevel(level)
    if program is None:
        raise MeuseError(Code.INTERNAL, "the export to ONNX gave no graph")
    proto: onnx.ModelProto = program.model_proto
    return proto


def _strip(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what the exporter says about source files, and all documentation."""
    graph = proto.graph
    parts: list[Any] = [proto, graph, *graph.node, *graph.input, *graph.output]
    parts += [*graph.value_info, *graph.initializer, *proto.functions]
    parts += [node for function in proto.functions for node in function.node]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    return proto


def _check_parity(network: nn.Module, rows: Tensor, path: Path, names: list[str]) -> None:
    """Compare ONNX Runtime with torch at batch 1 and batch 3."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3):
        part = rows[:batch]
        with torch.no_grad():
            wanted = network(part)
        found = session.run([names[-1]], {"input": part.numpy()})[0]
        reference = (wanted[-1] if isinstance(wanted, tuple) else wanted).numpy()
        scale = np.maximum(1, np.abs(reference))
        if (
            found.shape != reference.shape
            or float((np.abs(found - reference) / scale).max()) > TOLERANCE
        ):
            raise MeuseError(
                Code.INTERNAL,
                f"the exported model differs from the trained one at batch {batch}",
                hint="This is a fault of the platform or of its libraries; please report it.",
            )
