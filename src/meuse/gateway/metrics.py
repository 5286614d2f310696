"""`GET /metrics`: what all workers of the host have counted, as Prometheus text or OpenMetrics.

Any worker answers the same. It brings its own counters to their file first and then sums the
files: so what was once shown is on file, and no counter falls when a worker is killed.

Labels name deployments and versions, never a caller. A tenant's key sees the tenant's own
deployments by their bare names; an administrator's sees every one as "owner/name", and the
platform besides. prometheus-client is loaded at the first scrape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from meuse.core.version import __version__
from meuse.gateway.counters import Counters
from meuse.gateway.routes import Caller
from meuse.serve import stats
from meuse.serve.stats import Histogram, RouteStats, TargetStats, WorkerStats

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_SECONDS = tuple(bound / 1000 for bound in stats.LATENCY_MS)


@dataclass(frozen=True, slots=True)
class Scrape:
    """Who asks, and what this worker alone knows. `shown`: versions by "owner/name"."""

    now_ms: float
    owner: str | None  # None: the platform's administrator
    shown: Mapping[str, frozenset[str]]
    connected: Mapping[tuple[str, str], int]

    def label(self, full_name: str) -> str | None:
        """What the asking one calls a deployment; None when it is none of theirs."""
        if self.owner is None:
            return full_name
        owner, _, name = full_name.partition("/")
        return name if owner == self.owner else None


async def answer(
    counters: Counters, caller: Caller, connected: Mapping[tuple[str, str], int], accept: str
) -> tuple[bytes, bytes]:
    """(body, content type) for one scrape. Rendered in a thread: the loop goes on."""
    counters.write()
    owner = None if "admin" in caller.scopes else caller.tenant
    scrape = Scrape(counters.stats.at_ms, owner, counters.shown(), connected)
    return await asyncio.to_thread(_render, counters.folder, scrape, accept)


def _render(folder: Path, scrape: Scrape, accept: str) -> tuple[bytes, bytes]:
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    class Families(Collector):
        def collect(self) -> Iterable[Metric]:
            return families(stats.read_all(folder), scrape)

    encode, kind = choose_encoder(accept)
    return encode(Families()), kind.encode()


def families(slots: Sequence[WorkerStats], scrape: Scrape) -> Iterator[Metric]:
    """Every family that this scrape may see."""
    from prometheus_client.core import InfoMetricFamily

    yield InfoMetricFamily("meuse_build", "The running version.", value={"version": __version__})
    yield from _of_versions(slots, scrape)
    yield from _of_deployments(slots, scrape)
    if scrape.owner is None:
        yield from _of_the_gateway(slots)
        yield from _of_workers([slot for slot in slots if slot.is_live(scrape.now_ms)])


def _of_versions(slots: Sequence[WorkerStats], scrape: Scrape) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = ["deployment", "version"]
    found: dict[tuple[str, str], list[TargetStats]] = {}
    for slot in slots:
        for full_name, route in slot.routes.items():
            name = scrape.label(full_name)
            for version in scrape.shown.get(full_name, ()) if name is not None else ():
                if name is not None and (target := route.targets.get(version)) is not None:
                    found.setdefault((name, version), []).append(target)
    requests = CounterMetricFamily(
        "meuse_requests", "Admitted requests by how they ended: ok, or an error code.",
        labels=[*labels, "code"],
    )  # fmt: skip
    rows = CounterMetricFamily("meuse_rows", "Rows that were answered.", labels=labels)
    shadow = CounterMetricFamily(
        "meuse_shadow", "Answers of a shadow version by whether they agreed with those given.",
        labels=[*labels, "result"],
    )  # fmt: skip
    for key, targets in sorted(found.items()):
        requests.add_metric([*key, "ok"], sum(t.ok for t in targets))
        for code, count in sorted(_summed(t.failed for t in targets).items()):
            requests.add_metric([*key, code], count)
        rows.add_metric(key, sum(t.rows for t in targets))
        agreed, differed = sum(t.agreed for t in targets), sum(t.differed for t in targets)
        if agreed or differed:
            shadow.add_metric([*key, "agreed"], agreed)
            shadow.add_metric([*key, "differed"], differed)
    yield requests
    yield rows
    yield shadow
    yield _histogram(
        "meuse_request_duration_seconds", "From admission to the answer.", labels,
        {key: stats.total(t.request for t in targets) for key, targets in found.items()},
    )  # fmt: skip
    yield _histogram(
        "meuse_queue_seconds", "From arrival at a replica to the start of the batch.", labels,
        {key: stats.total(t.queue for t in targets) for key, targets in found.items()},
    )  # fmt: skip
    yield _histogram(
        "meuse_compute_seconds", "A request's share of its batch's time in the engine.", labels,
        {key: stats.total(t.compute for t in targets) for key, targets in found.items()},
    )  # fmt: skip
    size = len(stats.BATCH_ROWS) + 1
    yield _histogram(
        "meuse_batch_rows", "Batches by their rows.", labels,
        {key: stats.total((t.batch for t in targets), size) for key, targets in found.items()},
        stats.BATCH_ROWS,
    )  # fmt: skip
    replicas = GaugeMetricFamily(
        "meuse_replicas", "Replicas that the answering worker is connected to.", labels=labels
    )
    for (full_name, version), count in sorted(scrape.connected.items()):
        if (name := scrape.label(full_name)) is not None:
            replicas.add_metric([name, version], count)
    yield replicas


def _of_deployments(slots: Sequence[WorkerStats], scrape: Scrape) -> Iterator[Metric]:
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
    for full_name in sorted(scrape.shown):
        if (name := scrape.label(full_name)) is None:
            continue
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
    ):
        yield CounterMetricFamily(name, help_, value=value)
    yield _histogram(
        "meuse_journal_sync_seconds", "Syncs of the usage journal to the disk.", [],
        {(): stats.total(v.journal_sync for v in vitals)},
    )  # fmt: skip


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


def _histogram(
    name: str,
    help_: str,
    labels: list[str],
    found: Mapping[tuple[str, ...], Histogram],
    bounds: Sequence[float] = (),
) -> Metric:
    """`bounds` are those of the counts; without them they are durations, given in seconds."""
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, help_, labels=labels)
    names = [*(str(float(bound)) for bound in bounds or _SECONDS), "+Inf"]
    for key, histogram in sorted(found.items()):
        total = histogram.sum if bounds else histogram.sum / 1000
        family.add_metric(
            key, list(zip(names, accumulate(histogram.counts), strict=True)), sum_value=total
        )
    return family
