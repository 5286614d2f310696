"""BentoML: a service of two workers with adaptive batching."""

from __future__ import annotations

import os
from typing import Any

import bentoml
from engine import Engine

BATCH = os.environ.get("BENCH_BATCH", "32") != "1"
options: dict[str, Any] = (
    {"batchable": True, "max_batch_size": 32, "max_latency_ms": 1000} if BATCH else {}
)


@bentoml.service(workers=2, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Model:
    def __init__(self) -> None:
        self.engine = Engine()

    @bentoml.api(route="/predict", **options)
    def predict(self, input_data: list[Any]) -> list[Any]:
        answer: list[Any] = self.engine.infer(self.engine.feeds(input_data)).tolist()
        return answer
