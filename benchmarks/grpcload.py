"""A closed-loop gRPC client for where h2load is absent: N channels, M calls in flight on each.

Sends one prepared message as it stands, and decodes no answer. Run as a process of its own;
prints one JSON line.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from typing import Any

import grpc
import grpc.aio

METHOD = "/inference.GRPCInferenceService/ModelInfer"


async def run(options: dict[str, Any]) -> dict[str, Any]:
    message = base64.b64decode(options["message"])
    metadata = [tuple(pair) for pair in options["headers"]]
    until = time.perf_counter() + options["seconds"]
    latencies: list[float] = []
    errors = 0

    async def loop(call: Any) -> None:
        nonlocal errors
        while (now := time.perf_counter()) < until:
            try:
                await call(message, metadata=metadata, timeout=10.0)
                latencies.append(time.perf_counter() - now)
            except grpc.aio.AioRpcError:
                errors += 1

    channels = [
        grpc.aio.insecure_channel(
            f"127.0.0.1:{options['port']}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        for _ in range(options["channels"])
    ]
    calls: list[Any] = [c.unary_unary(METHOD) for c in channels for _ in range(options["streams"])]
    began = time.perf_counter()
    await asyncio.gather(*(loop(call) for call in calls))
    seconds = time.perf_counter() - began
    for channel in channels:
        await channel.close()
    latencies.sort()
    return {
        "rate": len(latencies) / seconds,
        "requests": len(latencies),
        "p50_us": latencies[len(latencies) // 2] * 1e6 if latencies else None,
        "p99_us": latencies[len(latencies) * 99 // 100] * 1e6 if latencies else None,
        "errors": errors,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.load(sys.stdin)))))
