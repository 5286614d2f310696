"""Which queued jobs start now. Pure: knows no database, no process and no clock.

Between tenants it is fair: the next job is of the tenant with the fewest running, then of the
one that was served longest ago. Priority orders a tenant's own jobs and nothing else, so that
nobody gets ahead of others by saying "high".
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from meuse.core.nouns import PRIORITIES, QueuedJob

UNKNOWN_BYTES = 512 << 20
"""What a job without an estimate is taken to need: a process with torch and small data."""

OVERTAKEN_MS = 600_000
"""How long smaller jobs may overtake one that waits for memory. Then all wait for it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`concurrency` jobs at once, `memory_bytes` of all together, `running_per_tenant` of one
    tenant (0: no limit of its own)."""

    concurrency: int
    memory_bytes: int
    running_per_tenant: int = 0


def need(job: QueuedJob) -> int:
    """The memory (bytes) that is kept for it."""
    return UNKNOWN_BYTES if job.estimate_bytes is None else job.estimate_bytes


def in_turn(
    queued: Iterable[QueuedJob], running: Iterable[QueuedJob], served: Mapping[str, int]
) -> Iterator[QueuedJob]:
    """Queued jobs in the order of their turn, each taken to run from its turn on.

    `served` is when a job of each tenant was last started (ms); missing: never.
    """
    count = Counter(job.tenant for job in running)
    mine: dict[str, list[QueuedJob]] = {}
    for job in queued:
        mine.setdefault(job.tenant, []).append(job)
    for jobs in mine.values():
        jobs.sort(key=lambda j: (PRIORITIES.index(j.priority), j.id), reverse=True)

    def turn(tenant: str, last: int) -> tuple[int, int, str, str]:
        return count[tenant], last, mine[tenant][-1].id, tenant

    turns = [turn(tenant, served.get(tenant, 0)) for tenant in mine]
    heapq.heapify(turns)
    # Later than every time that is known: who was just picked is served last.
    now = max(served.values(), default=0) + 1
    while turns:
        *_, tenant = heapq.heappop(turns)
        yield mine[tenant].pop()
        count[tenant] += 1
        now += 1
        if mine[tenant]:
            heapq.heappush(turns, turn(tenant, now))


def next_jobs(
    queued: Iterable[QueuedJob],
    running: Iterable[QueuedJob],
    served: Mapping[str, int],
    limits: Limits,
    now_ms: int,
) -> list[QueuedJob]:
    """The jobs to start now, beside those that run.

    One that does not fit in the memory left is overtaken by smaller ones for a while; one that
    is larger than all memory starts when nothing else runs, and its own limit judges it.
    """
    running = list(running)
    count = Counter(job.tenant for job in running)
    memory = limits.memory_bytes - sum(need(job) for job in running)
    chosen: list[QueuedJob] = []
    for job in in_turn(queued, running, served):
        if len(running) + len(chosen) >= limits.concurrency:
            break
        if limits.running_per_tenant and count[job.tenant] >= limits.running_per_tenant:
            continue
        if need(job) > memory and (running or chosen):
            if now_ms - job.created_ms > OVERTAKEN_MS:
                break
            continue
        chosen.append(job)
        count[job.tenant] += 1
        memory -= need(job)
    return chosen
