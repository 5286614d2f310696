"""The engine that every Python peer runs in its own process: one ONNX Runtime session.

BENCH_MODEL names the ONNX file. One intra-op thread, as the platform's replicas have: on a
machine with two cores more threads for one small model only take from the HTTP server.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime

DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class Engine:
    """Rows in, rows out; `dtypes` by input name."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        path = os.environ["BENCH_MODEL"]
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.run = session.run
        self.dtypes = {i.name: DTYPES[i.type] for i in session.get_inputs()}
        self.shapes = {i.name: i.shape[1:] for i in session.get_inputs()}
        self.outputs = [o.name for o in session.get_outputs()]

    def feeds(self, input_data: Any) -> dict[str, Any]:
        """Rows of the only input, or an object of rows by input name → arrays by name."""
        given = (
            input_data if isinstance(input_data, dict) else {next(iter(self.dtypes)): input_data}
        )
        return {name: np.array(given[name], dtype) for name, dtype in self.dtypes.items()}

    def infer(self, feeds: dict[str, Any]) -> Any:
        return self.run(self.outputs[:1], feeds)[0]

    def infer_many(self, requests: list[dict[str, Any]]) -> list[Any]:
        """Several requests in one batch; an answer for each."""
        counts = [len(next(iter(feeds.values()))) for feeds in requests]
        joined = {n: np.concatenate([feeds[n] for feeds in requests]) for n in self.dtypes}
        return np.split(self.infer(joined), np.cumsum(counts)[:-1])
