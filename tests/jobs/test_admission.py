"""jobs.admission: whose turn it is, and what fits"""

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.nouns import PRIORITIES, QueuedJob
from meuse.jobs.admission import OVERTAKEN_MS, Limits, in_turn, need, next_jobs

GB = 1 << 30
WIDE = Limits(concurrency=100, memory_bytes=1 << 50)


def job(number: int, tenant: str = "a", priority: str = "normal", gb: float = 1) -> QueuedJob:
    return QueuedJob(f"job-{number:04}", 1, tenant, priority, 0, int(gb * GB))


def order(queued, running=(), served=None) -> list[int]:
    return [int(j.id[4:]) for j in in_turn(queued, running, served or {})]


def chosen(queued, running=(), limits=WIDE, served=None, now_ms=0) -> list[int]:
    return [int(j.id[4:]) for j in next_jobs(queued, running, served or {}, limits, now_ms)]


def test_priorities_order_a_tenants_own_jobs() -> None:
    """High before normal before low, the older first among equals."""
    queued = [job(1, priority="low"), job(2), job(3, priority="high"), job(4)]
    assert order(queued) == [3, 2, 4, 1]


def test_no_priority_overtakes_another_tenant() -> None:
    """A tenant with a hundred urgent jobs and one with a single patient one take turns."""
    queued = [*(job(n, "greedy", "high") for n in range(100)), job(100, "modest", "low")]
    assert order(queued).index(100) == 1


def test_whoever_runs_least_is_next_then_whoever_waited_longest() -> None:
    """Running jobs count first; among equals the one that was served longest ago."""
    queued = [job(1, "a"), job(2, "b"), job(3, "c")]
    assert order(queued, [job(9, "a")]) == [2, 3, 1]
    assert order(queued, served={"a": 30, "b": 20, "c": 10}) == [3, 2, 1]
    assert order(queued, served={"a": 30, "b": 20}) == [3, 2, 1]


def test_concurrency_counts_what_runs() -> None:
    """Never more at once than allowed."""
    queued = [job(n) for n in range(5)]
    assert chosen(queued, [job(9)], replace(WIDE, concurrency=3)) == [0, 1]
    assert chosen(queued, [job(9)], replace(WIDE, concurrency=1)) == []


def test_a_tenants_quota_leaves_room_for_others() -> None:
    """A tenant at its quota is passed over, and its jobs wait."""
    queued = [*(job(n, "greedy") for n in range(3)), job(5, "modest")]
    limits = Limits(4, 1 << 50, running_per_tenant=2)
    assert chosen(queued, limits=limits) == [0, 5, 1]
    assert chosen(queued, [job(8, "greedy"), job(9, "greedy")], limits) == [5]


def test_a_job_waits_for_memory_and_is_overtaken_for_a_while() -> None:
    """What does not fit waits; smaller ones pass, until it has waited long enough."""
    queued, running = [job(1, gb=6), job(2, gb=2)], [job(9, gb=4)]
    limits = Limits(4, 8 * GB)
    assert chosen(queued, running, limits) == [2]
    assert chosen(queued, running, limits, now_ms=OVERTAKEN_MS + 1) == []
    assert chosen(queued, [], limits, now_ms=OVERTAKEN_MS + 1) == [1, 2]


def test_a_job_that_fits_nowhere_runs_alone() -> None:
    """When settings have shrunk below a queued job, it starts once nothing else runs."""
    assert chosen([job(1, gb=99)], [job(9)], Limits(4, 8 * GB)) == []
    assert chosen([job(1, gb=99), job(2)], [], Limits(4, 8 * GB)) == [1]


jobs = st.builds(
    lambda n, tenant, priority, gb: replace(job(0, tenant, priority), id=f"job-{n}",
                                            estimate_bytes=gb),
    st.integers(0, 10**6), st.sampled_from("abcd"), st.sampled_from(PRIORITIES),
    st.none() | st.integers(0, 4 * GB),
)  # fmt: skip
some = st.lists(jobs, max_size=12, unique_by=lambda j: j.id)


@settings(max_examples=200, deadline=None)
@given(some, some, st.integers(1, 6), st.integers(0, 3), st.integers(1, 9))
def test_limits_hold_and_the_machine_is_not_left_idle(queued, running, at_once, each, gb) -> None:
    """No limit is passed by what is started; when nothing runs, something starts."""
    limits = Limits(at_once, gb * GB, each)
    started = next_jobs(queued, running, {}, limits, 0)
    assert len({j.id for j in started}) == len(started)
    assert {j.id for j in started} <= {j.id for j in queued}
    together = [*running, *started]
    if started:
        assert len(together) <= at_once
        if len(together) > 1:
            assert sum(map(need, together)) <= limits.memory_bytes
        if each:
            counts = Counter(j.tenant for j in together)
            assert all(counts[j.tenant] <= each for j in started)
    if queued and not running:
        assert started


@settings(deadline=None)
@given(some, some, st.dictionaries(st.sampled_from("abcd"), st.integers(0, 99)))
def test_every_job_has_one_turn(queued, running, served) -> None:
    """The order is a permutation, and keeps each tenant's own order."""
    turns = list(in_turn(queued, running, served))
    assert sorted(j.id for j in turns) == sorted(j.id for j in queued)
    for tenant in "abcd":
        own = [j for j in turns if j.tenant == tenant]
        assert own == sorted(own, key=lambda j: (PRIORITIES.index(j.priority), j.id))
