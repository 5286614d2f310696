"""LitServe: two API processes, two workers, batches of what waits (batch_timeout 0)."""

import os
from typing import Any

import litserve
from engine import Engine


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.engine = Engine()

    def decode_request(self, request) -> Any:  # LitServe reads the annotation: none is JSON
        return self.engine.feeds(request["input_data"])

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: Any) -> Any:
        return self.engine.infer_many(x) if isinstance(x, list) else self.engine.infer(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"output_data": output.tolist()}


if __name__ == "__main__":
    batch = int(os.environ.get("BENCH_BATCH", "32"))
    wait = float(os.environ.get("BENCH_WAIT_S", "0.001"))
    server = litserve.LitServer(
        Api(max_batch_size=batch, batch_timeout=wait if batch > 1 else 0.0),
        accelerator="cpu",
        workers_per_device=2,
        fast_queue=os.environ.get("BENCH_FAST", "1") == "1",
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=2,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
