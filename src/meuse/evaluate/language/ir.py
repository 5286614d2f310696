"""`LanguageModel` over OpenVINO, on CPUs: the graph with a cache in it that the engine serves.

Knows openvino.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.evaluate.language.likelihood import Floats, Ids, picked

GRAPH = "openvino_model.xml"
CHUNK = 256
"""Tokens per call; the cache holds those before. Bounds memory: a row of logits is large."""


class IrModel:
    """A stateful graph: `input_ids`, `attention_mask`, `position_ids`, `beam_idx` → `logits`."""

    def __init__(
        self,
        graph: Path,
        *,
        context: int,
        threads: int = 1,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises `invalid_data` for a graph that is no such one."""
        core = openvino.Core()
        try:
            read = core.read_model(graph)
            self._inputs = {name for port in read.inputs for name in port.get_names()}
            outputs = {name for port in read.outputs for name in port.get_names()}
            if "input_ids" not in self._inputs or "logits" not in outputs or not read.get_sinks():
                raise MeuseError(
                    Code.INVALID_DATA, "the graph is not that of a language model with a cache"
                )
            compiled = core.compile_model(
                read, "CPU", {"INFERENCE_NUM_THREADS": threads, **(properties or {})}
            )
        except RuntimeError as error:
            raise MeuseError(
                Code.INVALID_DATA, f"the model cannot be loaded: {str(error).strip()[-300:]}"
            ) from error
        self._request = compiled.create_infer_request()
        self.context = context

    def log_probabilities(self, ids: Ids) -> Floats:
        self._request.reset_state()
        parts = [
            picked(
                self._logits(ids, begin, min(begin + CHUNK, len(ids) - 1)), ids[begin + 1 :][:CHUNK]
            )
            for begin in range(0, len(ids) - 1, CHUNK)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def _logits(self, ids: Ids, begin: int, end: int) -> NDArray[Any]:
        """[end - begin, vocabulary], behind what the cache has; valid until the next call."""
        given = {
            "input_ids": ids[None, begin:end],
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(begin, end)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._request.infer({name: given[name] for name in given if name in self._inputs})
        logits: NDArray[Any] = self._request.get_tensor("logits").data
        if logits.shape[1] != end - begin:
            raise MeuseError(Code.INVALID_DATA, "the graph gives logits for the last token alone")
        return np.asarray(logits[0])
