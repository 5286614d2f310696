"""`GET /metrics`: what all workers of the host have counted, as Prometheus text or OpenMetrics.

Any worker answers the same. It brings its own counters to their file first and then sums the
files: so what was once shown is on file, and no counter falls when a worker is killed. What left
the snapshot is shown for `SHOWN_S` more, so that the last of its counts is scraped.

Labels name deployments and versions, never a caller. A tenant's key sees the tenant's own
deployments by their bare names; an administrator's sees every one as "owner/name", and the
platform besides. prometheus-client is loaded at the first scrape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from meuse.core.version import __version__
from meuse.gateway.dataplane import DataPlane
from meuse.gateway.routes import Caller
from meuse.serve import stats
from meuse.serve.stats import Histogram, RouteStats, TargetStats, WorkerStats

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_SECONDS = tuple(bound / 1000 for bound in stats.LATENCY_MS)


SHOWN_S = 600.0
"""Less than `counters.KEPT_S`: what is dropped from one worker's file is no longer shown."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """Who asks whom, and what the asked worker alone knows."""

    slot: int
    now_ms: float
    owner: str | None  # None: the platform's administrator
    connected: Mapping[tuple[str, str], int]

    def label(self, full_name: str) -> str | None:
        """What the asking one calls a deployment; None when it is none of theirs."""
        if self.owner is None:
            return full_name
        owner, _, name = full_name.partition("/")
        return name if owner == self.owner else None


