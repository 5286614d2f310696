"""What a gateway worker has counted: one file per worker slot, replaced as a whole.

Counters only grow, also across a restart of the worker: the next one of the slot begins with
the file of the one before. So sums over all files are right at any moment, for `/metrics`, for
the autoscaler and for the judge of a canary alike, and nobody has to be asked. Kill -9 costs
what was counted since the last write. Times are milliseconds and floats, as counted.

What left the snapshot is marked (`left_ms`) and dropped later: see `gateway.counters`.

Histograms hold counts per bucket (not cumulative), the last one for all that is above.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

LATENCY_MS = tuple(
    float(bound)  # one kind of number: comparing is then twice as fast
    for bound in (
        0.5, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 25, 40, 60, 100, 150, 250, 400, 600, 1000, 1500,
        2500, 4000, 6000, 10_000, 15_000, 30_000, 60_000,
    )
)  # fmt: skip
"""Upper bounds of the buckets of all durations."""
HEARTBEAT_S = 5.0
BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


def _zeros(bounds: Sequence[float]) -> list[int]:
    return [0] * (len(bounds) + 1)


class Histogram(msgspec.Struct, array_like=True):
    """Counts per bucket and their sum."""

    counts: list[int]
    sum: float = 0.0

    def add(self, value: float, bounds: Sequence[float] = LATENCY_MS) -> None:
        self.counts[bisect_left(bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)


def durations() -> Histogram:
    return Histogram(_zeros(LATENCY_MS))


def batch_sizes() -> Histogram:
    return Histogram(_zeros(BATCH_ROWS))


class TargetStats(msgspec.Struct, array_like=True):
    """One version of a deployment. `request` is from admission to the answer; `queue` and
    `compute` are what the replica reported per request; `batch` counts batches by rows."""

    ok: int = 0
    rows: int = 0
    failed: dict[str, int] = {}  # by error code
    last_ms: int = 0
    request: Histogram = msgspec.field(default_factory=durations)
    queue: Histogram = msgspec.field(default_factory=durations)
    compute: Histogram = msgspec.field(default_factory=durations)
    batch: Histogram = msgspec.field(default_factory=batch_sizes)
    agreed: int = 0  # of a shadow: answers that were equal to those given
    differed: int = 0
    shadow_failed: dict[str, int] = {}  # of a shadow, by error code
    shadow_dropped: int = 0  # not asked: not there, or too many were pending
    failed_ms: float = 0.0  # of `request`, the share of those that failed
    left_ms: float = 0.0  # when it left the snapshot; 0: it is there
    prompt_tokens: int = 0  # as charged: those that the engine had cached are not among them
    completion_tokens: int = 0
    first: Histogram = msgspec.field(default_factory=durations)  # until the first token
    switches: int = 0  # of adapters in replicas, as told with its answers


class RouteStats(msgspec.Struct, array_like=True):
    """One deployment. `ongoing` requests are admitted and unanswered, waiting ones included.

    The integral of ongoing requests over time, in request-milliseconds, at time t is
    `done_ms + ongoing * t - started_ms`: see `area`.
    """

    ongoing: int = 0
    started_ms: float = 0.0  # sum of the start times of those ongoing
    done_ms: float = 0.0  # sum of the durations of those answered
    refused: dict[str, int] = {}  # before admission, by error code
    cache_hits: int = 0
    cache_misses: int = 0
    targets: dict[str, TargetStats] = {}  # by "model:3"
    left_ms: float = 0.0  # when it left the snapshot; 0: it is there

    def area(self, at_ms: float) -> float:
        return self.done_ms + self.ongoing * at_ms - self.started_ms


class Vitals(msgspec.Struct, array_like=True):
    """The process itself. What is summed goes on over restarts, the rest is of now."""

    resident_bytes: int = 0
    connections: int = 0  # HTTP
    snapshot: int = 0
    snapshot_ms: float = 0.0  # when it was taken
    follows_control: bool = False
    cpu_s: float = 0.0  # summed, as the four below
    journal_records: int = 0
    journal_bytes: int = 0
    journal_sync: Histogram = msgspec.field(default_factory=durations)
    journal_failures: int = 0  # syncs that the disk refused
    journal_lost: int = 0  # requests that were served unrecorded, summed
    journal_mode: str = ""  # group | strict
    journal_policy: str = ""  # refuse | serve, where the disk takes no record
    journal_segment: str = ""  # that is written now
    journal_lag_ms: float = 0.0  # age of the oldest record that may not be on the disk yet
    journal_synced_ms: float = 0.0  # Unix, of the last fsync; 0: none yet
    journal_refusing: bool = False  # the disk refused the last record


class WorkerStats(msgspec.Struct, array_like=True):
    """One worker slot. `at_ms`: Unix milliseconds of the writing; a worker that lives writes
    at least every `HEARTBEAT_S`."""

    slot: int
    epoch: int
    at_ms: float = 0.0
    routes: dict[str, RouteStats] = {}  # by "owner/name"
    refused: dict[str, int] = {}  # before a deployment was known, by error code
    vitals: Vitals = msgspec.field(default_factory=Vitals)

    def is_live(self, now_ms: float) -> bool:
        """Whether what is of the moment (ongoing requests, vitals) can still be true."""
        return now_ms - self.at_ms < 3 * HEARTBEAT_S * 1000


_decode = msgspec.msgpack.Decoder(WorkerStats).decode


def path_of(folder: Path, slot: int) -> Path:
    return folder / f"worker-{slot}.stats"


encode = msgspec.msgpack.Encoder().encode
"""What `replace` takes, of `WorkerStats`."""


def write(folder: Path, stats: WorkerStats) -> None:
    """Replace the slot's file. Not fsynced: it lives as long as the platform runs."""
    replace(folder, stats.slot, encode(stats))


