"""Model files as tests look into them: run them, read their graph, see what really runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from helpers_jobs import RecordedJob
from meuse.compress.artifact import Artifact
from meuse.compress.material import GraphMaterial
from meuse.evaluate.metrics import for_task
from meuse.serve import engines


def run(artifact: Artifact, rows: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs, in their order, of the engine that serves such a file."""
    return list(engines.load(artifact.format, artifact.data).run(rows).values())


def graph(artifact: Artifact) -> onnx.GraphProto:
    return onnx.load_from_string(artifact.data).graph


def optimized(artifact: Artifact, folder: Path) -> list[str]:
    """The kinds of nodes that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(artifact.data, options)
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def material_of(trained: Any, job: RecordedJob) -> GraphMaterial:
    """Of a model of one matrix of numbers (`tests/compress/conftest.py`)."""
    splits = trained.splits
    return GraphMaterial(
        job=job,
        rows={"input": splits.train.frame.numbers},
        validation_rows={"input": splits.validation.frame.numbers},
        validation_y=splits.validation.y,
        task=splits.task,
        metric=for_task(splits.task),
        seed=0,
        digest="table",
    )