class Exposition:
    """One per worker. Renders in a thread, so that requests go on, and one scrape at a time, so
    that no key with the scope can take the processor from them."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._turn = asyncio.Lock()

    async def answer(self, caller: Caller, accept: str) -> tuple[bytes, bytes]:
        """(body, content type) for one scrape."""
        async with self._turn:
            counters = self._plane.counters
            counters.write()
            own = counters.stats
            owner = None if "admin" in caller.scopes else caller.tenant
            scrape = Scrape(own.slot, own.at_ms, owner, self._plane.connected())
            return await asyncio.to_thread(_render, counters.folder, scrape, accept)


def _render(folder: Path, scrape: Scrape, accept: str) -> tuple[bytes, bytes]:
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    class Families(Collector):
        def collect(self) -> Iterable[Metric]:
            return families(stats.read_all(folder), scrape)

    encode, kind = choose_encoder(accept)
    return encode(Families()), kind.encode()


def shown(slots: Sequence[WorkerStats], slot: int, since_ms: float) -> dict[str, frozenset[str]]:
    """Versions by deployment: those in the snapshot of worker `slot`, and those that the last of
    the workers saw leaving after `since_ms`."""
    found: dict[str, set[str]] = {}
    for worker in slots:
        for name, route in worker.routes.items():
            if route.left_ms > since_ms or (worker.slot == slot and not route.left_ms):
                found.setdefault(name, set()).update(
                    version
                    for version, target in route.targets.items()
                    if target.left_ms > since_ms or (worker.slot == slot and not target.left_ms)
                )
    return {name: frozenset(versions) for name, versions in found.items()}


def families(slots: Sequence[WorkerStats], scrape: Scrape) -> Iterator[Metric]:
    """Every family that this scrape may see."""
    from prometheus_client.core import InfoMetricFamily

    yield InfoMetricFamily("meuse_build", "The running version.", value={"version": __version__})
    recent = shown(slots, scrape.slot, scrape.now_ms - SHOWN_S * 1000)
    names = {name: label for name in sorted(recent) if (label := scrape.label(name)) is not None}
    found: dict[tuple[str, ...], list[TargetStats]] = {
        (label, version): [
            target
            for slot in slots
            if (route := slot.routes.get(name)) is not None
            if (target := route.targets.get(version)) is not None
        ]
        for name, label in names.items()
        for version in sorted(recent[name])
    }
    yield from _of_versions(found)
    yield from _of_replicas(scrape)
    yield from _of_deployments(slots, scrape, names)
    if scrape.owner is None:
        yield from _of_the_gateway(slots)
        yield from _of_workers([slot for slot in slots if slot.is_live(scrape.now_ms)])


def _of_versions(found: Mapping[tuple[str, ...], Sequence[TargetStats]]) -> Iterator[Metric]:
    """`found`: each worker's counters by deployment and version."""
    from prometheus_client.core import CounterMetricFamily

    labels = ["deployment", "version"]
    requests = CounterMetricFamily(
        "meuse_requests", "Admitted requests by how they ended: ok, or an error code.",
        labels=[*labels, "code"],
    )  # fmt: skip
    rows = CounterMetricFamily("meuse_rows", "Rows that were answered.", labels=labels)
    tokens = CounterMetricFamily(
        "meuse_tokens", "Tokens of texts: of prompts that were read, and those produced.",
        labels=[*labels, "kind"],
    )  # fmt: skip
    switches = CounterMetricFamily(
        "meuse_adapter_switches",
        "How often replicas changed adapters, under the version whose answer told of it.",
        labels=labels,
    )
    shadow = CounterMetricFamily(
        "meuse_shadow", "Requests to a shadow version, by how its answer compared.",
        labels=[*labels, "result"],
    )  # fmt: skip
    for key, targets in found.items():
        requests.add_metric([*key, "ok"], sum(t.ok for t in targets))
        for code, count in sorted(_summed(t.failed for t in targets).items()):
            requests.add_metric([*key, code], count)
        rows.add_metric(key, sum(t.rows for t in targets))
        produced = {
            "prompt": sum(t.prompt_tokens for t in targets),
            "completion": sum(t.completion_tokens for t in targets),
        }
        for kind, count in produced.items() if any(produced.values()) else ():
            tokens.add_metric([*key, kind], count)
        results = {
            "agreed": sum(t.agreed for t in targets),
            "differed": sum(t.differed for t in targets),
            "failed": sum(sum(t.shadow_failed.values()) for t in targets),
            "dropped": sum(t.shadow_dropped for t in targets),
        }
        for result, count in results.items() if any(results.values()) else ():
            shadow.add_metric([*key, result], count)
        if switched := sum(t.switches for t in targets):
            switches.add_metric(key, switched)
    yield requests
    yield rows
    yield tokens
    yield switches
    yield shadow
    for part, name, help_ in (
        ("request", "meuse_request_duration", "From admission to the answer."),
        ("queue", "meuse_queue", "From arrival at a replica to the start of the batch."),
        ("first", "meuse_first_token", "From admission to the first token of a text."),
        ("compute", "meuse_compute", "A request's share of its batch's time in the engine."),
    ):
        sums = {k: stats.total(map(attrgetter(part), targets)) for k, targets in found.items()}
        yield _durations(f"{name}_seconds", help_, labels, sums)
    size = len(stats.BATCH_ROWS) + 1
    batches = {k: stats.total((t.batch for t in targets), size) for k, targets in found.items()}
    yield _histogram(
        "meuse_batch_rows", "Batches by their rows.", labels, batches, stats.BATCH_ROWS
    )


def _of_replicas(scrape: Scrape) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    replicas = GaugeMetricFamily(
        "meuse_replicas", "Replicas that the answering worker is connected to.",
        labels=["deployment", "version"],
    )  # fmt: skip
    for (full_name, version), count in sorted(scrape.connected.items()):
        if (name := scrape.label(full_name)) is not None:
            replicas.add_metric([name, version], count)
    yield replicas


def _of_deployments(
    slots: Sequence[WorkerStats], scrape: Scrape, names: Mapping[str, str]
) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = ["deployment"]
    rejected = CounterMetricFamily(
        "meuse_rejected", "Requests that were not admitted, by error code.",
        labels=["deployment", "reason"],
    )  # fmt: skip
    ongoing = GaugeMetricFamily(
        "meuse_requests_ongoing", "Admitted and unanswered, those that wait too.", labels=labels
    )
    hits = CounterMetricFamily("meuse_cache_hits", "Answers from the cache.", labels=labels)
    misses = CounterMetricFamily(
        "meuse_cache_misses", "Requests that the cache had no answer for.", labels=labels
    )
    for full_name, name in names.items():
        found = [(slot, r) for slot in slots if (r := slot.routes.get(full_name)) is not None]
        routes: list[RouteStats] = [route for _, route in found]
        for code, count in sorted(_summed(r.refused for r in routes).items()):
            rejected.add_metric([name, code], count)
        live = [route.ongoing for slot, route in found if slot.is_live(scrape.now_ms)]
        ongoing.add_metric([name], sum(live))
        hits.add_metric([name], sum(r.cache_hits for r in routes))
        misses.add_metric([name], sum(r.cache_misses for r in routes))
    yield from (rejected, ongoing, hits, misses)


