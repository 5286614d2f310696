"""What the workers together have counted of one version: for the protocols that can be asked.

Pure: sums over what it is given (`Counters.slots`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from meuse.serve import stats
from meuse.serve.stats import Histogram, WorkerStats


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one version of a deployment, or of all its versions. Durations are distributions in
    ms over requests that a replica answered (`queue`, `compute`), or over all (`request`);
    `batches` one in rows over batches. Cache hits and misses are the deployment's."""

    ok: int
    failed: int
    rows: int
    last_ms: int
    """When the last one was answered, Unix milliseconds; 0: never."""
    failed_ms: float
    """What of `request` belongs to those that failed."""
    request: Histogram
    queue: Histogram
    compute: Histogram
    batches: Histogram
    cache_hits: int
    cache_misses: int


def of_target(slots: Iterable[WorkerStats], full_name: str, version: str | None) -> Statistics:
    """Sum over the workers for "owner/name" and "model:3"; None sums over all versions."""
    routes = [route for slot in slots if (route := slot.routes.get(full_name)) is not None]
    targets = [
        target
        for route in routes
        for name, target in route.targets.items()
        if version is None or name == version
    ]
    return Statistics(
        ok=sum(t.ok for t in targets),
        failed=sum(sum(t.failed.values()) for t in targets),
        rows=sum(t.rows for t in targets),
        last_ms=max((t.last_ms for t in targets), default=0),
        failed_ms=sum(t.failed_ms for t in targets),
        request=stats.total(t.request for t in targets),
        queue=stats.total(t.queue for t in targets),
        compute=stats.total(t.compute for t in targets),
        batches=stats.total((t.batch for t in targets), len(stats.BATCH_ROWS) + 1),
        cache_hits=sum(r.cache_hits for r in routes),
        cache_misses=sum(r.cache_misses for r in routes),
    )


def described(model: str, versions: Sequence[tuple[str, Statistics]]) -> list[dict[str, Any]]:
    """Triton's `model_stats` entries by version label, the same in JSON and protobuf.

    Nothing is measured of what Triton calls compute_input and compute_output, nor per batch size;
    cache hits are known per deployment only.
    """

    def duration(count: int, ms: float) -> dict[str, int]:
        return {"count": count, "ns": round(ms * 1e6)}

    return [
        {
            "name": model,
            "version": label,
            "last_inference": of.last_ms,
            "inference_count": of.rows,
            "execution_count": of.batches.count,
            "inference_stats": {
                "success": duration(of.ok, of.request.sum - of.failed_ms),
                "fail": duration(of.failed, of.failed_ms),
                "queue": duration(of.queue.count, of.queue.sum),
                "compute_input": duration(0, 0),
                "compute_infer": duration(of.compute.count, of.compute.sum),
                "compute_output": duration(0, 0),
                "cache_hit": duration(0, 0),
                "cache_miss": duration(0, 0),
            },
            "batch_stats": [],
        }
        for label, of in versions
    ]
