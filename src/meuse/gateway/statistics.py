"""What each version of each deployment has done, as Open Inference statistics count it.

In memory of one worker, since its start. Knows no protocol and reads no clock but the monotonic
one for durations and the wall clock for `last_ms`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meuse.core.clock import now_ms


@dataclass(slots=True)
class VersionStatistics:
    """One version of one deployment. `rows` counts inferences, `requests` what they came in.

    Times are nanoseconds over all requests. What the engine did not take is time in queues.
    """

    label: str = ""
    last_ms: int = 0
    rows: int = 0
    requests: int = 0
    total_ns: int = 0
    compute_ns: int = 0
    failures: int = 0
    failed_ns: int = 0


class Statistics:
    """By (deployment "owner/name", version "model:number")."""

    def __init__(self) -> None:
        self._by_version: dict[tuple[str, str], VersionStatistics] = {}

    def succeeded(
        self, deployment: str, version: str, rows: int, compute_us: int, started_ns: int
    ) -> None:
        """A request that began at `started_ns` (perf_counter_ns) is answered."""
        found = self._by_version.get((deployment, version)) or self._find(deployment, version)
        found.last_ms = now_ms()
        found.rows += rows
        found.requests += 1
        found.total_ns += time.perf_counter_ns() - started_ns
        found.compute_ns += compute_us * 1000

    def failed(self, deployment: str, version: str, started_ns: int) -> None:
        """A request that was admitted got no result."""
        found = self._find(deployment, version)
        found.failures += 1
        found.failed_ns += time.perf_counter_ns() - started_ns

    def of(self, deployment: str, version: str, label: str) -> VersionStatistics:
        found = self._find(deployment, version)
        found.label = label
        return found

    def keep(self, deployments: set[str]) -> None:
        """Forget deployments that are gone."""
        self._by_version = {k: v for k, v in self._by_version.items() if k[0] in deployments}

    def _find(self, deployment: str, version: str) -> VersionStatistics:
        key = deployment, version
        found = self._by_version.get(key)
        if found is None:
            found = self._by_version[key] = VersionStatistics()
        return found


def described(model: str, versions: Sequence[VersionStatistics]) -> list[dict[str, Any]]:
    """Triton's `model_stats` entries, the same in JSON and protobuf."""

    def duration(count: int, ns: int) -> dict[str, int]:
        return {"count": count, "ns": ns}

    none = duration(0, 0)
    return [
        {
            "name": model,
            "version": one.label,
            "last_inference": one.last_ms,
            "inference_count": one.rows,
            "execution_count": one.requests,
            "inference_stats": {
                "success": duration(one.requests, one.total_ns),
                "fail": duration(one.failures, one.failed_ns),
                "queue": duration(one.requests, max(one.total_ns - one.compute_ns, 0)),
                "compute_input": none,
                "compute_infer": duration(one.requests, one.compute_ns),
                "compute_output": none,
                "cache_hit": none,
                "cache_miss": none,
            },
            "batch_stats": [],
        }
        for one in versions
    ]
