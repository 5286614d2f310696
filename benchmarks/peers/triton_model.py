"""Triton's Python backend over the same session; copied to <repository>/model/1/model.py."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils
from engine import Engine


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.engine = Engine()

    def execute(self, requests: list[Any]) -> list[Any]:
        feeds = [
            {
                name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in self.engine.dtypes
            }
            for request in requests
        ]
        name = self.engine.outputs[0]
        answers = self.engine.infer_many(feeds) if len(feeds) > 1 else [self.engine.infer(feeds[0])]
        return [
            pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(name, answer)])
            for answer in answers
        ]