def _of_the_gateway(slots: Sequence[WorkerStats]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    unrouted = CounterMetricFamily(
        "meuse_unrouted", "Calls refused before a deployment was known, by error code.",
        labels=["reason"],
    )  # fmt: skip
    for code, count in sorted(_summed(slot.refused for slot in slots).items()):
        unrouted.add_metric([code], count)
    yield unrouted
    vitals = [slot.vitals for slot in slots]
    for name, help_, value in (
        ("meuse_journal_records", "Usage records written.", sum(v.journal_records for v in vitals)),
        ("meuse_journal_bytes", "Bytes of usage written.", sum(v.journal_bytes for v in vitals)),
        (
            "meuse_journal_sync_failures",
            "Syncs of the usage journal that the disk refused.",
            sum(v.journal_failures for v in vitals),
        ),
        (
            "meuse_journal_lost",
            "Requests that were served although the disk took no record.",
            sum(v.journal_lost for v in vitals),
        ),
    ):
        yield CounterMetricFamily(name, help_, value=value)
    syncs = stats.total(v.journal_sync for v in vitals)
    yield _durations("meuse_journal_sync_seconds", "Syncs of the usage journal.", [], {(): syncs})


def _of_workers(live: Sequence[WorkerStats]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, help_, values in (
        ("meuse_worker_resident_bytes", "Memory.", [s.vitals.resident_bytes for s in live]),
        ("meuse_worker_connections", "Open HTTP connections.",
         [s.vitals.connections for s in live]),
        ("meuse_worker_start_time_seconds", "When it started, Unix time.",
         [s.epoch / 1000 for s in live]),
        ("meuse_snapshot_number", "The snapshot that it serves.",
         [s.vitals.snapshot for s in live]),
        ("meuse_snapshot_time_seconds", "When it took that snapshot, Unix time.",
         [s.vitals.snapshot_ms / 1000 for s in live]),
        ("meuse_control_connected", "Whether it hears of new snapshots from control.",
         [int(s.vitals.follows_control) for s in live]),
        ("meuse_journal_lag_seconds", "Age of the oldest record that may not be on the disk yet.",
         [s.vitals.journal_lag_ms / 1000 for s in live]),
        ("meuse_journal_refusing", "Whether the disk refused the last usage record.",
         [int(s.vitals.journal_refusing) for s in live]),
    ):  # fmt: skip
        gauge = GaugeMetricFamily(name, help_, labels=["worker"])
        for slot, value in zip(live, values, strict=True):
            gauge.add_metric([str(slot.slot)], value)
        yield gauge
    cpu = CounterMetricFamily("meuse_worker_cpu_seconds", "Processor time.", labels=["worker"])
    for slot in live:
        cpu.add_metric([str(slot.slot)], slot.vitals.cpu_s)
    yield cpu


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    whole: dict[str, int] = {}
    for part in counts:
        for code, count in part.items():
            whole[code] = whole.get(code, 0) + count
    return whole


def _durations(
    name: str, help_: str, labels: list[str], found: Mapping[tuple[str, ...], Histogram]
) -> Metric:
    return _histogram(name, help_, labels, found, _SECONDS, unit=1000)


def _histogram(
    name: str,
    help_: str,
    labels: list[str],
    found: Mapping[tuple[str, ...], Histogram],
    bounds: Sequence[float],
    unit: int = 1,
) -> Metric:
    """`unit`: how many of what was counted are one of what is shown."""
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, help_, labels=labels)
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    for key, histogram in found.items():
        if key and not histogram.count:
            continue  # many deployments sleep, and a histogram is thirty lines
        buckets = list(zip(names, accumulate(histogram.counts), strict=True))
        family.add_metric(key, buckets, sum_value=histogram.sum / unit)
    return family