def replace(folder: Path, slot: int, encoded: bytes) -> None:
    """As `write`. A disk with much to do may take a tenth of a second for it."""
    path = path_of(folder, slot)
    fresh = path.with_suffix(".stats-new")
    fresh.write_bytes(encoded)
    fresh.replace(path)


def begin(folder: Path, slot: int, epoch: int) -> WorkerStats:
    """The counters that a worker goes on with. Nothing of its predecessor is ongoing."""
    before = read(path_of(folder, slot))
    if before is None:
        return WorkerStats(slot, epoch)
    before.epoch = epoch
    for route in before.routes.values():
        route.ongoing, route.started_ms = 0, 0.0
    return before


def read(path: Path) -> WorkerStats | None:
    """None for what is no such file, or one of a release with other buckets."""
    try:
        found = _decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
    durations, sizes = len(LATENCY_MS) + 1, len(BATCH_ROWS) + 1
    fit = len(found.vitals.journal_sync.counts) == durations and all(
        len(target.request.counts) == len(target.queue.counts) == durations
        and len(target.compute.counts) == durations
        and len(target.batch.counts) == sizes
        for route in found.routes.values()
        for target in route.targets.values()
    )
    return found if fit else None


def read_all(folder: Path, but: int | None = None) -> list[WorkerStats]:
    """Every slot's last written counters, without slot `but`; a file that cannot be read is
    passed over."""
    skipped = None if but is None else path_of(folder, but)
    paths = [path for path in sorted(folder.glob("worker-*.stats")) if path != skipped]
    return [found for path in paths if (found := read(path)) is not None]


def quantile(counts: Sequence[int], q: float, bounds: Sequence[float] = LATENCY_MS) -> float | None:
    """The q-quantile of a histogram's counts, linear within its bucket; None without counts.

    What lies above the last bound is given as that bound.
    """
    total = sum(counts)
    if total == 0:
        return None
    wanted, below = q * total, 0
    for i, count in enumerate(counts):
        if count and below + count >= wanted:
            if i == len(bounds):
                break
            low = bounds[i - 1] if i else 0.0
            return low + (bounds[i] - low) * (wanted - below) / count
        below += count
    return float(bounds[-1])


def total(parts: Iterable[Histogram], size: int = len(LATENCY_MS) + 1) -> Histogram:
    """The sum of histograms over the same bounds."""
    whole = Histogram([0] * size)
    for part in parts:
        whole.counts = [a + b for a, b in zip(whole.counts, part.counts, strict=True)]
        whole.sum += part.sum
    return whole
