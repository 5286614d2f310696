"""Applying a preparation: the graph that will serve, run by ONNX Runtime in blocks of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from meuse.core.nouns import Frame, Signature
from meuse.train.prepare import graph
from meuse.train.prepare.builder import FEATURES
from meuse.train.prepare.steps import Preparation
from meuse.train.signature import inputs_of

_BLOCK_ROWS = 8192


class Preparer:
    """One preparation, ready to run. Not safe for two threads at once."""

    def __init__(self, preparation: Preparation, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._preparation = preparation
        self._inputs = Signature(graph.inputs_of(preparation), ())
        self._session = onnxruntime.InferenceSession(
            graph.graph(preparation).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )

    def run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Features of one batch of raw inputs."""
        (features,) = self._session.run([FEATURES], inputs)
        prepared: NDArray[Any] = features
        return prepared

    def apply(self, frame: Frame) -> NDArray[Any]:
        """Features [n, …] of all rows of `frame`."""
        frame = frame.select([name for name, _ in self._preparation.columns])
        shape = (len(frame), *self._preparation.shape)
        features = np.empty(shape, self._preparation.dtype)
        for start in range(0, len(frame), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            features[rows] = self.run(inputs_of(frame.take(rows), self._inputs, encode=False))
        return features
