"""Dynamic batching against batch 1: two deployments of one model under 32 clients, in pairs.

The engine alone sets the bound: on one core batching gains what the engine's cost per row falls
by from one row to 32, and nothing where a single row fills the core already. ONNX Runtime with
one thread, ms a row alone and in a batch of 32: the sentence encoder with texts of 8 tokens 5.0
and 2.3, of 32 tokens 11.7 and 11.1, the CNN 0.56 and 0.42.
"""

from __future__ import annotations

import statistics
from typing import Any

import clients
import ours
from bodies import Model

PAIRS = 3
WARM_S = 3.0


def measure(platform: ours.Platform, model: Model, reference: str, seconds: float) -> Any:
    """Throughput ratio and p95 of both. Raises NotAvailableError without `batching`."""
    names = (f"{model.name}-batched", f"{model.name}-single")
    try:
        ours.deploy(platform, names[0], reference, batching={"max_rows": 32})
        ours.deploy(platform, names[1], reference, batching={"max_rows": 1})
        batched, single = (ours.server(platform, model, name) for name in names)
        rounds = []
        for server in (batched, single):
            clients.saturate(server.port, server.json, server.group, WARM_S)
        for _ in range(PAIRS):
            a = clients.saturate(batched.port, batched.json, batched.group, seconds)
            b = clients.saturate(single.port, single.json, single.group, seconds)
            rounds.append({"batched": a, "single": b, "ratio": a["rate"] / b["rate"]})
    finally:
        for name in names:
            ours.remove(platform, name)
    return {
        "ratio": statistics.median(r["ratio"] for r in rounds),
        **{
            f"{side}_{figure}": statistics.median(r[side][figure] for r in rounds)
            for side in ("batched", "single")
            for figure in ("rate", "p50_us", "p95_us", "cpu_s_per_1000")
        },
        "rounds": rounds,
    }
