"""serve.stats"""

from bisect import bisect_left
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.serve import stats
from meuse.serve.stats import LATENCY_MS, RouteStats, TargetStats, WorkerStats


def test_a_successor_goes_on_with_the_counters(tmp_path: Path) -> None:
    """Counters survive the worker; what was ongoing ended with it."""
    route = RouteStats(ongoing=3, started_ms=300.0, done_ms=7.0, targets={"m:1": TargetStats(ok=5)})
    route.targets["m:1"].request.add(2.0)
    stats.write(tmp_path, WorkerStats(0, 1, 99.0, {"a/m": route}, {"unauthenticated": 2}))
    after = stats.begin(tmp_path, 0, 2)
    assert (after.epoch, after.routes["a/m"].ongoing, after.routes["a/m"].started_ms) == (2, 0, 0)
    assert (after.routes["a/m"].done_ms, after.routes["a/m"].targets["m:1"].ok) == (7.0, 5)
    assert after.routes["a/m"].targets["m:1"].request.count == 1
    assert after.refused == {"unauthenticated": 2}


def test_every_slot_is_read_and_damage_is_passed_over(tmp_path: Path) -> None:
    """One file per slot; a damaged one does not hide the others, nor stop its next worker."""
    for slot in (0, 1):
        stats.write(tmp_path, WorkerStats(slot, 7))
    (tmp_path / "worker-2.stats").write_bytes(b"\x93nonsense")
    assert [worker.slot for worker in stats.read_all(tmp_path)] == [0, 1]
    assert stats.begin(tmp_path, 2, 8) == WorkerStats(2, 8)


def test_counters_of_a_release_with_other_buckets_are_not_mixed_in(tmp_path: Path) -> None:
    """They begin anew, rather than break every sum."""
    route = RouteStats(targets={"m:1": TargetStats(ok=5)})
    route.targets["m:1"].queue.counts = [0, 1]
    stats.write(tmp_path, WorkerStats(0, 1, routes={"a/m": route}))
    stats.write(tmp_path, WorkerStats(1, 1))
    assert [worker.slot for worker in stats.read_all(tmp_path)] == [1]
    assert stats.begin(tmp_path, 0, 2) == WorkerStats(0, 2)


def test_the_area_is_the_integral_of_ongoing_requests() -> None:
    """Two requests of 4 and 6 ms that overlap: 10 request-milliseconds, at any later time."""
    route = RouteStats()
    for start in (100.0, 102.0):
        route.ongoing += 1
        route.started_ms += start
    assert route.area(103.0) == 4.0
    route.ongoing, route.started_ms, route.done_ms = 1, 102.0, 4.0
    assert route.area(106.0) == 8.0
    route.ongoing, route.started_ms, route.done_ms = 0, 0.0, 10.0
    assert route.area(5000.0) == 10.0


@given(st.lists(st.floats(0, 70_000), min_size=1), st.floats(0.01, 0.99))
def test_quantiles_lie_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    """The estimate and the true quantile are within the same bucket."""
    histogram = stats.durations()
    for value in values:
        histogram.add(value)
    found = stats.quantile(histogram.counts, q)
    assert found is not None
    rank = next(k for k in range(1, len(values) + 1) if k >= q * len(values))
    bucket = bisect_left(LATENCY_MS, sorted(values)[rank - 1])
    if bucket == len(LATENCY_MS):
        assert found == LATENCY_MS[-1]
    else:
        assert (0.0, *LATENCY_MS)[bucket] <= found <= LATENCY_MS[bucket]
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))


def test_no_counts_have_no_quantile() -> None:
    """Nothing measured is not a latency of zero."""
    assert stats.quantile(stats.durations().counts, 0.95) is None
