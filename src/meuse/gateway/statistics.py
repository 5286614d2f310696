"""What each version of each deployment has done, as Open Inference statistics count it.

In memory of one worker, since its start. Knows no protocol and reads no clock but the monotonic
one for durations and the wall clock for `last_ms`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from meuse.core.clock import now_ms


@dataclass(slots=True)
class Duration:
    """How often, and how long together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


@dataclass(slots=True)
class VersionStatistics:
    """One version of one deployment. `rows` counts inferences, `runs` the requests behind them.

    `queue` is everything of a request's time that the engine did not take.
    """

    label: str = ""
    last_ms: int = 0
    rows: int = 0
    runs: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)


class Statistics:
    """By (deployment "owner/name", version "model:number")."""

    def __init__(self) -> None:
        self._by_version: dict[tuple[str, str], VersionStatistics] = {}

    def succeeded(
        self, deployment: str, version: str, rows: int, compute_us: int, started_ns: int
    ) -> None:
        """A request that began at `started_ns` (perf_counter_ns) is answered."""
        found, total = self._find(deployment, version), time.perf_counter_ns() - started_ns
        compute = compute_us * 1000
        found.last_ms = now_ms()
        found.rows += rows
        found.runs += 1
        found.success.add(total)
        found.compute.add(compute)
        found.queue.add(max(total - compute, 0))

    def failed(self, deployment: str, version: str, started_ns: int) -> None:
        """A request that was admitted got no result."""
        self._find(deployment, version).fail.add(time.perf_counter_ns() - started_ns)

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

    def duration(of: Duration) -> dict[str, int]:
        return {"count": of.count, "ns": of.ns}

    none = {"count": 0, "ns": 0}
    return [
        {
            "name": model,
            "version": one.label,
            "last_inference": one.last_ms,
            "inference_count": one.rows,
            "execution_count": one.runs,
            "inference_stats": {
                "success": duration(one.success),
                "fail": duration(one.fail),
                "queue": duration(one.queue),
                "compute_input": none,
                "compute_infer": duration(one.compute),
                "compute_output": none,
                "cache_hit": none,
                "cache_miss": none,
            },
            "batch_stats": [],
        }
        for one in versions
    ]
