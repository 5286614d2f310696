"""Ray Serve: one HTTP proxy, two replicas, `serve.batch` over what waits."""

from __future__ import annotations

import os
from typing import Any

import ray
from engine import Engine
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=2, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.5})
class Model:
    def __init__(self) -> None:
        self.engine = Engine()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)
    async def infer(self, requests: list[Any]) -> list[Any]:
        return self.engine.infer_many(requests)

    async def __call__(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        answer = await self.infer(self.engine.feeds(body["input_data"]))
        return {"output_data": answer.tolist()}


if __name__ == "__main__":
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        _temp_dir=os.environ["BENCH_FOLDER"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])})
    serve.run(Model.bind(), route_prefix="/", blocking=True)  # type: ignore[attr-defined]
